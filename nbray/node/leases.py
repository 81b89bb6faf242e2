"""Leases in, workers out: what owners and workers say about leases, what the scheduler and the pool order.

Called by:  node.{daemon,actors,relieving}.
Imports:    core.{lease_requests,worker_process,scheduler,workers}, node.*, transport, wire.
Never:      decides (core does).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from nbray.core import lease_requests, worker_process
from nbray.core.scheduler import Scheduler
from nbray.core.workers import WorkerPool
from nbray.events.schema import WORKER
from nbray.node.actors import ActorHost
from nbray.node.event_feed import EventFeed
from nbray.node.pushed_errors import PushedErrors
from nbray.node.relieving import Relieving
from nbray.node.watching import Watching
from nbray.node.workers import Workers
from nbray.transport.aio import Peer
from nbray.transport.supervision import Supervisor
from nbray.wire.base import Message
from nbray.wire.cancel_messages import SignalWorker
from nbray.wire.messages import (
    Blocked,
    CancelLease,
    JobContext,
    LeaseGranted,
    LeaseInfeasible,
    Leaving,
    LinkLost,
    OwnerAddress,
    ReclaimLease,
    RequestLease,
    ReturnLease,
    StartNode,
    Unblocked,
    WorkerLost,
)


class Host(Protocol):
    """The daemon's parts."""

    start: StartNode
    scheduler: Scheduler
    pool: WorkerPool
    events: EventFeed
    relieving: Relieving
    watching: Watching
    errors: PushedErrors
    actors: ActorHost
    supervisor: Supervisor
    workers: Workers
    driver_id: bytes

    def send_to(self, process_id: bytes, message: Message) -> None: ...
    def tell_people(self, text: str) -> None: ...


