"""Talking to the node daemon that this driver started: a greeting first, a farewell last.

Called by:  api.session.
Imports:    cluster.starting, runtime.process, store.mapping, transport.
Never:      imports nbray.node; puts a secret on a command line or into the environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable

from nbray.cluster.starting import STOP_DEADLINE_S, StartingDaemon, own_path
from nbray.model.errors import RayConnectionError, RedisNotFoundError, SessionStartError
from nbray.model.ids import NODE_ID_BYTES, PROCESS_ID_BYTES
from nbray.model.limits import PROTOCOL_VERSION
from nbray.model.store_plan import StorePlan
from nbray.runtime.context import Place, new_context
from nbray.runtime.process import Process
from nbray.runtime.waiting import Waiter
from nbray.store.mapping import Mapping
from nbray.transport import linux
from nbray.transport.sockets import receive_with_descriptors, tuned
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import (
    Hello,
    LogLines,
    Shutdown,
    StartFailed,
    StartNode,
    Stopped,
    Welcome,
)

START_DEADLINE_S = 20.0
_SHUT_DOWN = "The session was shut down. Call nbray.init() to start another."


class LocalCluster:
    """An embedded cluster of one node, which lives as long as this driver.

    Args:
        starting: its daemon, which boots; it belongs to the cluster from now on.
        resources: in units of 1e-4.
        store: how objects are kept.
        job_id: of the driver's work; None for a new one.

    Raises:
        RedisNotFoundError, SessionStartError: it did not come up; nothing is left.
    """

    def __init__(
        self,
        starting: StartingDaemon,
        resources: dict[str, int],
        store: StorePlan,
        on_log: Callable[[LogLines], None] | None,
        on_warning: Callable[[str], None] | None,
        job_id: bytes | None = None,
        *,
        memory_threshold: float = 1.0,
        task_timeout_s: float = 0.0,
    ) -> None:
        self._daemon = starting
        self.session = starting.session
        self._resources = resources
        self._store = store
        self._memory_threshold = memory_threshold
        self._task_timeout_s = task_timeout_s
        self._stopped_processes = 0
        self._gone = Waiter()
        self._driver_pid = os.getpid()
        self.job_id = os.urandom(PROCESS_ID_BYTES) if job_id is None else job_id
        try:
            self.process = self._join(starting.socket, on_log, on_warning)
        except BaseException:
            starting.abandon()
            raise

    # --- starting ----------------------------------------------------------------------------------

    def _join(
        self,
        sock: socket.socket,
        on_log: Callable[[LogLines], None] | None,
        on_warning: Callable[[str], None] | None,
    ) -> Process:
        with contextlib.suppress(ConnectionError):  # it ended already: then there is no answer either
            sock.sendall(encode(self._start_message()))
        welcome, arena_fd = self._await_welcome(sock)
        process_id = os.urandom(PROCESS_ID_BYTES)
        mapping = Mapping(arena_fd, welcome.store_capacity_bytes)
        os.close(arena_fd)
        process = Process(
            process_id=process_id,
            job_id=self.job_id,
            endpoint="",
            welcome=welcome,
            mapping=mapping,
            context=new_context(self.job_id, process_id, 0, "driver", Place("", 0)),
            on_log=on_log,
            on_warning=on_warning,
        )
        self.process = process
        process.attach(process.loop.add(tuned(sock), "node daemon", self._on_message, self._on_daemon_gone))
        with process.loop.lock:
            process.tell_daemon(Hello(PROTOCOL_VERSION, "driver", process_id, os.getpid(), self.job_id, ""))
        return process

    def _start_message(self) -> StartNode:
        ticks = linux.start_time_of(os.getpid())
        return StartNode(
            protocol=PROTOCOL_VERSION,
            cluster_id=self.session.path.name.removeprefix("nbray-"),
            session_dir=str(self.session.path),
            token=self.session.token,
            node_id=os.urandom(NODE_ID_BYTES),
            node_incarnation=1,
            resources=self._resources,
            store=self._store,
            redis_kind=self._daemon.redis.kind,
            redis_location=self._daemon.redis.location,
            redis_origin=self._daemon.redis.origin,
            driver_pid=os.getpid(),
            driver_start_ticks=ticks or 0,
            sys_path=own_path(),
            job_id=self.job_id,
            entrypoint=" ".join(sys.argv)[:200],
            cwd=os.getcwd(),
            umask=linux.umask_of(os.getpid()),
            memory_threshold=self._memory_threshold,
            task_timeout_s=self._task_timeout_s,
        )

    def _await_welcome(self, sock: socket.socket) -> tuple[Welcome, int]:
        deadline_s = time.monotonic() + START_DEADLINE_S
        buffer = bytearray()
        messages: list[Message] = []
        descriptors: list[int] = []
        poll = select.poll()  # select() would refuse descriptors above 1023
        poll.register(sock, select.POLLIN)
        while not messages:
            ready = poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000)
            data, received = b"", list[int]()
            with contextlib.suppress(ConnectionError):  # as good as an end: it did not read what we sent
                data, received = receive_with_descriptors(sock, 64 * 1024, 1) if ready else (b"", [])
            descriptors += received
            if not data:
                raise SessionStartError(self._start_failure(bool(ready)))
            buffer += data
            decode_buffer(buffer, messages)
        message = messages[0]
        if isinstance(message, StartFailed):
            kind = {"RedisNotFoundError": RedisNotFoundError}.get(message.kind, SessionStartError)
            raise kind(message.text)
        if not isinstance(message, Welcome) or not descriptors:
            raise SessionStartError("The node daemon answered with something else than a greeting.")
        return message, descriptors[0]

    def _start_failure(self, ended: bool) -> str:
        how = "ended while it started" if ended else f"did not come up within {START_DEADLINE_S:g} s"
        tail = (self.session.path / "logs" / "daemon.log").read_text(errors="replace")[-2000:].strip()
        return f"The node daemon {how}." + (f" The end of its log:\n{tail}" if tail else "")

    # --- ending --------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        if isinstance(message, Stopped):
            self._stopped_processes = message.processes
        else:
            self.process.on_daemon_message(message)

    def _on_daemon_gone(self) -> None:
        """Lock held."""
        if self.process.failure is None:
            self.process.loop.later.append(self._on_daemon_died)
        self.process.on_daemon_lost()
        self._gone.complete()

    def _on_daemon_died(self) -> None:
        """Do not wait for ``stop`` to end what it left behind."""
        self._daemon.end_survivors()

    def stop(self) -> int:
        """End everything that this cluster started; returns how many processes that were.

        Idempotent, and inert in a forked child of the driver.
        """
        if os.getpid() != self._driver_pid:
            return 0
        process = self.process
        with process.loop.guard:
            with process.loop.lock:
                if process.failure is None:
                    process.failure = RayConnectionError(_SHUT_DOWN)
                process.tell_daemon(Shutdown())
            process.loop.wait(self._gone, time.monotonic() + STOP_DEADLINE_S)
            process.detach()
            mapping = process.objects.mapping
            if mapping is not None:
                mapping.close()
            self._daemon.bury()
            self.session.release()
        return self._stopped_processes + 1

    def abandon(self) -> None:
        """In a forked child of the driver: let go of the session without a word to anybody."""
        self.session.abandon()

    def is_other_process(self) -> bool:
        """Whether this is a forked child of the driver that started it."""
        return os.getpid() != self._driver_pid

    @property
    def pid(self) -> int:
        """Of the node daemon."""
        return self._daemon.pid
