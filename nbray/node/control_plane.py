"""The daemon's side of Redis: what it publishes there, and keeping an embedded one alive.

Called by:  node.daemon.
Imports:    nbray.control, core.definitions.
Never:      stands on the path of a task; nothing here is awaited by one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

from nbray.control.client import ControlClient
from nbray.control.config import USER, key_prefix
from nbray.control.records import EventRecord, FunctionRecord, JobRecord, NodeRecord, StampSource
from nbray.control.secrets import redis_password, redis_values_key
from nbray.control.server import EmbeddedRedis
from nbray.control.supervisor import RedisSupervisor
from nbray.control.tables import ControlTables
from nbray.core.definitions import Definitions
from nbray.transport.supervision import Supervisor
from nbray.wire.messages import (
    EventBatch,
    PutFunction,
    StartNode,
)

#: The first holder of the controller role is this node; takeover comes with many nodes.
_FIRST_EPOCH = 1
#: So long after its start the daemon connects to Redis.
_CONNECT_AFTER_S = 0.5


class ControlPlane:
    """Membership, jobs, functions and events in Redis.

    Args:
        redis: the embedded server, started already, or None for one that somebody else runs.

    Attributes:
        on_event: told "redis lost" and "redis back", with a text for people.
    """

    def __init__(self, start: StartNode, redis: EmbeddedRedis | None) -> None:
        self._start = start
        self._redis = redis
        self.on_event: Callable[[str, str], None] = lambda _state, _text: None
        address = redis.socket_path if redis else start.redis_location
        self.address = f"unix://{address}" if redis else address
        self.client = ControlClient(
            address,
            username=USER if redis else "",
            password=redis_password(start.token) if redis else "",
            marker_key=key_prefix(start.cluster_id) + "marker",
        )
        self.tables = ControlTables(
            self.client,
            start.cluster_id,
            values_key=redis_values_key(start.token),
            stamps=StampSource(_FIRST_EPOCH, start.node_incarnation),
        )
        self._functions: dict[bytes, FunctionRecord] = {}
        self._definitions = Definitions()
        self._supervisor: RedisSupervisor | None = None
        self.client.on_reconnect(self._on_reconnect)

    def run(self, supervisor: Supervisor) -> None:
        """Start talking to Redis, in the background."""
        supervisor.spawn("redis client", self._connect())
        if self._redis is not None:
            self._supervisor = RedisSupervisor(
                self._redis,
                on_restart=self._on_restart,
                on_give_up=lambda text: self.on_event("redis lost", text),
            )
            supervisor.spawn("redis supervisor", self._supervisor.run())

    async def _connect(self) -> None:
        # The client's library takes 140 ms of a core to import. The first tasks need that core, and
        # nothing needs Redis: what is published until then waits in the client.
        await asyncio.sleep(_CONNECT_AFTER_S)
        await self.client.run()

    @property
    def restarts(self) -> int:
        return self._supervisor.restarts if self._supervisor else 0

    @property
    def redis_pid(self) -> int:
        return self._redis.pid if self._redis else 0

    def _on_restart(self) -> None:
        self.client.reconnect_now()

    def _on_reconnect(self) -> None:
        # Function code is not kept by the client (it may be large); its text is here all the same.
        for function_id, record in self._functions.items():
            self.tables.functions.publish(function_id, record)
        self.on_event("redis back", "Redis is back; what was in it has been published again.")

    def publish_node(self, resources: dict[str, int], store_capacity_bytes: int) -> None:
        start = self._start
        record = NodeRecord(
            start.node_id, start.node_incarnation, start.session_dir, socket.gethostname(), os.getpid(),
            resources, store_capacity_bytes,
        )  # fmt: skip
        self.tables.nodes.publish(record)

    def publish_job(self, state: str) -> None:
        start = self._start
        self.tables.jobs.publish(
            JobRecord(
                start.job_id,
                start.driver_pid,
                start.entrypoint,
                start.node_id,
                state,
                time.time_ns() // 1_000_000,
            )
        )

    def publish_function(self, message: PutFunction) -> str | None:
        """Keep a function's code. Returns an advice for people, if there is one."""
        if not message.pickled:
            return self._definitions.exported(message.place, message.name)
        record = FunctionRecord(message.name, message.pickled)
        self._functions[message.function_id] = record
        self.tables.functions.publish(message.function_id, record)
        return self._definitions.exported(message.place, message.name)

    def publish_events(self, batch: EventBatch) -> None:
        self.tables.events.append(EventRecord(batch.process_id, batch.dropped, batch.rows))

    def stop(self) -> None:
        if self._redis is not None:
            self._redis.stop()
