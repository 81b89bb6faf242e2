"""Cancels of tasks that a worker has: what its worker is told, and what follows if the task does not end.

Called by:  runtime.cancelling, under the owner's lock.
Imports:    nbray.core.{leases,tasks}.
Never:      sends, kills, reads a clock (times arrive as arguments, in seconds).

A cancel names an attempt, and its worker raises KeyboardInterrupt in that attempt's user code only. If the
attempt has not ended after a while, its process is ended, politely first. That can only be the attempt's own
process while it runs there: so signals are for the oldest unanswered task of a lease, whose time counts from
when it came to be that.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

from nbray.core.leases import Lease
from nbray.core.tasks import Task, TaskState

#: Seconds after the cancel, and the signal. The first one is for code that holds the GIL but looks for
#: signals, as regular expressions and large integers do: the worker cannot read what it was told.
STEPS = ((0.25, int(signal.SIGINT)), (1.0, int(signal.SIGTERM)), (2.0, int(signal.SIGKILL)))
#: A worker that was told kills itself; this is for one that cannot read.
FORCED_STEPS = ((0.1, int(signal.SIGKILL)),)
#: How often a cancel is looked at while its task waits behind another one.
LOOK_S = 0.1


class Tell(NamedTuple):
    """Tell the lease's worker to end this attempt."""

    lease: Lease
    task: Task
    force: bool


class Signal(NamedTuple):
    """Have the daemon send this signal to the lease's worker."""

    lease: Lease
    number: int


Command = Tell | Signal


class _Cancel:
    __slots__ = ("asked_s", "force", "lease", "next_step", "task")

    def __init__(self, task: Task, lease: Lease, force: bool, now_s: float) -> None:
        self.task = task
        self.lease = lease
        self.force = force
        self.asked_s = now_s
        self.next_step = 0


class Cancellations:
    """The cancels of one owner that are under way."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, _Cancel] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, task: Task, lease: Lease, force: bool, now_s: float, out: list[Command]) -> None:
        """A task that this lease's worker has is to be cancelled. Again: only if force is new."""
        known = self._under_way.get(task.task_id)
        if known is not None and known.task is task and (known.force or not force):
            return
        self._under_way[task.task_id] = _Cancel(task, lease, force, now_s)
        out.append(Tell(lease, task, force))

    def is_forced(self, task: Task) -> bool:
        """Whether its worker was killed on purpose, if it was killed."""
        cancel = self._under_way.get(task.task_id)
        return cancel is not None and cancel.force

    def due(self, now_s: float, out: list[Command]) -> float | None:
        """What is due by now. Returns when to call again; None if no cancel is under way."""
        next_s = None
        for task_id, cancel in list(self._under_way.items()):
            look_s = self._advance(cancel, now_s, out)
            if look_s is None:
                del self._under_way[task_id]
            elif next_s is None or look_s < next_s:
                next_s = look_s
        return next_s

    def _advance(self, cancel: _Cancel, now_s: float, out: list[Command]) -> float | None:
        steps = FORCED_STEPS if cancel.force else STEPS
        if cancel.task.state is not TaskState.CANCELLING or cancel.next_step == len(steps):
            # Over; or it was killed, and the cause of its worker's death is on its way.
            return None if cancel.task.state is not TaskState.CANCELLING else now_s + LOOK_S
        lease = cancel.lease
        if not lease.inflight or lease.inflight[0] is not cancel.task:
            return now_s + LOOK_S
        after_s, number = steps[cancel.next_step]
        due_s = max(cancel.asked_s, lease.head_since_s) + after_s
        if now_s < due_s:
            return due_s
        out.append(Signal(lease, number))
        cancel.next_step += 1
        return now_s + LOOK_S
