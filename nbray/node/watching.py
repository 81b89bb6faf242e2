"""Watches what goes wrong on a node: stopped and hung workers, tasks that wait for each other, full memory.

Called by:  node.daemon.
Imports:    core.{progress,wait_chain,waits}, node.{memory_guard,waits}, nbray.wire.
Never:      decides (core does); costs anything while no lease is out and nobody waits, but one look a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.core import progress
from nbray.core.lease_requests import Request, RequestState
from nbray.core.memory_watch import Loss
from nbray.core.progress import Look, Progress
from nbray.core.scheduler import Scheduler, Waiting
from nbray.core.starving import Holding, Starving, Wanting
from nbray.core.wait_chain import cycle_words, how_stopped
from nbray.core.waits import Known
from nbray.core.workers import WorkerPool
from nbray.events.log import EventLog
from nbray.node.memory_guard import MemoryGuard
from nbray.node.waits import Waits
from nbray.node.workers import WorkerExit, Workers
from nbray.store.budget import MemoryBudget
from nbray.transport import procfs
from nbray.transport.aio import Peer
from nbray.wire.base import Message
from nbray.wire.waiting_messages import EndAttempt, LifeFacts, Notice, WaitFacts, WaitsReport

_PERIOD_S = 1.0
#: A worker that waits for so long may be part of a cycle; those of ordinary nested tasks do not.
_BLOCKED_S = 1.5
#: Rounds of questions at most, and how rarely it is asked when nothing was found.
_ROUNDS_MAX = 8
_SEARCH_MIN_S = 1.0
_SEARCH_MAX_S = 30.0


class Watching:
    """Everything of the daemon that watches.

    Args:
        stored: the state of an object in the store.
        driver: the process ID of who is told.
        send: delivers a message to a process.
        call_later: calls back on the loop after a delay in seconds.
        give: gives back memory that the store does not need.
        release: lets a lease that was held back have its worker.
        actors: the actors that are not dead; see ``Waits``.
        actor_in: what people call the actor that a process is; "" if it is none.
        stake: see ``MemoryGuard``.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        threshold: float,
        scheduler: Scheduler,
        pool: WorkerPool,
        workers: Callable[[], Workers],
        log: EventLog,
        processes: Callable[[], dict[bytes, int]],
        stored: Callable[[bytes], str],
        driver: Callable[[], bytes],
        send: Callable[[bytes, Message], object],
        call_later: Callable[[float, Callable[[], None]], object],
        give: Callable[[], int],
        release: Callable[[bytes], object],
        actors: Callable[[set[bytes]], list[LifeFacts]],
        actor_in: Callable[[bytes], str],
        stake: Callable[[bytes], tuple[Loss, int] | None],
    ) -> None:
        self._actor_in = actor_in
        self._starving = Starving()
        self._blocked: dict[bytes, float] = {}  # processes that wait and keep their leases, and since when
        self._scheduler = scheduler
        self._pool = pool
        self._workers = workers
        self._driver = driver
        self._send = send
        self._call_later = call_later
        self._progress = Progress()
        self._told: dict[bytes, str] = {}  # workers that make no progress, as they were told of
        self._search = _CycleSearch()
        self._seen: dict[bytes, float] = {}  # leases that are blocked, or head a queue, and since when
        self._causes: dict[bytes, tuple[str, dict[str, Any]]] = {}
        self.memory = MemoryGuard(
            budget,
            threshold,
            scheduler,
            pool,
            workers,
            log,
            give,
            release,
            send,
            self.tell,
            call_later,
            stake,
        )
        self._waits = Waits(
            scheduler,
            pool,
            processes,
            send,
            call_later,
            stored,
            self._age_s,
            self.memory.paused,
            self._on_answer,
            actors,
        )
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            **self._waits.handlers,
            EndAttempt: lambda peer, message: self._on_end_attempt(peer.process_id, message),
        }

    def begin(self) -> None:
        """Look once a second from now on."""
        self._call_later(_PERIOD_S, self._tick)

    def tell(self, kind: str, text: str) -> None:
        """Say something in the driver."""
        self._send(self._driver(), Notice(kind, text))

    def cause_of(self, ended: WorkerExit, owner: bytes | None) -> tuple[str, dict[str, Any]]:
        """Why a worker that is gone was ended; "" if nobody here did that."""
        by_memory = self.memory.cause_of(ended, owner)
        self._told.pop(ended.handle.process_id, None)
        self._blocked.pop(ended.handle.process_id, None)
        return self._causes.pop(ended.handle.process_id, by_memory)

    def _on_end_attempt(self, asker: bytes, message: EndAttempt) -> None:
        if self._scheduler.owner_of(message.lease_id) != asker:
            return  # it ended by itself meanwhile
        process_id = self._pool.worker_of(message.lease_id)
        if process_id is not None:
            self._causes[process_id] = (message.cause, message.facts)
            self._workers().kill(process_id)

    # --- once a second -----------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._call_later(_PERIOD_S, self._tick)
        leases = self._scheduler.leases()
        waiting = self._scheduler.waiting()
        if not leases and not waiting:
            self._seen = {}
            self._look_at_workers(time.monotonic())
            self._progress.forget_time()
            return
        now_s = time.monotonic()
        self._look_at_workers(now_s)
        self._look_for_starving(now_s, leases, waiting)
        blocked = [request.lease_id for request in leases if request.state is RequestState.BLOCKED]
        waiting_actors = [
            (lease_id, since_s)
            for process_id, since_s in self._blocked.items()
            if (lease_id := self._pool.serves(process_id)) is not None
        ]
        watched = [*blocked, *(each.head.lease_id for each in waiting)]
        self._seen = {lease_id: self._seen.get(lease_id, now_s) for lease_id in watched}
        lasting = {lease_id for lease_id in blocked if now_s - self._seen[lease_id] >= _BLOCKED_S}
        lasting |= {lease_id for lease_id, since_s in waiting_actors if now_s - since_s >= _BLOCKED_S}
        if self._search.is_due(now_s, lasting):
            self._ask_round(Known(), 0)

    def _age_s(self, lease_id: bytes) -> float:
        now_s = time.monotonic()
        return now_s - self._seen.get(lease_id, now_s)

    # --- workers that make no progress -------------------------------------------------------------------

    def _look_at_workers(self, now_s: float) -> None:
        looks = []
        for handle in self._workers().handles.values():
            if self._pool.serves(handle.process_id) is not None:
                process = procfs.process(handle.pid)
                if process is not None:
                    looks.append(Look(handle.process_id, process.state, process.cpu_s))
        commands: list[progress.Command] = []
        self._progress.look(now_s, looks, commands)
        self._perform(commands)

    def _look_for_starving(self, now_s: float, leases: list[Request], waiting: list[Waiting]) -> None:
        """Who waits for what actors keep for life: that is no cycle, and may end at any time, or never."""
        wanting = [
            Wanting(each.head.lease_id, _wanted_by(each), each.number, each.head.shape, tuple(each.lacking))
            for each in waiting
            if each.feasible and each.lacking
        ]
        holdings = [Holding(lease.name, lease.shape, lease.for_life) for lease in leases]
        for text in self._starving.look(now_s, wanting, holdings):
            self.tell("starving", text)

    def _on_answer(self, facts: WaitFacts) -> None:
        process_id = facts.process_id
        waits = any(run.blocked for run in facts.running)
        if not waits:
            self._blocked.pop(process_id, None)
        elif self._actor_in(process_id):
            # It keeps its lease, so nobody else says that it waits. Looks are a second apart.
            self._blocked.setdefault(process_id, time.monotonic() - min(_PERIOD_S, facts.running[0].age_s))
        commands: list[progress.Command] = []
        self._progress.answered(process_id, commands)
        self._perform(commands)

    def _perform(self, commands: list[progress.Command]) -> None:
        for command in commands:
            if isinstance(command, progress.Ask):
                self._waits.look_at(command.process_id)
            elif isinstance(command, progress.GoesOn):
                who = self._told.pop(command.process_id, "")
                if who:
                    self.tell("progress", f"{who} goes on after {command.age_s:.0f} s.")
            else:
                # Its owner knows best what it should run.
                self._waits.ask([], partial(self._tell_of, command))

    def _tell_of(self, command: progress.Stopped | progress.Hung, report: WaitsReport) -> None:
        handle = self._workers().handles.get(command.process_id)
        if handle is None:
            return
        known = Known()
        known.add_report(report)
        name = known.heads.get(command.process_id)
        actor = self._actor_in(command.process_id)
        who = f"{actor} (pid {handle.pid})" if actor else f"worker pid {handle.pid}"
        who += f", which runs {'call' if actor else 'task'} {name}," if name else ""
        self._told[command.process_id] = who
        if isinstance(command, progress.Stopped):
            what = f"{how_stopped(command.state)} and has made no progress for {command.age_s:.0f} s"
        else:
            what = (
                f"neither answers nor uses a core, for {command.age_s:.0f} s (state {command.state}): it "
                "seems to hang in native code"
            )
        remedy = _remedy(handle.pid, isinstance(command, progress.Stopped), bool(actor))
        self.tell("no_progress", f"{who} {what}. {remedy}")

    # --- tasks that wait for each other --------------------------------------------------------------------

    def _ask_round(self, known: Known, number: int) -> None:
        def then(report: WaitsReport) -> None:
            known.add_report(report)
            asked = set(wanted)
            if number + 1 < _ROUNDS_MAX and any(each not in asked for each in known.unknown()):
                self._ask_round(known, number + 1)
            else:
                self._searched(known)

        wanted = known.unknown()
        self._waits.ask(wanted, then)

    def _searched(self, known: Known) -> None:
        cycle = known.cycle()
        members = frozenset(task_id for task_id, _cause in cycle)
        age_s = self._search.found(time.monotonic(), members)
        if age_s is not None:
            self.tell(
                "deadlock",
                f"these tasks have waited for each other for {age_s:.0f} s and will never end: "
                f"{cycle_words(known, cycle)}. Stop one of them, or let it return instead of waiting inside.",
            )


