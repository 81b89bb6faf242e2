"""The tasks of one shape at their owner: a queue from which tasks may vanish, and how long they take.

Called by:  core.leases, which decides what becomes of them.
Imports:    nbray.core.tasks, nbray.model.
Never:      decides who runs a task.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nbray.core.tasks import Task, TaskState
from nbray.model.resources import Shape

if TYPE_CHECKING:
    from nbray.core.leases import Lease

PIPELINE_US = 5_000
#: As deep as two batches of answers (``worker.executor``): one is under way while the other runs.
PIPELINE_MAX = 128
#: So many cancelled tasks may always stay in a queue.
_SWEPT_FROM = 32
_QUEUED = TaskState.QUEUED


class ShapeQueue:
    """The tasks and leases of one shape.

    Cancelled tasks stay in ``queue`` (to find one takes as long as the queue is), but never at its head;
    ``gone`` counts them. When they are more than the others they are swept out.
    """

    __slots__ = (
        "depth", "execution_us", "gone", "is_ripe", "is_served", "leases", "queue", "requests", "shape",
    )  # fmt: skip

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.queue: deque[Task] = deque()
        self.gone = 0
        self.leases: dict[bytes, Lease] = {}  # granted
        self.requests: dict[bytes, Lease] = {}  # not granted yet
        self.execution_us = -1.0  # smoothed; below zero: nothing measured yet
        self.depth = 1  # how many tasks may be in flight on one lease
        #: It has, or has asked for, all workers that it may have; what takes one away says no.
        self.is_served = False
        #: Leases that are busy have room for what is queued: ``LeasePool.feed_ripe`` pushes it, many at once.
        self.is_ripe = False

    def drop(self) -> None:
        """A task in the queue was cancelled."""
        self.gone += 1
        if self.gone > _SWEPT_FROM and 2 * self.gone > len(self.queue):
            self.queue = deque(task for task in self.queue if task.state is _QUEUED)
            self.gone = 0
        else:
            self._uncover()

    def take(self) -> Task:
        """The first of the queue, which has one."""
        task = self.queue.popleft()
        if self.gone:
            self._uncover()
        return task

    def remove(self, task: Task) -> None:
        """One of the queue, wherever it stands."""
        self.queue.remove(task)
        self._uncover()

    def take_all(self) -> list[Task]:
        waiting = [task for task in self.queue if task.state is _QUEUED]
        self.queue.clear()
        self.gone = 0
        return waiting

    def _uncover(self) -> None:
        queue = self.queue
        while queue and queue[0].state is not _QUEUED:
            queue.popleft()
            self.gone -= 1

    def measured(self, execution_us: int) -> None:
        """A task took that long.

        Slower counts at once, faster only gradually: a queue behind a slow task costs more than a pipeline
        that is shallow for a moment.
        """
        known = self.execution_us
        if known >= 0:
            weight = 0.5 if execution_us > known else 0.2
            self.execution_us = known + (execution_us - known) * weight
        else:
            self.execution_us = execution_us
        self.depth = max(1, min(PIPELINE_MAX, int(PIPELINE_US / (self.execution_us + 1.0))))
