"""Nested tasks at the cap of processes: who runs the task that it waits for by itself, and which one.

Called by:  node.daemon (``Relief``), worker.inlining (``to_run``).
Imports:    nbray.core.{tasks,workers,worker_process}, nbray.model.
Never:      forks, sends, reads a clock.

A worker that waits keeps its process, and so trees and chains of tasks that wait for each other would need as
many processes as they are deep. There are only so many. At the cap a worker that is blocked runs the
unstarted task that its own wait depends on, and only that one: any other might wait in its turn for what
stands below it on the same stack, which would be a deadlock.

A wait that is not for a task of its own, or that other tasks may end, or that is an ``await``, cannot be
ended that way. When nobody runs, and who was asked declined, one more process is started than there should
be: what could end must not hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from nbray.core.tasks import Task, TaskState
from nbray.core.workers import WorkerPool
from nbray.model import ids


class AskOwner(NamedTuple):
    """Ask this blocked process, whose lease has no worker, to run the task that it waits for."""

    process_id: bytes
    lease_id: bytes


class StartOneMore(NamedTuple):
    """Start a process although there are as many as there should be."""


Command = AskOwner | StartOneMore


class Relief:
    """Of one node whose processes are all taken.

    Args:
        owner_of: the process that asked for a lease.
    """

    def __init__(self, pool: WorkerPool, owner_of: Callable[[bytes], bytes | None]) -> None:
        self._pool = pool
        self._owner_of = owner_of
        #: Leases whose owner was asked, and whether it declined.
        self._asked: dict[bytes, bool] = {}

    def look(self, out: list[Command]) -> None:
        """Something changed: is there a lease for which no process can come?"""
        pool = self._pool
        if not pool.is_exhausted():
            self._asked.clear()
            return
        waiting = pool.waiting()
        self._asked = {lease_id: self._asked[lease_id] for lease_id in waiting if lease_id in self._asked}
        for lease_id in waiting:
            owner = self._owner_of(lease_id)
            if owner is not None and lease_id not in self._asked and pool.is_blocked(owner):
                self._asked[lease_id] = False
                out.append(AskOwner(owner, lease_id))
        if not pool.runs_any() and all(self._asked.values()) and pool.may_exceed():
            out.append(StartOneMore())

    def declined(self, lease_id: bytes, out: list[Command]) -> None:
        """Its owner cannot end its own wait."""
        if lease_id in self._asked:
            self._asked[lease_id] = True
            self.look(out)

    def blocked(self, process_id: bytes) -> None:
        """It waits again, maybe for something else: what it answered does not count any more."""
        if self._asked:
            self._asked = {
                lease_id: answer
                for lease_id, answer in self._asked.items()
                if self._owner_of(lease_id) != process_id
            }


def to_run(
    tasks: dict[bytes, Task], wanted: Iterable[bytes], needs_all: bool, is_missing: Callable[[bytes], bool]
) -> Task | None:
    """The unstarted task that a wait depends on; None if there is none here, or it may end without it.

    Args:
        tasks: all of this process that are not over.
        wanted: the objects that are waited for and are not there.
        needs_all: the wait ends only when all of them are there.
        is_missing: whether an argument of a task is still to come.
    """
    some = list(wanted)
    if not needs_all:
        makers = [tasks.get(object_id[: ids.TASK_ID_BYTES]) for object_id in some]
        if any(task is None or task.state in _ELSEWHERE for task in makers):
            return None
    seen: set[bytes] = set()
    some.reverse()
    while some:  # not recursive: chains may be long
        task = tasks.get(some.pop()[: ids.TASK_ID_BYTES])
        if task is None or task.task_id in seen:
            continue
        seen.add(task.task_id)
        if task.state is TaskState.QUEUED:
            return task
        if task.state is TaskState.WAITING:
            some += [object_id for object_id in reversed(task.dependencies) if is_missing(object_id)]
    return None


_ELSEWHERE = (TaskState.PUSHED, TaskState.CANCELLING)