def _wanted_by(each: Waiting) -> str:
    return each.head.name if each.head.for_life else f"task {each.head.name}"


def _remedy(pid: int, is_stopped: bool, is_actor: bool) -> str:
    lets_go = f"kill -CONT {pid} lets it go on, " if is_stopped else ""
    if is_actor:
        return f"{lets_go}nbray.kill(handle) or kill -9 {pid} ends it, and it is restarted if it may be."
    return (
        f"{lets_go}kill -9 {pid} lets its task run again elsewhere; task_timeout_s, of init() or of the "
        "task, does that by itself."
    )


class _CycleSearch:
    """When to look for a cycle, and whether one that was found is told: when it is there twice in a row."""

    def __init__(self) -> None:
        self._is_open = False
        self._next_s = 0.0
        self._pause_s = _SEARCH_MIN_S
        self._looked_at: set[bytes] = set()
        self._members: frozenset[bytes] = frozenset()
        self._since_s = 0.0
        self._tell_at_s: float | None = None

    def is_due(self, now_s: float, blocked: set[bytes]) -> bool:
        """Whether to look now, while these leases have been blocked for long; ``found`` must follow."""
        if self._is_open or not blocked:
            return False
        if not blocked <= self._looked_at:
            self._pause_s = _SEARCH_MIN_S
            self._next_s = min(self._next_s, now_s + _SEARCH_MIN_S)
        if now_s < self._next_s:
            return False
        self._is_open, self._looked_at = True, blocked
        return True

    def found(self, now_s: float, members: frozenset[bytes]) -> float | None:
        """What the look found. Returns the age of the cycle if it is to be told now."""
        self._is_open = False
        if not members or members != self._members:
            self._members, self._since_s, self._tell_at_s = members, now_s, None
            self._pause_s = _SEARCH_MIN_S if members else min(_SEARCH_MAX_S, self._pause_s * 2)
            self._next_s = now_s + self._pause_s - 0.1  # in time for a tick
            return None
        age_s = now_s - self._since_s + _BLOCKED_S
        self._pause_s = min(_SEARCH_MAX_S, self._pause_s * 2)
        self._next_s = now_s + self._pause_s - 0.1
        if self._tell_at_s is not None and age_s < self._tell_at_s:
            return None
        self._tell_at_s = max(60.0, age_s * 4)
        return age_s
