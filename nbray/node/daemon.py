"""The node daemon: leases in, commands out.

Called by:  node.start, the composition root.
Imports:    core.{scheduler,workers}, store.server, events.log, node.*, transport, wire.
Never:      decides (core does), blocks its loop, unpickles.

One asyncio loop serves the driver, the workers and the zygote. Every message ends in a method of a
pure machine; the commands it returns are performed here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nbray.core import lease_requests, worker_process
from nbray.core.scheduler import Scheduler
from nbray.core.workers import WorkerPool
from nbray.events.schema import NODE, WORKER
from nbray.model.errors import ProtocolError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.model.resources import CPU, UNIT
from nbray.node.actors import ActorHost
from nbray.node.burials import Burials
from nbray.node.control_plane import ControlPlane
from nbray.node.describing import Describing
from nbray.node.event_feed import EventFeed
from nbray.node.leases import Leases
from nbray.node.pushed_errors import PushedErrors
from nbray.node.relieving import Relieving
from nbray.node.snapshot import snapshot
from nbray.node.storage import available_memory, spill_plan
from nbray.node.watching import Watching
from nbray.node.workers import WorkerExit, WorkerHandle, Workers
from nbray.store.arena import Arena
from nbray.store.budget import MemoryBudget
from nbray.store.server import StoreServer
from nbray.transport import linux
from nbray.transport.aio import Peer, attach
from nbray.transport.sockets import tuned
from nbray.transport.supervision import Supervisor
from nbray.wire.base import Message
from nbray.wire.cancel_messages import CancelOf
from nbray.wire.inline_messages import InlineDeclined
from nbray.wire.messages import (
    Advice,
    EventBatch,
    GetStatus,
    Hello,
    LogLines,
    PutFunction,
    Shutdown,
    StartNode,
    Status,
    Stopped,
    WorkerLost,
)

#: Worker processes at most: this per CPU, and some for nested tasks that block.
_WORKERS_PER_CPU = 4
_WORKERS_EXTRA = 16
#: So many times as many, where nothing could go on without another one (``core.inlining``).
_IN_NEED = 8
_PRESTARTED_MAX = 16
_IDLE_WORKER_S = 60.0
_START_DEADLINE_S = 30.0
_TICK_S = 5.0
_COOL_BYTES = 256 * 1024 * 1024


class NodeDaemon:
    """Everything that one node decides and owns. Its methods run on the loop."""

    def __init__(self, start: StartNode, arena: Arena, budget: MemoryBudget, control: ControlPlane) -> None:
        self.start = start
        self._session_dir = Path(start.session_dir)
        self._arena = arena
        self._budget = budget
        self.control = control
        control.on_event = self._on_control_event
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self.supervisor = Supervisor(self._on_crash)
        self._driver: Peer | None = None
        self.driver_id = b""
        cpus = max(1, start.resources.get(CPU, 0) // UNIT)
        self.scheduler = Scheduler(start.resources)
        cap = _WORKERS_PER_CPU * cpus + _WORKERS_EXTRA
        self.pool = WorkerPool(min(cpus, _PRESTARTED_MAX), cap, _IN_NEED * cap)
        self.leases = Leases(self)
        self.relieving = Relieving(
            self.pool, self.scheduler.owner_of, self.send_to, self.leases.perform_pool, self.tell_people
        )
        self.events = EventFeed(start.node_id, control.publish_events, self._loop.call_later)
        self._burials = Burials()
        self.workers = Workers(
            self._session_dir, self._on_message, self._on_worker_exit, self._on_worker_lines,
            lambda: {control.redis_pid},
        )  # fmt: skip
        self._store = StoreServer(
            start.node_id, arena, available_memory(start.store, budget), self.send_to,
            self.supervisor.run_in_thread, self._loop.call_later, writers_back=not start.store.huge_pages,
            plan=spill_plan(start.store, start.session_dir), tell=self.tell_people,
            moved=self.events.object_moved,
        )  # fmt: skip
        self._describing = Describing(
            start.node_id, self._processes, self.send_to, self._loop.call_later, self._store.overview,
            self._store.stats,
        )  # fmt: skip
        self.errors = PushedErrors(start.job_id, self._tell_driver, self._loop.call_later, cpus)
        self.actors = ActorHost(
            self.leases, self.workers, self.scheduler, self.pool, self.events, start.resources, self.send_to,
            lambda: self.driver_id, self._loop.call_later, self._session_dir, self.errors.push,
        )  # fmt: skip
        self.watching = Watching(
            budget, start.memory_threshold, self.scheduler, self.pool, lambda: self.workers,
            self.events.log, self._processes, self._store.state_of, lambda: self.driver_id, self.send_to,
            self._loop.call_later, lambda: self._store.cool(_COOL_BYTES), self.leases.find_worker,
            self.actors.lives, self.actors.name_in, self.actors.stake,
        )  # fmt: skip
        self._handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            **self._describing.handlers,
            **self.actors.handlers,
            **self.errors.handlers,
            **self.watching.handlers,
            **self.leases.handlers,
            Hello: self._on_hello,
            CancelOf: lambda _peer, m: self.send_to(m.owner, m),
            InlineDeclined: lambda _peer, m: self.relieving.on_declined(m),
            PutFunction: self._on_put_function,
            LogLines: self._on_log_lines,
            EventBatch: self._on_event_batch,
            GetStatus: lambda peer, m: peer.send(Status(m.request_id, self.status())),
            Shutdown: self._on_shutdown,
        }

    # --- life ----------------------------------------------------------------------------------------

    async def run(self, driver: socket.socket) -> None:
        """Serve until the driver goes or asks for the end; nothing is left then."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGCHLD, self.workers.reap)
        for sig in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(sig, self._stopped.set)
        self.workers.zygote.serve(loop, self.workers.forked, self._on_zygote_lost)
        self.workers.reap()  # who ended before there was a handler
        self._driver = await attach(tuned(driver), self._on_message, self._on_driver_lost)
        self._driver.role = "driver"
        pidfd = self._watch_driver()
        self.control.run(self.supervisor)
        self.control.publish_node(self.start.resources, self._arena.capacity_bytes)
        self.control.publish_job("running")
        self.events.record(NODE, self.start.node_id, "up", "local")
        commands: list[worker_process.Command] = []
        self.pool.warm_up(commands)
        self.leases.perform_pool(commands)
        loop.call_later(_TICK_S, self._tick)
        self.watching.begin()
        try:
            await self._stopped.wait()
        finally:
            if pidfd >= 0:
                loop.remove_reader(pidfd)
                os.close(pidfd)
            await self._end()

    def _watch_driver(self) -> int:
        """A child that the driver forked may keep our socket open: watch the process itself, too."""
        pid = self.start.driver_pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._stopped.set()
            return -1
        if linux.start_time_of(pid) != self.start.driver_start_ticks:
            self._stopped.set()
        self._loop.add_reader(pidfd, self._stopped.set)
        return pidfd

    async def _end(self) -> None:
        """Stop children, wait, kill, remove the session directory."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        ended = sum(not linux.is_zombie(pid) for pid in linux.descendants_of(os.getpid()))
        await self.supervisor.close()
        self.workers.zygote.close()
        self.workers.close()
        self._store.close()
        self.control.stop()
        linux.kill_all_descendants()
        if self._driver is not None:
            self._driver.send(Stopped(ended))
            self._driver.close()
            await asyncio.sleep(0)  # lets the last words leave
        shutil.rmtree(self._session_dir, ignore_errors=True)

    def _on_crash(self, name: str, crash: BaseException) -> None:
        """A background task failed: that is a bug. Say it loudly and go on without it."""
        text = "".join(traceback.format_exception(crash))
        (self._session_dir / "logs" / "daemon-crash.log").write_text(f"{name}\n{text}")
        self.tell_people(f"nbray: the node daemon's {name} failed: {crash!r}")

    def _on_zygote_lost(self, text: str) -> None:
        """No worker can be forked any more: whoever waits for one must hear why."""
        self.events.record(NODE, self.start.node_id, "zygote lost", "local")
        self.tell_people(f"nbray: {text}")
        self.leases.fail_waiting(text)

    def _tell_driver(self, message: Message) -> None:
        if self._driver is not None:
            self._driver.send(message)

    def tell_people(self, text: str) -> None:
        self._tell_driver(LogLines(b"", os.getpid(), "nbray", "stderr", 0, "", text.splitlines()))

    def _tick(self) -> None:
        """Every few seconds: idle workers go, late ones are killed, free memory cools."""
        commands, now_s = list[worker_process.Command](), time.monotonic()
        self.pool.trim(now_s, _IDLE_WORKER_S, commands, self.scheduler.owners())
        self.pool.expire_starts(now_s, _START_DEADLINE_S, commands)
        self.leases.perform_pool(commands)
        self._store.recall_idle_slabs()
        if self._store.stats()["used_bytes"] == 0:
            self._store.cool(_COOL_BYTES)
        self._loop.call_later(_TICK_S, self._tick)

    # --- messages --------------------------------------------------------------------------------------

    def _on_message(self, peer: Peer, message: Message) -> None:
        handler = self._handlers.get(type(message))
        try:
            if handler is not None:
                handler(peer, message)
            elif self._store.handle(peer.process_id, message):
                self.events.record_object(message)
            else:
                raise ProtocolError(
                    f"A {peer.role} sent {type(message).__name__}, which is not for a daemon."
                )
        except ProtocolError as exc:
            self.tell_people(f"nbray: closed the connection of a {peer.role}: {exc}")
            peer.close()

    def send_to(self, process_id: bytes, message: Message) -> None:
        if process_id == self.driver_id:
            self._tell_driver(message)
        elif process_id in self.workers.handles:
            self.workers.handles[process_id].send(message)

    def _on_hello(self, peer: Peer, message: Hello) -> None:
        if message.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"it speaks protocol {message.protocol}, this daemon {PROTOCOL_VERSION}.")
        if message.role == "driver":
            peer.process_id = self.driver_id = message.process_id
            return
        commands: list[worker_process.Command] = []
        handle = self.workers.handles.get(peer.process_id)
        if handle is None or not self.pool.registered(
            peer.process_id, message.pid, time.monotonic(), commands
        ):
            peer.close()
            return
        handle.ready = True
        self.events.record(WORKER, peer.process_id, "idle", "")
        self.leases.perform_pool(commands)

    def _on_driver_lost(self, _peer: Peer) -> None:
        self._driver = None
        self._stopped.set()

    def _on_shutdown(self, _peer: Peer, _message: Shutdown) -> None:
        self._stopped.set()

    # --- workers end ---------------------------------------------------------------------------------------

    def _on_worker_exit(self, ended: WorkerExit) -> None:
        process_id = ended.handle.process_id
        pool_commands: list[worker_process.Command] = []
        commands: list[lease_requests.Command] = []
        lease_id = self.pool.lost(process_id, pool_commands)
        owner = self.scheduler.owner_of(lease_id) if lease_id is not None else None
        if lease_id is not None:
            self.scheduler.ended(lease_id, commands)
        # Its own children's work has no owner any more: their workers go with it.
        doomed = []
        for orphaned in self.scheduler.owner_lost(process_id, commands):
            worker = self.pool.worker_of(orphaned)
            if worker is None:
                self.pool.abandon(orphaned)
            else:
                doomed.append(worker)
                self.workers.kill(worker)
        running = self.events.log.running_in(process_id)
        ran = running[0].name if running else ""
        self.events.log.forget(process_id)
        self.events.record(WORKER, process_id, "dead", "")
        self.actors.process_lost(process_id)
        self._burials.begin(
            process_id,
            doomed,
            partial(self._bury, ended, lease_id, owner, ran),
        )
        self._burials.gone(process_id)
        self.leases.perform_pool(pool_commands)
        self.leases.perform(commands)

    def _bury(self, ended: WorkerExit, lease_id: bytes | None, owner: bytes | None, ran: str) -> None:
        """Nothing runs any more for the sake of this process."""
        cause, facts = self.watching.cause_of(ended, owner)
        if not self.actors.lost(ended, cause, facts, ran) and lease_id is not None and owner is not None:
            lost = WorkerLost(
                lease_id, ended.handle.process_id, ended.handle.pid, ended.exit_code, ended.term_signal,
                ended.stderr_tail, ended.why, cause, facts,
            )  # fmt: skip
            self.send_to(owner, lost)
        self._store.process_lost(ended.handle.process_id)

    # --- functions, logs, events, status -------------------------------------------------------------

    def _on_put_function(self, _peer: Peer, message: PutFunction) -> None:
        advice = self.control.publish_function(message)
        if advice:
            self._tell_driver(Advice(advice))

    def _on_log_lines(self, peer: Peer, message: LogLines) -> None:
        handle = self.workers.handles.get(peer.process_id)
        if handle is not None:
            handle.log.write(message.stream, message.lines)
        self._tell_driver(message)

    def _on_worker_lines(self, handle: WorkerHandle, stream: str, lines: list[str]) -> None:
        handle.log.write(stream, lines)
        lines = handle.shown.of(lines) if stream == "stderr" else lines
        if lines:
            self._tell_driver(LogLines(handle.process_id, handle.pid, "", stream, 0, "", lines))

    def _on_event_batch(self, peer: Peer, message: EventBatch) -> None:
        self.events.received(peer.process_id, message)

    def _on_control_event(self, state: str, text: str) -> None:
        self.events.record(NODE, self.start.node_id, state, "local")
        if state == "redis lost":
            self.tell_people(f"nbray: {text}")

    def status(self) -> dict[str, Any]:
        """A snapshot, plain data; ``observe.status`` makes it readable."""
        self.events.flush()
        return snapshot(
            self.start, self.scheduler.snapshot(), self.pool.snapshot(), self._store.stats(),
            self.events.log, self.control, self.workers, self.actors.counts(),
        )  # fmt: skip

    def _processes(self) -> dict[bytes, int]:
        """Those that can be asked something, with their PIDs."""
        workers = {handle.process_id: handle.pid for handle in self.workers.handles.values() if handle.ready}
        return {self.driver_id: self.start.driver_pid, **workers}
