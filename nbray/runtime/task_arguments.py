"""What tasks take: held until they are over, waited for, moved to the store, brought back from the disk.

Called by:  runtime.submitter.
Imports:    core.{leases,references,tasks}, runtime.{objects,task_errors}.
Never:      pushes a task.

All methods: lock held.
"""

from __future__ import annotations

from nbray.core.leases import Lease, LeasePool
from nbray.core.references import Away
from nbray.core.tasks import Task, TaskTable
from nbray.model.limits import INLINE_MAX_BYTES, INLINE_TOTAL_MAX_BYTES
from nbray.runtime.objects import Objects
from nbray.runtime.task_errors import references_in
from nbray.wire.base import Descriptor

#: Fewer arguments than this cannot be too much together.
MANY = INLINE_TOTAL_MAX_BYTES // INLINE_MAX_BYTES


class TaskArguments:
    """The arguments of one owner's tasks."""

    def __init__(self, objects: Objects, tasks: TaskTable, pool: LeasePool) -> None:
        self._objects = objects
        self._tasks = tasks
        self._pool = pool

    def hold(self, task: Task) -> int:
        """Keep its arguments until it is over; returns how many of them are still to come."""
        table = self._objects.table
        for object_id in task.holds:
            table.hold_argument(object_id)
        missing = 0
        borrowed = []
        for object_id in task.dependencies:
            entry = table.entries[object_id]
            if entry.value is None:
                missing += 1
                if entry.dependents is None:
                    entry.dependents = []
                entry.dependents.append(task)
                if entry.owner is not None:
                    borrowed.append(entry)
        if borrowed:
            self._objects.ask(borrowed)
        return missing

    def move(self, task: Task) -> bool:
        """Small values that are too much together go to the store; the task is placed again after that."""
        entries = {o: self._objects.table.entries[o] for o in task.dependencies}.values()
        sizes = [len(entry.value) for entry in entries if type(entry.value) is bytes]
        if sum(sizes) <= INLINE_TOTAL_MAX_BYTES:
            return False
        inline = [entry for entry in entries if type(entry.value) is bytes]
        self._tasks.arguments_move(task, len(inline))
        for entry in inline:
            self._objects.promote(entry, task)
        return True

    def error(self, task: Task) -> bytes | None:
        """The body does not run if an argument is an error; the error is passed on.

        The task's results hold the references in it from now on: the argument may go before they do.
        """
        entries = self._objects.table.entries
        for object_id in task.dependencies:
            entry = entries[object_id]
            if entry.failed:
                assert type(entry.value) is bytes  # wherever it came from
                if entry.inner or entry.owner is not None:
                    inner = references_in(entry.value)
                    for result in task.results:
                        if self._objects.is_alive(result):
                            self._objects.contain(result, inner)
                return entry.value
        return None

    def withdraw(self, lease: Lease, task: Task) -> bool:
        """Do not push it if something that it takes was yielded meanwhile: have that brought back."""
        entries = self._objects.table.entries
        needed = list(task.dependencies)
        if type(task.args) is Descriptor:
            needed.append(task.args.object_id)
        away = [entry for entry in {o: entries[o] for o in needed}.values() if type(entry.value) is Away]
        if not away:
            return False
        self._pool.withdrawn(lease, task, len(away))
        for entry in away:
            if entry.dependents is None:
                entry.dependents = []
            entry.dependents.append(task)
        self._objects.ask(away)
        return True

    def share_inner(self, task: Task) -> None:
        """Values are about to leave, and with them the references in them."""
        entries = self._objects.table.entries
        for object_id in task.dependencies:
            if entries[object_id].inner:
                self._objects.share(entries[object_id].inner)

    def in_use(self) -> set[bytes]:
        """Objects that tasks use which were pushed to workers."""
        used: set[bytes] = set()
        for lease in self._pool.by_id.values():
            for task in lease.inflight:
                used.update(task.holds)
        return used
