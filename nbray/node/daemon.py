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
from nbray.node.snapshot import snapshot
from nbray.node.storage import available_memory, spill_plan
from nbray.node.workers import WorkerExit, WorkerHandle, Workers
from nbray.store.arena import Arena
from nbray.store.budget import MemoryBudget
from nbray.store.server import StoreServer
from nbray.transport import linux
from nbray.transport.aio import Peer, attach
from nbray.transport.sockets import tuned
from nbray.transport.supervision import Supervisor
from nbray.wire.base import Message
from nbray.wire.messages import (
    Advice,
    Blocked,
    CancelLease,
    EventBatch,
    GetStatus,
    Hello,
    JobContext,
    LeaseGranted,
    LeaseInfeasible,
    Leaving,
    LogLines,
    OwnerAddress,
    PutFunction,
    ReclaimLease,
    RequestLease,
    ReturnLease,
    Shutdown,
    StartNode,
    Status,
    Stopped,
    Unblocked,
    WorkerLost,
)

#: Worker processes at most: this per CPU, and some for nested tasks that block (architecture §3).
_BLOCKED_PER_CPU = 4
_BLOCKED_EXTRA = 16
_PRESTARTED_MAX = 16
_IDLE_WORKER_S = 60.0
_START_DEADLINE_S = 30.0
_TICK_S = 5.0
_COOL_BYTES = 256 * 1024 * 1024


