"""Memory of the node while tasks run: who is ended when it runs out, and who waits until it is back.

Called by:  node.watching.
Imports:    core.memory_watch, store.budget, transport.procfs, wire.
Never:      chooses (core.memory_watch does); looks while nobody runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nbray.core.lease_requests import RequestState
from nbray.core.memory_watch import (
    Candidate,
    Command,
    Ease,
    End,
    Level,
    Loss,
    MemoryWatch,
    Room,
    choose,
    fullest,
    next_look_s,
)
from nbray.core.scheduler import Scheduler
from nbray.core.workers import WorkerPool
from nbray.events.log import EventLog
from nbray.node.workers import WorkerExit, Workers
from nbray.store.budget import MemoryBudget
from nbray.transport import procfs
from nbray.wire.base import Message
from nbray.wire.waiting_messages import BY_MEMORY, MemoryEased

#: A death by SIGKILL within so long after the kernel counted one is that one.
_KERNEL_S = 1.0
_SOON_S = 0.01
_TOLD_EVERY_S = 60.0
_LARGEST = 5
_SIGKILL = 9


class MemoryGuard:
    """Hosts the memory watch of one node.

    Args:
        threshold: share of the memory above which a task is ended; 1: never.
        give: gives back what the store does not need, and says how many bytes that were.
        release: lets a lease that was held back have its worker.
        send: delivers a message to a process.
        tell: says something to people, with a kind for programs.
        call_later: calls back on the loop after a delay in seconds.
        stake: what would be lost with an actor's process, and what it may hold; None: it is no actor.
    """

    def __init__(
        self,
        budget: MemoryBudget,
        threshold: float,
        scheduler: Scheduler,
        pool: WorkerPool,
        workers: Callable[[], Workers],
        log: EventLog,
        give: Callable[[], int],
        release: Callable[[bytes], object],
        send: Callable[[bytes, Message], object],
        tell: Callable[[str, str], object],
        call_later: Callable[[float, Callable[[], None]], object],
        stake: Callable[[bytes], tuple[Loss, int] | None],
    ) -> None:
        self._stake = stake
        self._budget = budget
        self._watch = MemoryWatch(threshold)
        self._scheduler = scheduler
        self._pool = pool
        self._workers = workers
        self._log = log
        self._give = give
        self._release = release
        self._send = send
        self._tell = tell
        self._call_later = call_later
        self._is_polling = False
        self._level = Level("the machine", 0, 1)  # the fullest
        self._levels: list[Level] = []
        self._looked_s = 0.0
        self._kernel_kills = 0  # that were counted
        self._unclaimed = 0  # of these, whose victim is not known yet
        self._unclaimed_until_s = 0.0
        self._told_s: float | None = None
        self._held: list[bytes] = []  # admitted leases that wait until there is memory
        self._causes: dict[bytes, dict[str, Any]] = {}  # of workers that are being killed
        self._losers: set[bytes] = set()  # owners that wait to hear that there is room

    def paused(self) -> str:
        """Why no lease is given for the moment; "" as a rule."""
        return self._words("waits until there is memory:") if self._watch.is_pressed else ""

    def wake(self) -> None:
        """Somebody runs, or is about to."""
        if not self._is_polling and self._watch.threshold < 1:
            self._is_polling = True
            self._call_later(_SOON_S, self._begin)  # not before the lease that is about to be given

    def holds_back(self, lease_id: bytes) -> bool:
        """Whether an admitted lease gets no worker yet: memory is short, and others run."""
        self.wake()
        if not self._watch.is_pressed or self._pool.worker_of(lease_id) is not None or not self._runs():
            return False
        self._held.append(lease_id)
        return True

    def _begin(self) -> None:
        self._kernel_kills = self._budget.kernel_kills()
        self._poll()

    # --- looking -------------------------------------------------------------------------------------

    def _poll(self) -> None:
        leases = self._scheduler.leases()
        if not (leases or self._held or self._watch.is_awaited):
            self._is_polling = False
            return
        now_s = time.monotonic()
        before, self._levels = self._levels, list(self._budget.levels())
        self._level = fullest(self._levels)
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        self._count_kernel_kills(now_s)
        self._look(now_s)
        if self._held and not self._runs():
            self._release(self._held.pop(0))
        pause_s = next_look_s(before, self._levels, passed_s, self._watch.threshold)
        self._call_later(pause_s, self._poll)

    def _look(self, now_s: float) -> None:
        commands: list[Command] = []
        self._watch.look(now_s, self._level, self._runs(), commands)
        for command in commands:
            if isinstance(command, End):
                self._end_one()
            elif isinstance(command, Ease):
                held, self._held = self._held, []
                for lease_id in held:
                    self._release(lease_id)
            elif isinstance(command, Room):
                losers, self._losers = self._losers, set()
                for owner in losers:
                    self._send(owner, MemoryEased())
            elif not self._give():
                self._look(now_s)  # there is no Give the next time

    def _count_kernel_kills(self, now_s: float) -> None:
        kills = self._budget.kernel_kills()
        if now_s > self._unclaimed_until_s:
            self._unclaimed = 0
        if kills > self._kernel_kills:
            self._unclaimed += kills - self._kernel_kills
            self._unclaimed_until_s = now_s + _KERNEL_S
        self._kernel_kills = kills

    def _runs(self) -> bool:
        return any(request.state is RequestState.GRANTED for request in self._scheduler.leases())

    # --- ending --------------------------------------------------------------------------------------

    def _end_one(self) -> None:
        chosen = choose(self._candidates())
        if chosen is None:
            self._tell_people()
            return
        self._watch.ended(chosen.process_id, chosen.private_bytes, time.monotonic())
        self._workers().kill(chosen.process_id)  # the sooner the better: words can be found afterwards
        self._causes[chosen.process_id] = self._facts(chosen, False)

    def _candidates(self) -> list[Candidate]:
        found = []
        inherited_bytes = procfs.anonymous_bytes(self._workers().zygote.pid)  # what all were forked with
        for request in self._scheduler.leases():
            process_id = self._pool.worker_of(request.lease_id)
            handle = self._workers().handles.get(process_id or b"")
            if process_id is None or handle is None:
                continue
            running = self._log.running_in(process_id)
            began_s = running[-1].since_us / 1e6 if running else time.time()
            held_bytes = procfs.private_bytes(handle.pid)
            stake = self._stake(process_id)
            if stake is None:
                loss, is_over = Loss.RESULT if any(task.once for task in running) else Loss.TIME, False
            else:
                loss, quota_bytes = stake
                is_over = 0 < quota_bytes < held_bytes - inherited_bytes
            found.append(Candidate(process_id, began_s, loss, held_bytes, is_over))
        return found

    def cause_of(self, ended: WorkerExit, owner: bytes | None) -> tuple[str, dict[str, Any]]:
        """Why a worker that is gone was ended, if that was for want of memory."""
        process_id = ended.handle.process_id
        self._watch.gone(process_id)
        facts = self._causes.pop(process_id, None)
        if facts is None and ended.term_signal == _SIGKILL and self._is_polling:
            now_s = time.monotonic()
            self._count_kernel_kills(now_s)
            if self._unclaimed:
                self._unclaimed -= 1
                self._watch.killed_by_kernel(now_s)
                facts = self._facts(None, True)
        if facts is None:
            return "", {}
        if owner is not None:
            self._losers.add(owner)
        return BY_MEMORY, facts

    def _facts(self, ended: Candidate | None, by_kernel: bool) -> dict[str, Any]:
        """Fields of ``RayOutOfMemoryError``. Who was ended has nothing any more: it is added."""
        handles = self._workers().handles
        names = {
            handle.pid: f"nbray-worker ({running[-1].name})"
            for process_id, handle in handles.items()
            if (running := self._log.running_in(process_id))
        }
        largest = procfs.largest(_LARGEST)
        if ended is not None and ended.process_id in handles:
            pid = handles[ended.process_id].pid
            largest = [each for each in largest if each[1] != pid]
            largest.append(("nbray-worker", pid, ended.private_bytes))
            largest.sort(key=lambda each: -each[2])
        largest = [(names.get(pid, name), pid, size) for name, pid, size in largest[:_LARGEST]]
        held_bytes = 0 if ended is None else ended.private_bytes
        level = self._level
        return {
            "where": level.where, "used_bytes": level.used_bytes, "limit_bytes": level.limit_bytes,
            "threshold": self._watch.threshold, "held_bytes": held_bytes, "by_kernel": by_kernel,
            "largest": largest,
        }  # fmt: skip

    def _tell_people(self) -> None:
        now_s = time.monotonic()
        if self._told_s is None or now_s - self._told_s > _TOLD_EVERY_S:
            self._told_s = now_s
            self._tell("memory", self._words("no task runs that could be ended, and memory is short:"))

    def _words(self, what: str) -> str:
        level, gib = self._level, 1 << 30
        return (
            f"{what} {level.used_bytes / gib:.1f} of {level.limit_bytes / gib:.1f} GiB of {level.where} are "
            f"in use, the mark is {self._watch.threshold:.0%}"
        )
