"""Who waits for what on this node: asks every process, and adds what the daemon knows.

Called by:  node.watching.
Imports:    core.{scheduler,workers}, nbray.wire; transport for peers and /proc.
Never:      waits for a process that is stopped, or for longer than a second; puts anything together
            (core.waits does).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbray.core.lease_requests import RequestState
from nbray.core.scheduler import Scheduler
from nbray.core.wait_chain import is_stopped
from nbray.core.workers import WorkerPool
from nbray.transport import procfs
from nbray.transport.aio import Peer
from nbray.wire.base import Message
from nbray.wire.waiting_messages import (
    DescribeWaits,
    GetWaits,
    LeaseFacts,
    LifeFacts,
    QueueFacts,
    WaitFacts,
    WaitsDescribed,
    WaitsReport,
    WorkerFacts,
)

#: How long processes have to answer.
DEADLINE_S = 1.0


class _Question:
    __slots__ = ("described", "then", "waiting")

    def __init__(self, waiting: set[bytes], then: Callable[[list[WaitFacts]], None]) -> None:
        self.waiting = waiting
        self.described: list[WaitFacts] = []
        self.then = then


class Waits:
    """Serves ``GetWaits``, and asks on its own behalf.

    Args:
        processes: says who can be asked, PID by process ID.
        send: delivers a message to a process, and drops what a lost one would get.
        call_later: calls back on the loop after a delay in seconds.
        stored: the state of an object in the store, "" if it is not known there.
        ages: since when the head of a queue was seen to wait, by lease ID, in seconds from now.
        paused: why no lease is given for the moment; "" as a rule.
        answered: told of each process that answers, for whatever question, and what it said.
        actors: those that are not dead: of those that are up only the ones in these processes.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: WorkerPool,
        processes: Callable[[], dict[bytes, int]],
        send: Callable[[bytes, Message], object],
        call_later: Callable[[float, Callable[[], None]], object],
        stored: Callable[[bytes], str],
        ages: Callable[[bytes], float],
        paused: Callable[[], str],
        answered: Callable[[WaitFacts], None],
        actors: Callable[[set[bytes]], list[LifeFacts]],
    ) -> None:
        self._actors = actors
        self._scheduler = scheduler
        self._pool = pool
        self._processes = processes
        self._send = send
        self._call_later = call_later
        self._stored = stored
        self._ages = ages
        self._paused = paused
        self._answered = answered
        self._open: dict[int, _Question] = {}
        self._last_number = 0
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            GetWaits: lambda peer, message: self._on_get(peer.process_id, message),
            WaitsDescribed: lambda peer, message: self._on_described(peer.process_id, message),
        }

    def ask(
        self, object_ids: list[bytes], then: Callable[[WaitsReport], None], with_stacks: bool = False
    ) -> None:
        """Ask everybody what they run and what they know of these objects; ``then`` gets the answers."""
        workers = self.workers()
        stopped = {worker.process_id for worker in workers if is_stopped(worker.state)}
        present = [process_id for process_id in self._processes() if process_id not in stopped]
        self._last_number += 1
        number = self._last_number
        question = _Question(set(present), lambda described: then(self._report(described, object_ids)))
        self._open[number] = question
        for process_id in present:
            self._send(process_id, DescribeWaits(number, object_ids, with_stacks))
        if present:
            self._call_later(DEADLINE_S, lambda: self._finish(number))
        else:
            self._finish(number)

    def look_at(self, process_id: bytes) -> None:
        """Have ``answered`` called if its I/O thread lives."""
        self._send(process_id, DescribeWaits(0, [], False))

    def workers(self) -> list[WorkerFacts]:
        """All processes, as the kernel sees them."""
        found = []
        for process_id, pid in self._processes().items():
            process = procfs.process(pid)
            if process is not None:
                found.append(WorkerFacts(process_id, pid, process.state))
        return found

    def _on_get(self, asker: bytes, message: GetWaits) -> None:
        def answer(report: WaitsReport) -> None:
            facts = (getattr(report, name) for name in WaitsReport.__struct_fields__[1:])
            self._send(asker, WaitsReport(message.request_id, *facts))

        self.ask(message.object_ids, answer, message.with_stacks)

    def _on_described(self, process_id: bytes, message: WaitsDescribed) -> None:
        if process_id == message.facts.process_id:
            self._answered(message.facts)
        question = self._open.get(message.number)
        if question is None or process_id not in question.waiting:
            return  # too late, or only looked at
        question.waiting.remove(process_id)
        question.described.append(message.facts)
        if not question.waiting:
            self._finish(message.number)

    def _finish(self, number: int) -> None:
        question = self._open.pop(number, None)
        if question is not None:
            question.then(question.described)

    def _report(self, described: list[WaitFacts], object_ids: list[bytes]) -> WaitsReport:
        known = [(object_id, state) for object_id in object_ids if (state := self._stored(object_id))]
        running = {facts.process_id for facts in described if facts.running}
        total = self._scheduler.snapshot()["total"]
        return WaitsReport(
            0,
            total,
            described,
            self.workers(),
            self._leases(),
            self._queues(),
            self._paused(),
            known,
            self._actors(running),
        )

    def _leases(self) -> list[LeaseFacts]:
        return [
            LeaseFacts(
                self._pool.worker_of(request.lease_id) or b"", request.name, dict(request.shape),
                request.state is RequestState.BLOCKED, request.for_life,
            )
            for request in self._scheduler.leases()
        ]  # fmt: skip

    def _queues(self) -> list[QueueFacts]:
        return [
            QueueFacts(
                dict(each.head.shape), each.number, each.head.name, each.feasible, each.reason, each.lacking,
                self._ages(each.head.lease_id),
            )
            for each in self._scheduler.waiting()
        ]  # fmt: skip
