"""The life of a task at its owner, from submission to its result.

Called by:  runtime.submitter, under the owner's lock.
Imports:    nbray.model, nbray.wire.messages.
Never:      sends, waits, deserializes, reads a clock.

A task is in exactly one state. Attempts are numbered: an answer counts only if it names the
current attempt of a task that is not over yet, so late and repeated messages are harmless.
"""

from __future__ import annotations

from enum import Enum

from nbray.model.resources import Shape
from nbray.wire.messages import Value


class TaskState(Enum):
    WAITING = "waiting for arguments"
    QUEUED = "queued for a lease"
    PUSHED = "pushed to a worker"
    DONE = "done"
    FAILED = "failed"


class TaskEvent(Enum):
    ARGUMENTS_READY = "arguments ready"
    PUSHED = "pushed"
    HANDED_BACK = "handed back"
    WORKER_LOST = "worker lost, will be retried"
    ANSWERED = "answered"
    GIVEN_UP = "given up"


# fmt: off
TABLE: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.WAITING, TaskEvent.ARGUMENTS_READY): TaskState.QUEUED,
    (TaskState.WAITING, TaskEvent.GIVEN_UP):        TaskState.FAILED,
    (TaskState.QUEUED,  TaskEvent.PUSHED):          TaskState.PUSHED,
    (TaskState.QUEUED,  TaskEvent.GIVEN_UP):        TaskState.FAILED,
    (TaskState.PUSHED,  TaskEvent.HANDED_BACK):     TaskState.QUEUED,
    (TaskState.PUSHED,  TaskEvent.WORKER_LOST):     TaskState.QUEUED,
    (TaskState.PUSHED,  TaskEvent.ANSWERED):        TaskState.DONE,
    (TaskState.PUSHED,  TaskEvent.GIVEN_UP):        TaskState.FAILED,
}
# fmt: on


class IllegalTransitionError(AssertionError):
    """An event that the table does not allow: a bug of ours, never of the user."""


class Task:
    """One submitted task. ``holds`` are object IDs that it keeps alive until it is over.

    ``alone``: no other task is in flight on its lease. A worker may hold back the answers of short tasks
    for a moment, so when it dies with several in flight nobody knows which of them ran. Tasks that may run
    only once, and those that were in flight on a worker that died, must not get into that doubt.
    """

    __slots__ = (
        "alone", "args", "attempt", "cell", "dependencies", "depth", "function_id", "holds", "max_retries",
        "missing", "name", "num_returns", "seal_results", "shape", "state", "task_id",
    )  # fmt: skip

    def __init__(
        self,
        task_id: bytes,
        function_id: bytes,
        name: str,
        num_returns: int,
        shape: Shape,
        args: Value,
        dependencies: list[bytes],
        holds: list[bytes],
        max_retries: int,
        depth: int,
        cell: str,
    ) -> None:
        self.task_id = task_id
        self.function_id = function_id
        self.name = name
        self.num_returns = num_returns
        self.shape = shape
        self.args = args
        self.dependencies = dependencies
        self.holds = holds
        self.max_retries = max_retries
        self.depth = depth
        self.cell = cell
        self.attempt = 0
        self.alone = not max_retries
        self.missing = 0
        self.seal_results = False
        self.state = TaskState.WAITING

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

    def may_retry(self) -> bool:
        """Whether a lost worker leads to another attempt; -1 means without end."""
        return self.max_retries < 0 or self.attempt < self.max_retries


class TaskTable:
    """All tasks of one owner that are not over."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, Task] = {}

    def __len__(self) -> int:
        return len(self.tasks)

    def add(self, task: Task, missing: int) -> bool:
        """Register a task that still misses ``missing`` arguments. True if it may be queued now."""
        self.tasks[task.task_id] = task
        task.missing = missing
        if missing:
            return False
        task.state = TaskState.QUEUED
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

    def current(self, task_id: bytes, attempt: int) -> Task | None:
        """The task that an answer is about, or None if the answer is late, repeated or unknown."""
        task = self.tasks.get(task_id)
        if task is None or task.attempt != attempt or task.state is not TaskState.PUSHED:
            return None
        return task

    def over(self, task: Task, event: TaskEvent) -> None:
        """The task ended (ANSWERED or GIVEN_UP): forget it."""
        task.step(event)
        del self.tasks[task.task_id]

    def worker_lost(self, task: Task) -> bool:
        """The worker that ran it died. True: queued for another attempt. False: no attempt is left."""
        if not task.may_retry():
            return False
        task.step(TaskEvent.WORKER_LOST)
        task.attempt += 1
        return True