class NodeDaemon:
    """Everything that one node decides and owns. Its methods run on the loop."""

    def __init__(self, start: StartNode, arena: Arena, budget: MemoryBudget, control: ControlPlane) -> None:
        self._start = start
        self._session_dir = Path(start.session_dir)
        self._arena = arena
        self._budget = budget
        self.control = control
        control.on_event = self._on_control_event
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._supervisor = Supervisor(self._on_crash)
        self._driver: Peer | None = None
        self._driver_id = b""
        cpus = max(1, start.resources.get(CPU, 0) // UNIT)
        self._scheduler = Scheduler(start.resources)
        self._pool = WorkerPool(min(cpus, _PRESTARTED_MAX), cpus + _BLOCKED_PER_CPU * cpus + _BLOCKED_EXTRA)
        self._events = EventFeed(start.node_id, control.publish_events, self._loop.call_later)
        self._told_stuck = False
        self._burials = Burials()
        self.workers = Workers(
            self._session_dir, self._on_message, self._on_worker_exit, self._on_worker_lines,
            lambda: {control.redis_pid},
        )  # fmt: skip
        self._store = StoreServer(
            start.node_id, arena, available_memory(start.store, budget), self._send_to,
            self._supervisor.run_in_thread, self._loop.call_later, writers_back=not start.store.huge_pages,
            plan=spill_plan(start.store, start.session_dir), tell=self._tell_people,
            moved=self._events.object_moved,
        )  # fmt: skip
        self._describing = Describing(
            start.node_id, self._processes, self._send_to, self._loop.call_later, self._store.overview,
            self._store.stats,
        )  # fmt: skip
        self._actors = ActorHost(
            self, self._scheduler, self._pool, self._events, start.resources, self._send_to,
            lambda: self._driver_id, self._loop.call_later,
        )  # fmt: skip
        self._handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            **self._describing.handlers,
            **self._actors.handlers,
            Hello: self._on_hello,
            RequestLease: self._on_request_lease,
            CancelLease: self._on_cancel_lease,
            ReturnLease: self._on_return_lease,
            Blocked: self._on_blocked,
            Unblocked: self._on_unblocked,
            Leaving: self._on_leaving,
            PutFunction: self._on_put_function,
            LogLines: self._on_log_lines,
            EventBatch: self._on_event_batch,
            GetStatus: self._on_get_status,
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
        self.control.run(self._supervisor)
        self.control.publish_node(self._start.resources, self._arena.capacity_bytes)
        self.control.publish_job("running")
        self._events.record(NODE, self._start.node_id, "up", "local")
        commands: list[worker_process.Command] = []
        self._pool.warm_up(commands)
        self.perform_pool(commands)
        loop.call_later(_TICK_S, self._tick)
        try:
            await self._stopped.wait()
        finally:
            if pidfd >= 0:
                loop.remove_reader(pidfd)
                os.close(pidfd)
            await self._end()

    def _watch_driver(self) -> int:
        """A child that the driver forked may keep our socket open: watch the process itself, too."""
        pid = self._start.driver_pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._stopped.set()
            return -1
        if linux.start_time_of(pid) != self._start.driver_start_ticks:
            self._stopped.set()
        self._loop.add_reader(pidfd, self._stopped.set)
        return pidfd

    async def _end(self) -> None:
        """Stop children, wait, kill, remove the session directory."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        ended = sum(not linux.is_zombie(pid) for pid in linux.descendants_of(os.getpid()))
        await self._supervisor.close()
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
        self._tell_people(f"nbray: the node daemon's {name} failed: {crash!r}")

    def _on_zygote_lost(self, text: str) -> None:
        """No worker can be forked any more: whoever waits for one must hear why."""
        self._events.record(NODE, self._start.node_id, "zygote lost", "local")
        self._tell_people(f"nbray: {text}")
        self._fail_waiting_leases(text)

    def _tell_people(self, text: str) -> None:
        if self._driver is not None:
            self._driver.send(LogLines(b"", os.getpid(), "nbray", "stderr", 0, "", text.splitlines()))

    def _tick(self) -> None:
        """Every few seconds: idle workers go, late ones are killed, free memory cools."""
        commands, now_s = list[worker_process.Command](), time.monotonic()
        self._pool.trim(now_s, _IDLE_WORKER_S, commands, self._scheduler.owners())
        self._pool.expire_starts(now_s, _START_DEADLINE_S, commands)
        self.perform_pool(commands)
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
                self._events.record_object(message)
            else:
                raise ProtocolError(
                    f"A {peer.role} sent {type(message).__name__}, which is not for a daemon."
                )
        except ProtocolError as exc:
            self._tell_people(f"nbray: closed the connection of a {peer.role}: {exc}")
            peer.close()

    def _send_to(self, process_id: bytes, message: Message) -> None:
        if process_id == self._driver_id:
            if self._driver is not None:
                self._driver.send(message)
        elif process_id in self.workers.handles:
            self.workers.handles[process_id].send(message)

    def _on_hello(self, peer: Peer, message: Hello) -> None:
        if message.protocol != PROTOCOL_VERSION:
            raise ProtocolError(f"it speaks protocol {message.protocol}, this daemon {PROTOCOL_VERSION}.")
        if message.role == "driver":
            peer.process_id = self._driver_id = message.process_id
            return
        commands: list[worker_process.Command] = []
        handle = self.workers.handles.get(peer.process_id)
        if handle is None or not self._pool.registered(
            peer.process_id, message.pid, time.monotonic(), commands
        ):
            peer.close()
            return
        handle.ready = True
        self._events.record(WORKER, peer.process_id, "idle", "")
        self.perform_pool(commands)

    def _on_driver_lost(self, _peer: Peer) -> None:
        self._driver = None
        self._stopped.set()

    def _on_shutdown(self, _peer: Peer, _message: Shutdown) -> None:
        self._stopped.set()

    # --- leases ------------------------------------------------------------------------------------------

    def _on_request_lease(self, peer: Peer, m: RequestLease) -> None:
        commands: list[lease_requests.Command] = []
        self._scheduler.request(
            m.lease_id, peer.process_id, m.resources, m.depth, m.backlog, m.name, commands
        )
        self.perform(commands)

    def _on_cancel_lease(self, _peer: Peer, message: CancelLease) -> None:
        commands: list[lease_requests.Command] = []
        if self._scheduler.cancel(message.lease_id, commands):
            self._pool.abandon(message.lease_id)
        self.perform(commands)

    def _on_return_lease(self, peer: Peer, message: ReturnLease) -> None:
        if self._scheduler.owner_of(message.lease_id) == peer.process_id:
            self._end_lease(message.lease_id)

    def _end_lease(self, lease_id: bytes) -> None:
        """The owner is done with it: its worker may serve another."""
        commands: list[lease_requests.Command] = []
        pool_commands: list[worker_process.Command] = []
        process_id = self._pool.worker_of(lease_id)
        # The pool first: the next lease that is admitted finds this worker idle, and warm.
        if process_id is not None:
            self._pool.released(process_id, time.monotonic(), pool_commands)
            self._events.record(WORKER, process_id, "idle")
        else:
            self._pool.abandon(lease_id)
        self._scheduler.ended(lease_id, commands)
        self.perform_pool(pool_commands)
        self.perform(commands)

    def _on_blocked(self, peer: Peer, message: Blocked) -> None:
        if self._pool.serves(peer.process_id) == message.lease_id:
            commands: list[lease_requests.Command] = []
            self._pool.blocked(peer.process_id)
            self._events.record(WORKER, peer.process_id, "blocked")
            self._scheduler.blocked(message.lease_id, commands)
            self.perform(commands)
            self._tell_if_stuck()

    def _tell_if_stuck(self) -> None:
        """No silent hang: nested tasks that wait for each other may need more processes than may be."""
        pool = self._pool.snapshot()
        if pool["waiting_leases"] and pool["blocked"] >= pool["cap"] and not self._told_stuck:
            self._told_stuck = True
            self._tell_people(
                f"nbray: all {pool['blocked']} worker processes wait for tasks that they started, and "
                "no more may be made: this will not end by itself. Nest less deeply, or give init() "
                "more num_cpus (5 processes for each, and 16)."
            )

    def _on_unblocked(self, peer: Peer, message: Unblocked) -> None:
        if self._pool.serves(peer.process_id) == message.lease_id:
            commands: list[lease_requests.Command] = []
            self._pool.unblocked(peer.process_id)
            self._events.record(WORKER, peer.process_id, "leased")
            self._scheduler.unblocked(message.lease_id, commands)
            self.perform(commands)

    def _on_leaving(self, peer: Peer, _message: Leaving) -> None:
        commands: list[worker_process.Command] = []
        lease_id = self._pool.leave(peer.process_id, commands)
        if lease_id is not None:
            self._send_to(self._scheduler.owner_of(lease_id) or b"", ReclaimLease(lease_id))
        self.perform_pool(commands)

    def perform(self, commands: list[lease_requests.Command]) -> None:
        """What the scheduler ordered."""
        pool_commands: list[worker_process.Command] = []
        for command in commands:
            owner = self._scheduler.owner_of(command.lease_id)
            if isinstance(command, lease_requests.Admit):
                self._pool.need(command.lease_id, self._start.job_id, pool_commands)
            elif isinstance(command, lease_requests.Infeasible):
                self._send_to(owner or b"", LeaseInfeasible(command.lease_id, command.text))
            else:
                when_idle = type(command) is lease_requests.Spare
                self._send_to(command.owner, ReclaimLease(command.lease_id, when_idle))
        self.perform_pool(pool_commands)

    def perform_pool(self, commands: list[worker_process.Command]) -> None:
        """What the pool of workers ordered."""
        for command in commands:
            if isinstance(command, worker_process.Assign):
                self._grant(command)
            elif isinstance(command, worker_process.Start):
                for _ in range(command.number):
                    self._supervisor.spawn("worker start", self._start_worker())
            elif isinstance(command, worker_process.Retire):
                self.workers.retire(command.process_id)
            elif isinstance(command, worker_process.Dismiss):
                self.workers.dismiss(command.process_id)
            elif isinstance(command, worker_process.Kill):
                self.workers.kill(command.process_id)
            else:
                self._fail_waiting_leases(
                    f"{command.number} workers in a row died before they were ready; "
                    "the logs folder of the session says more."
                )

    def _grant(self, command: worker_process.Assign) -> None:
        lease_id, start = command.lease_id, self._start
        handle = self.workers.handles[command.process_id]
        owner = self._scheduler.owner_of(lease_id)
        scheduler_commands: list[lease_requests.Command] = []
        if owner is None or not self._scheduler.granted(lease_id, scheduler_commands):
            self._end_lease(lease_id)
            return
        if command.new_to_job:
            handle.send(JobContext(start.job_id, start.sys_path, start.cwd, start.umask))
        address = OwnerAddress(start.node_id, start.node_incarnation, handle.process_id, handle.endpoint)
        if self._actors.is_actors(lease_id):
            self._actors.granted(lease_id, handle)
        else:
            self._send_to(owner, LeaseGranted(lease_id, address, handle.pid))
        self._events.record(WORKER, handle.process_id, "leased")
        self.perform(scheduler_commands)

    async def _start_worker(self) -> None:
        commands: list[worker_process.Command] = []
        try:
            process_id = await self.workers.start()
        except OSError as exc:
            self._pool.start_failed(commands)
            self._tell_people(f"nbray: cannot start a worker: {exc}")
        else:
            if process_id not in self.workers.handles:  # the zygote refused, before we came back here
                self._pool.start_failed(commands)
                self.perform_pool(commands)
                return
            self._pool.started(process_id, time.monotonic())
            self._events.record(WORKER, process_id, "starting", "")
        self.perform_pool(commands)

    def _fail_waiting_leases(self, text: str) -> None:
        for lease_id in self._pool.waiting():
            owner = self._scheduler.owner_of(lease_id)
            self._pool.abandon(lease_id)
            if self._actors.is_actors(lease_id):
                self._actors.unavailable(lease_id, text)
            elif owner is not None:
                self._send_to(owner, WorkerLost(lease_id, b"", 0, 1, 0, text))
            commands: list[lease_requests.Command] = []
            self._scheduler.ended(lease_id, commands)
            self.perform(commands)

    # --- workers end ---------------------------------------------------------------------------------------

    def _on_worker_exit(self, ended: WorkerExit) -> None:
        process_id = ended.handle.process_id
        pool_commands: list[worker_process.Command] = []
        commands: list[lease_requests.Command] = []
        lease_id = self._pool.lost(process_id, pool_commands)
        owner = self._scheduler.owner_of(lease_id) if lease_id is not None else None
        if lease_id is not None:
            self._scheduler.ended(lease_id, commands)
        # Its own children's work has no owner any more: their workers go with it.
        doomed = []
        for orphaned in self._scheduler.owner_lost(process_id, commands):
            worker = self._pool.worker_of(orphaned)
            if worker is None:
                self._pool.abandon(orphaned)
            else:
                doomed.append(worker)
                self.workers.kill(worker)
        self._events.log.forget(process_id)
        self._events.record(WORKER, process_id, "dead", "")
        self._actors.process_lost(process_id)
        self._burials.begin(process_id, doomed, partial(self._bury, ended, lease_id, owner))
        self._burials.gone(process_id)
        self.perform_pool(pool_commands)
        self.perform(commands)

    def _bury(self, ended: WorkerExit, lease_id: bytes | None, owner: bytes | None) -> None:
        """Nothing runs any more for the sake of this process."""
        if not self._actors.lost(ended) and lease_id is not None and owner is not None:
            lost = WorkerLost(
                lease_id, ended.handle.process_id, ended.handle.pid, ended.exit_code, ended.term_signal,
                ended.stderr_tail,
            )  # fmt: skip
            self._send_to(owner, lost)
        self._store.process_lost(ended.handle.process_id)

    # --- functions, logs, events, status -------------------------------------------------------------

    def _on_put_function(self, _peer: Peer, message: PutFunction) -> None:
        advice = self.control.publish_function(message)
        if advice:
            self._send_to(self._driver_id, Advice(advice))

    def _on_log_lines(self, peer: Peer, message: LogLines) -> None:
        handle = self.workers.handles.get(peer.process_id)
        if handle is not None:
            handle.log.write(message.stream, message.lines)
        if self._driver is not None:
            self._driver.send(message)

    def _on_worker_lines(self, handle: WorkerHandle, stream: str, lines: list[str]) -> None:
        handle.log.write(stream, lines)
        if self._driver is not None:
            self._driver.send(LogLines(handle.process_id, handle.pid, "", stream, 0, "", lines))

    def _on_event_batch(self, peer: Peer, message: EventBatch) -> None:
        self._events.received(peer.process_id, message)

    def _on_control_event(self, state: str, text: str) -> None:
        self._events.record(NODE, self._start.node_id, state, "local")
        if state == "redis lost":
            self._tell_people(f"nbray: {text}")

    def _on_get_status(self, peer: Peer, message: GetStatus) -> None:
        peer.send(Status(message.request_id, self.status()))

    def status(self) -> dict[str, Any]:
        """A snapshot, plain data; ``observe.status`` makes it readable."""
        self._events.flush()
        return snapshot(
            self._start, self._scheduler.snapshot(), self._pool.snapshot(), self._store.stats(),
            self._events.log, self.control, self.workers, self._actors.counts(),
        )  # fmt: skip

    def _processes(self) -> dict[bytes, int]:
        """Those that can be asked something, with their PIDs."""
        workers = {handle.process_id: handle.pid for handle in self.workers.handles.values() if handle.ready}
        return {self._driver_id: self._start.driver_pid, **workers}
