"""The life of a task at its owner, from submission to its result.

Called by:  runtime.submitter, under the owner's lock.
Imports:    msgspec, nbray.model, nbray.wire.messages.
Never:      sends, waits, deserializes, reads a clock.

A task is in exactly one state. Attempts are numbered: an answer counts only if it names the
current attempt of a task that is not over yet, so late and repeated messages are harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec

from nbray.model.resources import Shape
from nbray.wire.base import Value


class TaskState(Enum):
    WAITING = "waiting for arguments"
    QUEUED = "queued for a lease"
    PUSHED = "pushed to a worker"
    CANCELLING = "pushed to a worker, and to be cancelled"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskEvent(Enum):
    ARGUMENTS_READY = "arguments ready"
    ARGUMENTS_MOVE = "its many arguments go to the store first"
    HELD_BACK = "held back until there is memory"
    PUSHED = "pushed"
    ARGUMENTS_AWAY = "arguments are away"
    HANDED_BACK = "handed back"
    WORKER_LOST = "worker lost, will be retried"
    ANSWERED = "answered"
    GIVEN_UP = "given up"
    CANCEL = "cancelled by its user"


_WAITING, _QUEUED, _PUSHED = TaskState.WAITING, TaskState.QUEUED, TaskState.PUSHED
_CANCELLING, _DONE, _CANCELLED = TaskState.CANCELLING, TaskState.DONE, TaskState.CANCELLED

#: A task that is to be cancelled starts no other attempt: whatever brings it back from its worker ends it.
# fmt: off
TABLE: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.WAITING, TaskEvent.ARGUMENTS_READY): TaskState.QUEUED,
    (TaskState.WAITING, TaskEvent.GIVEN_UP):        TaskState.FAILED,
    (TaskState.WAITING, TaskEvent.CANCEL):          TaskState.CANCELLED,
    (TaskState.QUEUED,  TaskEvent.ARGUMENTS_MOVE):  TaskState.WAITING,
    (TaskState.QUEUED,  TaskEvent.HELD_BACK):       TaskState.WAITING,
    (TaskState.QUEUED,  TaskEvent.PUSHED):          TaskState.PUSHED,
    (TaskState.QUEUED,  TaskEvent.GIVEN_UP):        TaskState.FAILED,
    (TaskState.QUEUED,  TaskEvent.CANCEL):          TaskState.CANCELLED,
    (TaskState.PUSHED,  TaskEvent.ARGUMENTS_AWAY):  TaskState.WAITING,
    (TaskState.PUSHED,  TaskEvent.HANDED_BACK):     TaskState.QUEUED,
    (TaskState.PUSHED,  TaskEvent.WORKER_LOST):     TaskState.QUEUED,
    (TaskState.PUSHED,  TaskEvent.ANSWERED):        TaskState.DONE,
    (TaskState.PUSHED,  TaskEvent.GIVEN_UP):        TaskState.FAILED,
    (TaskState.PUSHED,  TaskEvent.CANCEL):          TaskState.CANCELLING,
    (TaskState.CANCELLING, TaskEvent.CANCEL):       TaskState.CANCELLING,  # once more, maybe by force
    (TaskState.CANCELLING, TaskEvent.HANDED_BACK):  TaskState.CANCELLED,
    (TaskState.CANCELLING, TaskEvent.WORKER_LOST):  TaskState.CANCELLED,
    (TaskState.CANCELLING, TaskEvent.ANSWERED):     TaskState.DONE,
}
# fmt: on


def parcel_id(task_id: bytes, attempt: int) -> bytes:
    """Names the references in the answer of one attempt (``wire.SendParcel``)."""
    return task_id + attempt.to_bytes(4, "big")


class IllegalTransitionError(AssertionError):
    """An event that the table does not allow: a bug of ours, never of the user."""


class TaskSpec(msgspec.Struct, eq=False):
    """What all calls of one function with the same options, from the same place, have in common.

    A ``Task`` points to it, and a worker is told it once, under the number ``spec_id`` of this owner.
    """

    spec_id: int
    function_id: bytes
    name: str
    num_returns: int
    shape: Shape
    max_retries: int
    depth: int
    cell: str
    timeout_s: float = 0.0  # an attempt may run for so long; 0: without end
    pooled: Any = None  # ``core.leases``: the queue of its shape
    uncounted: int = 0  # ``runtime.recorder``: calls that have no row


class Task(msgspec.Struct, eq=False, gc=False):
    """One submitted task. ``holds`` are object IDs that it keeps alive until it is over.

    ``alone``: no other task is in flight on its lease. A worker may hold back the answers of short tasks
    for a moment, so when it dies with several in flight nobody knows which of them ran. Tasks that may run
    only once, and those that were in flight on a worker that died, must not get into that doubt.

    A struct, since one is made for every call: that takes a fifth of what a plain class takes. The garbage
    collector need not know it: a task points to its results and they to tasks that take them, never back.
    """

    task_id: bytes
    spec: TaskSpec
    args: Value
    alone: bool
    dependencies: Sequence[bytes] = ()
    holds: Sequence[bytes] = ()
    attempt: int = 0
    missing: int = 0
    seal_results: bool = False
    state: TaskState = _WAITING
    results: Sequence[Any] = ()  # the host's records of them, in order

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def max_retries(self) -> int:
        return self.spec.max_retries

    @property
    def num_returns(self) -> int:
        return self.spec.num_returns

    @property
    def shape(self) -> Shape:
        return self.spec.shape

    def step(self, event: TaskEvent) -> None:
        """Follow the table.

        Raises:
            IllegalTransitionError: naming state, event and what was allowed.
        """
        following = TABLE.get((self.state, event))
        if following is None:
            allowed = ", ".join(e.value for s, e in TABLE if s is self.state) or "nothing"
            raise IllegalTransitionError(
                f"task {self.name} is {self.state.value}: event {event.value!r} is not allowed "
                f"(allowed: {allowed})"
            )
        self.state = following

    def pushed(self) -> None:
        """``step(PUSHED)``; every task makes this step, so it does not look it up."""
        if self.state is not _QUEUED:
            self.step(TaskEvent.PUSHED)
        self.state = _PUSHED

    def may_retry(self) -> bool:
        """Whether a lost worker leads to another attempt; -1 means without end."""
        return self.spec.max_retries < 0 or self.attempt < self.spec.max_retries


class TaskTable:
    """All tasks of one owner that are not over."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, Task] = {}

    def __len__(self) -> int:
        return len(self.tasks)

    def add_ready(self, task: Task) -> None:
        """``add`` for a task that takes no other's result, as most do."""
        self.tasks[task.task_id] = task
        task.state = _QUEUED

    def add(self, task: Task, missing: int) -> bool:
        """Register a task that still misses ``missing`` arguments. True if it may be queued now."""
        self.tasks[task.task_id] = task
        task.missing = missing
        if missing:
            return False
        task.state = _QUEUED
        return True

    def argument_ready(self, task: Task) -> bool:
        """One more of its arguments is there. True if it was the last."""
        if task.state is not TaskState.WAITING:
            return False
        task.missing -= 1
        if task.missing:
            return False
        task.step(TaskEvent.ARGUMENTS_READY)
        return True

    def arguments_move(self, task: Task, missing: int) -> None:
        """It was about to be queued, but so many of its arguments have to go elsewhere first."""
        task.step(TaskEvent.ARGUMENTS_MOVE)
        task.missing = missing

    def held_back(self, task: Task) -> None:
        """It was about to be queued, but there is no memory for it: ``argument_ready`` when there is."""
        task.step(TaskEvent.HELD_BACK)
        task.missing = 1

    def current(self, task_id: bytes, attempt: int) -> Task | None:
        """The task that an answer is about, or None if the answer is late, repeated or unknown."""
        task = self.tasks.get(task_id)
        if task is None or task.attempt != attempt:
            return None
        return task if task.state is _PUSHED or task.state is _CANCELLING else None

    def answered(self, task: Task) -> None:
        """The task ended by an answer that counts: forget it. ``step(ANSWERED)``, as ``Task.pushed`` is."""
        if task.state is not _PUSHED:
            task.step(TaskEvent.ANSWERED)
        task.state = _DONE
        del self.tasks[task.task_id]

    def given_up(self, task: Task) -> None:
        """The task ended without an answer: forget it."""
        task.step(TaskEvent.GIVEN_UP)
        del self.tasks[task.task_id]

    def cancel(self, task: Task) -> bool:
        """Its user cancels it. True: it is over. False: a worker has it, and must be told."""
        task.step(TaskEvent.CANCEL)
        if task.state is not _CANCELLED:
            return False
        del self.tasks[task.task_id]
        return True

    def cancelled(self, task: Task) -> None:
        """It came back from its worker without an answer, and is over: forget it."""
        assert task.state is _CANCELLED
        del self.tasks[task.task_id]

    def worker_lost(self, task: Task) -> bool:
        """The worker that ran it died. True: queued for another attempt. False: no attempt is left."""
        if not task.may_retry():
            return False
        task.step(TaskEvent.WORKER_LOST)
        task.attempt += 1
        return True
