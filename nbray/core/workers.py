"""The node's worker processes: which one serves a lease, when to start one, which one may go.

Called by:  node, which starts, stops and reaps processes and reports what became of them.
Imports:    nbray.core.worker_process.
Never:      forks, kills, reads a clock (``now`` arrives as an argument, in seconds of any fixed origin).

A process belongs to no job until it serves a first lease, and to that lease's job from then on:
modules that it imported and globals that it set are not shown to another. Among the idle ones the
last used serves next, since its caches are warm; leases that wait for a process are served first
come, first served.

Methods append commands to the list that the caller passes. Every ``Start(n)`` is answered by n calls
of :meth:`WorkerPool.started`, and each started process in the end by :meth:`WorkerPool.lost`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Container
from typing import Any

from nbray.core.worker_process import (
    Assign,
    Command,
    Dismiss,
    Kill,
    Retire,
    Start,
    StartsFailing,
    Worker,
    WorkerEvent,
    WorkerState,
)  # fmt: skip

#: Processes that die before they registered, in a row, before the host is told.
START_FAILURES = 3
#: Processes beyond the cap are retired when they idled for so long.
_IN_NEED_IDLE_S = 1.0


class WorkerPool:
    """The worker processes of one node.

    Args:
        target_idle: idle processes that are kept, however long they idle.
        cap: processes at most, whatever they do, those that are about to end included; but for actors.
        cap_in_need: the same when all of them wait, and none can go on (``core.inlining``).
    """

    def __init__(self, target_idle: int, cap: int, cap_in_need: int = 0) -> None:
        self._target_idle = target_idle
        self._cap = cap
        self._cap_in_need = max(cap, cap_in_need)
        self._workers: dict[bytes, Worker] = {}
        self._serving: dict[bytes, Worker] = {}
        #: Idle processes by job (None: of no job yet), the longest idle first.
        self._idle: dict[bytes | None, OrderedDict[bytes, Worker]] = {}
        #: Lease that waits -> its job, and the same by job; both first come, first served.
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()
        self._waiting_of: dict[bytes, OrderedDict[bytes, None]] = {}
        self._count: Counter[WorkerState] = Counter()
        self._ordered = 0
        self._dedicated = 0
        self._failures = 0
        #: While starts fail: a lease came since that was told, and one more start is due for it.
        self._trial_due = False

    # --- leases -------------------------------------------------------------------------------------

    def need(self, lease_id: bytes, job_id: bytes, out: list[Command]) -> None:
        """An admitted lease needs a process. Said again, it gets the same answer again."""
        served_by = self._serving.get(lease_id)
        if served_by is not None:
            out.append(Assign(lease_id, served_by.process_id, False))
            return
        if lease_id in self._waiting:
            return
        idle = self._idle.get(job_id) or self._idle.get(None)
        if idle:
            self._assign(lease_id, job_id, next(reversed(idle.values())), out)
            return
        self._waiting[lease_id] = job_id
        self._waiting_of.setdefault(job_id, OrderedDict())[lease_id] = None
        self._trial_due = True
        self._start_what_is_missing(out)

    def abandon(self, lease_id: bytes) -> bool:
        """The lease ended before a process came. False when it was not waiting for one."""
        job_id = self._waiting.pop(lease_id, None)
        if job_id is None:
            return False
        of_job = self._waiting_of[job_id]
        del of_job[lease_id]
        if not of_job:
            del self._waiting_of[job_id]
        return True

    def job_ended(self, job_id: bytes, out: list[Command]) -> list[bytes]:
        """Nobody will need this job's idle processes again. Returns its leases that wait for one.

        They are abandoned. Processes that serve the job's leases are the host's to kill.
        """
        waiting = list(self._waiting_of.get(job_id, ()))
        for lease_id in waiting:
            self.abandon(lease_id)
        for worker in list(self._idle.get(job_id, {}).values()):
            self._retire(worker, out)
        return waiting

    # --- processes ------------------------------------------------------------------------------------

    def warm_up(self, out: list[Command]) -> None:
        """Start as many processes as are to be kept idle, before anyone needs them."""
        coming = self._count[WorkerState.IDLE] + self._coming() - len(self._waiting)
        self._start(min(self._target_idle - coming, self._room()), out)

    def started(self, process_id: bytes, now: float) -> None:
        """The host made this process, as it was told to."""
        self._ordered = max(0, self._ordered - 1)
        self._workers[process_id] = Worker(process_id, now)
        self._count[WorkerState.STARTING] += 1

    def start_failed(self, out: list[Command]) -> None:
        """The host could not even make a process that it was told to start."""
        self._ordered = max(0, self._ordered - 1)
        self._note_failure(out)

    def registered(self, process_id: bytes, pid: int, now: float, out: list[Command]) -> bool:
        """The process said hello. False when it is not one of ours (any more): close its connection.

        Raises:
            ProtocolError: it said so before.
        """
        worker = self._workers.get(process_id)
        if worker is None:
            return False
        self._move(worker, WorkerEvent.REGISTER)
        worker.pid = pid
        self._failures = 0
        self._make_idle(worker, now, out)
        self._start_what_is_missing(out)
        return True

    def released(self, process_id: bytes, now: float, out: list[Command]) -> None:
        """Its lease ended and it is healthy: it may serve another.

        Raises:
            ProtocolError: it never registered.
        """
        worker = self._workers.get(process_id)
        if worker is None:
            return
        before = worker.state
        self._move(worker, WorkerEvent.RELEASE)
        if worker.state is before:
            return
        self._let_go(worker)
        if worker.leaving:
            self._dismiss(worker, out)
        else:
            self._make_idle(worker, now, out)
        self._start_what_is_missing(out)

    def dedicate(self, process_id: bytes, out: list[Command]) -> None:
        """The process serves its lease for life: it is no worker that others could have."""
        worker = self._workers.get(process_id)
        if worker is not None and not worker.dedicated:
            worker.dedicated = worker.leaving = True
            self._dedicated += 1
            self._start_what_is_missing(out)
            self.warm_up(out)  # the next one is to be as quick

    def leave(self, process_id: bytes, out: list[Command]) -> bytes | None:
        """The process takes no more tasks. Returns the lease that it serves, to be asked back for.

        It is dismissed when that lease ends; at once, if it serves none any more.
        """
        worker = self._workers.get(process_id)
        if worker is None:
            return None
        worker.leaving = True
        if worker.state is WorkerState.IDLE:
            self._take_from_idle(worker)
            self._dismiss(worker, out)
        return worker.lease_id

    def lost(self, process_id: bytes, out: list[Command]) -> bytes | None:
        """The process is dead and reaped. Returns the lease that it served."""
        worker = self._workers.pop(process_id, None)
        if worker is None:
            return None
        before = worker.state
        self._dedicated -= worker.dedicated
        if before is WorkerState.IDLE:
            self._take_from_idle(worker)
        self._move(worker, WorkerEvent.LOSE)
        lease_id = worker.lease_id
        self._let_go(worker)
        if before is WorkerState.STARTING:
            self._note_failure(out)
        else:
            self._start_what_is_missing(out)
        return lease_id

    def blocked(self, process_id: bytes) -> None:
        """Its task waits in get or wait.

        Raises:
            ProtocolError: it serves no lease.
        """
        worker = self._workers.get(process_id)
        if worker is not None:
            self._move(worker, WorkerEvent.BLOCK)

    def unblocked(self, process_id: bytes) -> None:
        """Its task goes on.

        Raises:
            ProtocolError: it serves no lease.
        """
        worker = self._workers.get(process_id)
        if worker is not None:
            self._move(worker, WorkerEvent.UNBLOCK)

    # --- deadlines, when the host's clock says so ----------------------------------------------------

    def trim(
        self, now: float, idle_longer_than_s: float, out: list[Command], spared: Container[bytes] = ()
    ) -> None:
        """Retire processes that idled longer than that, the longest first, down to ``target_idle``.

        Those that are more than the cap go after a moment. ``spared``: that have others work for them.
        """
        surplus = len(self._workers) - self._count[WorkerState.RETIRING] - self._cap
        idle = [worker for workers in self._idle.values() for worker in workers.values()]
        idle.sort(key=lambda worker: worker.since)
        for worker in idle[: max(0, len(idle) - self._target_idle)]:
            limit_s = idle_longer_than_s if surplus <= 0 else _IN_NEED_IDLE_S
            if now - worker.since > limit_s and worker.process_id not in spared:
                self._retire(worker, out)
                surplus -= 1

    def expire_starts(self, now: float, start_deadline_s: float, out: list[Command]) -> None:
        """Have processes killed that did not register in time; each is named once."""
        for worker in self._workers.values():
            late = worker.state is WorkerState.STARTING and now - worker.since > start_deadline_s
            if late and not worker.overdue:
                worker.overdue = True
                out.append(Kill(worker.process_id))

    # --- what people and the node may ask ------------------------------------------------------------

    def serves(self, process_id: bytes) -> bytes | None:
        """The lease that a process serves."""
        worker = self._workers.get(process_id)
        return None if worker is None else worker.lease_id

    def worker_of(self, lease_id: bytes) -> bytes | None:
        """The process that serves a lease."""
        worker = self._serving.get(lease_id)
        return None if worker is None else worker.process_id

    def is_exhausted(self) -> bool:
        """Leases wait for a process, and none will come by itself."""
        return (
            bool(self._waiting)
            and self._room() <= 0
            and not (self._coming() or self._count[WorkerState.IDLE] or self._count[WorkerState.RETIRING])
        )

    def is_blocked(self, process_id: bytes) -> bool:
        """Whether its task waits in get or wait."""
        worker = self._workers.get(process_id)
        return worker is not None and worker.state is WorkerState.BLOCKED

    def runs_any(self) -> bool:
        """Whether any process runs a task that does not wait."""
        return self._count[WorkerState.LEASED] > 0

    def may_exceed(self) -> bool:
        """Whether there may be one more than the cap."""
        return len(self._workers) + self._ordered < self._cap_in_need

    def exceed(self, out: list[Command]) -> None:
        """Start one more than the cap."""
        self._start(1, out)

    def waiting(self) -> list[bytes]:
        """Leases that wait for a process, first come first."""
        return list(self._waiting)

    def shared(self) -> int:
        """Processes that are no actors."""
        return len(self._workers) - self._dedicated

    def snapshot(self) -> dict[str, Any]:
        """Plain data for people: how many processes do what, the cap, and how many leases wait."""
        counts: dict[str, Any] = {s.value: self._count[s] for s in WorkerState if s is not WorkerState.DEAD}
        return counts | {"ordered": self._ordered, "cap": self._cap, "waiting_leases": len(self._waiting)}

    # --- inside ------------------------------------------------------------------------------------------

    def _move(self, worker: Worker, event: WorkerEvent) -> None:
        before = worker.state
        worker.move(event)
        self._count[before] -= 1
        if worker.state is not WorkerState.DEAD:
            self._count[worker.state] += 1

    def _make_idle(self, worker: Worker, now: float, out: list[Command]) -> None:
        """Put an idle process into the pool, or straight to the lease that waits longest for one."""
        worker.since = now
        self._idle.setdefault(worker.job_id, OrderedDict())[worker.process_id] = worker
        if worker.job_id is None:
            lease_id = next(iter(self._waiting), None)
        else:
            lease_id = next(iter(self._waiting_of.get(worker.job_id, ())), None)
        if lease_id is not None:
            job_id = self._waiting[lease_id]
            self.abandon(lease_id)
            self._assign(lease_id, job_id, worker, out)

    def _assign(self, lease_id: bytes, job_id: bytes, worker: Worker, out: list[Command]) -> None:
        self._take_from_idle(worker)
        self._move(worker, WorkerEvent.ASSIGN)
        new_to_job = worker.job_id is None
        worker.job_id, worker.lease_id = job_id, lease_id
        self._serving[lease_id] = worker
        out.append(Assign(lease_id, worker.process_id, new_to_job))

    def _let_go(self, worker: Worker) -> None:
        if worker.lease_id is not None:
            del self._serving[worker.lease_id]
            worker.lease_id = None

    def _take_from_idle(self, worker: Worker) -> None:
        idle = self._idle[worker.job_id]
        del idle[worker.process_id]
        if not idle:
            del self._idle[worker.job_id]

    def _retire(self, worker: Worker, out: list[Command]) -> None:
        self._take_from_idle(worker)
        self._move(worker, WorkerEvent.RETIRE)
        out.append(Retire(worker.process_id))

    def _dismiss(self, worker: Worker, out: list[Command]) -> None:
        self._move(worker, WorkerEvent.RETIRE)
        out.append(Dismiss(worker.process_id))

    def _note_failure(self, out: list[Command]) -> None:
        self._failures += 1
        # Beyond the limit only those are left to tell that came since, once their trial failed too.
        unheard = self._failures > START_FAILURES and self._waiting and not self._coming()
        if self._failures == START_FAILURES or unheard:
            self._trial_due = False
            out.append(StartsFailing(self._failures))
        else:
            self._start_what_is_missing(out)

    def _coming(self) -> int:
        return self._count[WorkerState.STARTING] + self._ordered

    def _room(self) -> int:
        return self._cap - (len(self._workers) - self._dedicated) - self._ordered

    def _start(self, count: int, out: list[Command]) -> None:
        if count > 0:
            self._trial_due = False
            self._ordered += count
            out.append(Start(count))

    def _start_what_is_missing(self, out: list[Command]) -> None:
        """Start a process for each lease that waits, as far as none is coming and the cap allows.

        At the cap, idle processes of other jobs make room. While starts fail, only a trial that is
        due starts one, and only when none is coming.
        """
        missing = len(self._waiting) - self._coming()
        if self._failures >= START_FAILURES:
            missing = min(missing, 1) if self._trial_due and not self._coming() else 0
        if missing <= 0:
            return
        room = self._room()
        self._start(min(missing, room), out)
        to_retire = missing - max(room, 0) - self._count[WorkerState.RETIRING]
        if to_retire > 0:
            # Whoever waits has no idle process of its own job, or it would have been served.
            idle = [worker for workers in self._idle.values() for worker in workers.values()]
            for worker in sorted(idle, key=lambda worker: worker.since)[:to_retire]:
                self._retire(worker, out)
