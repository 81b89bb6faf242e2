"""Tasks that were ended for want of memory: their next attempt waits until there is some.

Called by:  runtime.submitter, with the loop's lock held.
Imports:    core.tasks, wire.
Never:      lets a task wait for ever: after a while it is tried all the same, at the cost of an attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nbray.core.memory_watch import ROOM_PATIENCE_S
from nbray.core.tasks import Task, TaskState, TaskTable
from nbray.wire.messages import WorkerLost
from nbray.wire.waiting_messages import BY_MEMORY

_monotonic = time.monotonic

#: The daemon gives up waiting first.
_PATIENCE_S = ROOM_PATIENCE_S + 10.0
#: The memory of a dead process is given back some time after it died: nobody begins sooner.
_SOONEST_S = 0.5


class Relief:
    """The tasks of one owner that wait for memory, as others do for their arguments.

    Args:
        ready: what one of them waited for is there.
        arm: has ``housekeeping`` called at a time.
    """

    def __init__(self, tasks: TaskTable, ready: Callable[[Task], None], arm: Callable[[float], None]) -> None:
        self._tasks = tasks
        self._ready = ready
        self._arm = arm
        self._kept: dict[bytes, tuple[Task, float, float]] = {}  # task, soonest, latest
        self._is_eased = False

    def __contains__(self, task: Task) -> bool:
        return task.task_id in self._kept

    def keeps(self, task: Task, cause: WorkerLost | None, now_s: float) -> bool:
        """A task is to run again. True: not yet, since there was no memory for it."""
        if cause is None or cause.cause != BY_MEMORY:
            return False
        task.alone = True
        self._tasks.held_back(task)
        self._is_eased = False
        self._kept[task.task_id] = (task, now_s + _SOONEST_S, now_s + _PATIENCE_S)
        self._arm(now_s + _SOONEST_S)
        return True

    def eased(self) -> None:
        """The daemon says that there is room again."""
        self._is_eased = True
        self.housekeeping(_monotonic())

    def housekeeping(self, now_s: float) -> None:
        """Let those go on whose time has come."""
        if not self._kept:
            return
        for task, soonest_s, latest_s in list(self._kept.values()):
            was_ended = task.state is not TaskState.WAITING  # by its user
            if was_ended or now_s >= (soonest_s if self._is_eased else latest_s):
                del self._kept[task.task_id]
                if not was_ended:
                    self._ready(task)
        if self._kept:
            times = (soonest if self._is_eased else latest for _task, soonest, latest in self._kept.values())
            self._arm(min(times))