class Leases:
    """The hands of ``core.scheduler`` and ``core.workers``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            RequestLease: self._on_request_lease,
            CancelLease: self._on_cancel_lease,
            ReturnLease: self._on_return_lease,
            Blocked: self._on_blocked,
            Unblocked: self._on_unblocked,
            Leaving: self._on_leaving,
            LinkLost: self._on_link_lost,
            SignalWorker: self._on_signal_worker,
        }

    # --- messages --------------------------------------------------------------------------------

    def _on_request_lease(self, peer: Peer, m: RequestLease) -> None:
        commands: list[lease_requests.Command] = []
        self._host.scheduler.request(
            m.lease_id, peer.process_id, m.resources, m.depth, m.backlog, m.name, commands
        )
        self.perform(commands)

    def _on_cancel_lease(self, _peer: Peer, message: CancelLease) -> None:
        commands: list[lease_requests.Command] = []
        if self._host.scheduler.cancel(message.lease_id, commands):
            self._host.pool.abandon(message.lease_id)
        self.perform(commands)

    def _on_return_lease(self, peer: Peer, message: ReturnLease) -> None:
        if self._host.scheduler.owner_of(message.lease_id) == peer.process_id:
            self._end_lease(message.lease_id)

    def _on_signal_worker(self, peer: Peer, message: SignalWorker) -> None:
        process_id = self._host.pool.worker_of(message.lease_id)
        if process_id is not None and self._host.scheduler.owner_of(message.lease_id) == peer.process_id:
            self._host.workers.signal(process_id, message.number)

    def _end_lease(self, lease_id: bytes) -> None:
        """The owner is done with it: its worker may serve another."""
        commands: list[lease_requests.Command] = []
        pool_commands: list[worker_process.Command] = []
        process_id = self._host.pool.worker_of(lease_id)
        # The pool first: the next lease that is admitted finds this worker idle, and warm.
        if process_id is not None:
            self._host.pool.released(process_id, time.monotonic(), pool_commands)
            self._host.events.record(WORKER, process_id, "idle")
        else:
            self._host.pool.abandon(lease_id)
        self._host.scheduler.ended(lease_id, commands)
        self.perform_pool(pool_commands)
        self.perform(commands)

    def _on_blocked(self, peer: Peer, message: Blocked) -> None:
        if self._host.pool.serves(peer.process_id) == message.lease_id:
            commands: list[lease_requests.Command] = []
            self._host.pool.blocked(peer.process_id)
            self._host.events.record(WORKER, peer.process_id, "blocked")
            self._host.relieving.blocked(peer.process_id)
            self._host.scheduler.blocked(message.lease_id, commands)
            self.perform(commands)

    def _on_unblocked(self, peer: Peer, message: Unblocked) -> None:
        if self._host.pool.serves(peer.process_id) == message.lease_id:
            commands: list[lease_requests.Command] = []
            self._host.pool.unblocked(peer.process_id)
            self._host.events.record(WORKER, peer.process_id, "leased")
            self._host.scheduler.unblocked(message.lease_id, commands)
            self.perform(commands)

    def _on_link_lost(self, peer: Peer, message: LinkLost) -> None:
        worker = self._host.pool.worker_of(message.lease_id)
        if worker is not None and self._host.scheduler.owner_of(message.lease_id) == peer.process_id:
            self._host.workers.cut_off(worker)

    def _on_leaving(self, peer: Peer, _message: Leaving) -> None:
        commands: list[worker_process.Command] = []
        lease_id = self._host.pool.leave(peer.process_id, commands)
        if lease_id is not None:
            self._host.send_to(self._host.scheduler.owner_of(lease_id) or b"", ReclaimLease(lease_id))
        self.perform_pool(commands)

    def perform(self, commands: list[lease_requests.Command]) -> None:
        """What the scheduler ordered."""
        pool_commands: list[worker_process.Command] = []
        for command in commands:
            if isinstance(command, lease_requests.Admit):
                if not self._host.watching.memory.holds_back(command.lease_id):
                    self._host.pool.need(command.lease_id, self._host.start.job_id, pool_commands)
            elif isinstance(command, lease_requests.Infeasible):
                # People read the driver's lines only, whichever process asked.
                self._host.send_to(self._host.driver_id, LeaseInfeasible(command.lease_id, command.text))
                self._host.errors.push("infeasible_task", command.text, told=True)
            else:
                when_idle = type(command) is lease_requests.Spare
                self._host.send_to(command.owner, ReclaimLease(command.lease_id, when_idle))
        self.perform_pool(pool_commands)
        self._host.relieving.look()

    def find_worker(self, lease_id: bytes) -> None:
        """An admitted lease was held back, and is not any more."""
        if self._host.scheduler.owner_of(lease_id) is not None:
            commands: list[worker_process.Command] = []
            self._host.pool.need(lease_id, self._host.start.job_id, commands)
            self.perform_pool(commands)

    def perform_pool(self, commands: list[worker_process.Command]) -> None:
        """What the pool of workers ordered."""
        for command in commands:
            if isinstance(command, worker_process.Assign):
                self._grant(command)
            elif isinstance(command, worker_process.Start):
                for _ in range(command.number):
                    self._host.supervisor.spawn("worker start", self._start_worker())
            elif isinstance(command, worker_process.Retire):
                self._host.workers.retire(command.process_id)
            elif isinstance(command, worker_process.Dismiss):
                self._host.workers.dismiss(command.process_id)
            elif isinstance(command, worker_process.Kill):
                self._host.workers.kill(command.process_id)
            else:
                self.fail_waiting(
                    f"{command.number} workers in a row died before they were ready; "
                    "the logs folder of the session says more."
                )

    def _grant(self, command: worker_process.Assign) -> None:
        lease_id, start = command.lease_id, self._host.start
        handle = self._host.workers.handles[command.process_id]
        owner = self._host.scheduler.owner_of(lease_id)
        scheduler_commands: list[lease_requests.Command] = []
        if owner is None or not self._host.scheduler.granted(lease_id, scheduler_commands):
            self._end_lease(lease_id)
            return
        if command.new_to_job:
            handle.send(JobContext(start.job_id, start.sys_path, start.cwd, start.umask))
        address = OwnerAddress(start.node_id, start.node_incarnation, handle.process_id, handle.endpoint)
        if self._host.actors.is_actors(lease_id):
            self._host.actors.granted(lease_id, handle)
        else:
            self._host.send_to(owner, LeaseGranted(lease_id, address, handle.pid))
        self._host.events.record(WORKER, handle.process_id, "leased")
        self.perform(scheduler_commands)

    async def _start_worker(self) -> None:
        commands: list[worker_process.Command] = []
        try:
            process_id = await self._host.workers.start()
        except OSError as exc:
            self._host.pool.start_failed(commands)
            self._host.tell_people(f"nbray: cannot start a worker: {exc}")
        else:
            if process_id not in self._host.workers.handles:  # the zygote refused, before we came back here
                self._host.pool.start_failed(commands)
                self.perform_pool(commands)
                return
            self._host.pool.started(process_id, time.monotonic())
            self._host.errors.worker_started(self._host.pool.shared() - self._host.actors.waiting())
            self._host.events.record(WORKER, process_id, "starting", "")
        self.perform_pool(commands)

    def fail_waiting(self, text: str) -> None:
        """No worker can be had: whoever waits for one hears why."""
        for lease_id in self._host.pool.waiting():
            owner = self._host.scheduler.owner_of(lease_id)
            self._host.pool.abandon(lease_id)
            if self._host.actors.is_actors(lease_id):
                self._host.actors.unavailable(lease_id, text)
            elif owner is not None:
                self._host.send_to(owner, WorkerLost(lease_id, b"", 0, 1, 0, text))
            commands: list[lease_requests.Command] = []
            self._host.scheduler.ended(lease_id, commands)
            self.perform(commands)
