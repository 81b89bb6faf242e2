"""What tasks take: held until they are over, waited for, moved to the store, brought back from the disk.

Called by:  runtime.submitter.
Imports:    core.{leases,references,tasks}, runtime.{objects,task_errors}.
Never:      pushes a task.

All methods: lock held.

What tasks take must be in the store all at once, and their results beside it. So once the store was full,
tasks wait their turn: the eldest are *admitted*, as many as may be there together; what they take is brought
back, and stays until they are over. Without that the arguments of a long queue would fill the store, and no
result would find room.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from nbray.core.leases import Lease, LeasePool, LeaseState
from nbray.core.references import Away, Entry
from nbray.core.tasks import Task, TaskState, TaskTable
from nbray.model.limits import INLINE_MAX_BYTES, INLINE_TOTAL_MAX_BYTES
from nbray.runtime.objects import Objects
from nbray.runtime.task_errors import references_in
from nbray.wire.base import Descriptor, Value

#: Fewer arguments than this cannot be too much together.
MANY = INLINE_TOTAL_MAX_BYTES // INLINE_MAX_BYTES
#: A task with more arguments than this does not wait for a batch.
BULKY_BYTES = 4096
#: What pushed and admitted tasks take is no more than this share of the store, or is of one task.
_SHARE = 2
#: After so long the eldest is admitted although it does not fit: what it takes is read where it lies.
PATIENCE_S = 1.0


class _Use:
    __slots__ = ("size_bytes", "tasks")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.tasks = 0


class TaskArguments:
    """The arguments of one owner's tasks."""

    def __init__(self, objects: Objects, tasks: TaskTable, pool: LeasePool) -> None:
        self._objects = objects
        self._tasks = tasks
        self._pool = pool
        self.parked: deque[Task] = deque()  # they wait to be admitted, eldest first
        self.admitted: dict[bytes, list[bytes]] = {}  # task -> what it takes from the store
        self._used: dict[bytes, _Use] = {}  # by object: what they take together
        self._used_bytes = 0
        self._eldest = (b"", 0.0)  # of the parked, and since when

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
                error = self._objects.reading.error_of(entry)
                if error is None:  # it was yielded: asked for when the task is about to leave
                    continue
                if entry.inner or entry.owner is not None:
                    inner = references_in(error)
                    for result in task.results:
                        if self._objects.is_alive(result):
                            self._objects.contain(result, inner)
                return error
        if type(task.args) is Descriptor:  # what was passed by value may have been lost
            entry = entries[task.args.object_id]
            return entry.value if entry.failed and type(entry.value) is bytes else None
        return None

    def is_doubtful(self, task: Task) -> bool:
        """Whether something that it takes may not be at hand: it was yielded, or lost, since it was ready."""
        if self._objects.away:
            return True
        entries = self._objects.table.entries
        return None in [entries[object_id].value for object_id in task.dependencies]

    def withdraw(self, lease: Lease, task: Task) -> bool:
        """Do not push it if something that it takes was yielded or lost meanwhile, or is too much together.

        Call ``admit`` soon.
        """
        needed = self._needed(task)
        is_there = not self.late(task)
        is_admitted = task.task_id in self.admitted
        if is_there and (is_admitted or self._fit(needed)):
            if not is_admitted:
                self._take(task, needed)
            return False
        self._pool.withdrawn(lease, task, 1)  # to be admitted
        if is_admitted:
            self._leave(task)
            self.parked.appendleft(task)  # something of it was lost
        else:
            self.parked.append(task)
        return True

    def admit(self, now_s: float) -> list[Task]:
        """Have what the eldest take brought back; returns those of them that miss nothing.

        Call it again within ``PATIENCE_S`` while tasks are parked.
        """
        ready = []
        while self.parked:
            task = self.parked[0]
            if task.state is TaskState.WAITING:
                needed = self._needed(task)
                if not self._fit(needed) and not self._is_patience_over(task, now_s):
                    break
                self._take(task, needed)
                late = self.late(task)
                task.missing += len(late)
                for entry in late:
                    if entry.dependents is None:
                        entry.dependents = []
                    entry.dependents.append(task)
                self._objects.ask(late)
                if self._tasks.argument_ready(task):
                    ready.append(task)
            self.parked.popleft()
        return ready

    def _is_patience_over(self, task: Task, now_s: float) -> bool:
        """The eldest does not wait for ever: who keeps it waiting may look for its result now and then."""
        if self._eldest[0] != task.task_id:
            self._eldest = (task.task_id, now_s)
        return now_s - self._eldest[1] >= PATIENCE_S

    def over(self, task: Task) -> None:
        """It needs its arguments no more."""
        if self.admitted:
            self._leave(task)
        self._objects.release_arguments(task.holds)

    def _take(self, task: Task, needed: list[bytes]) -> None:
        self.admitted[task.task_id] = needed
        for object_id in needed:
            use = self._used.get(object_id)
            if use is None:
                use = self._used[object_id] = _Use(self._size_of(object_id))
                self._used_bytes += use.size_bytes
            use.tasks += 1

    def _leave(self, task: Task) -> None:
        for object_id in self.admitted.pop(task.task_id, ()):
            use = self._used[object_id]
            use.tasks -= 1
            if not use.tasks:
                del self._used[object_id]
                self._used_bytes -= use.size_bytes

    def _taken(self, task: Task) -> list[Entry]:
        entries = self._objects.table.entries
        taken = dict.fromkeys(task.dependencies)
        if type(task.args) is Descriptor:
            taken[task.args.object_id] = None
        return [entries[object_id] for object_id in taken]

    def _needed(self, task: Task) -> list[bytes]:
        """What it takes that lies in the store, or on the disk."""
        return [e.object_id for e in self._taken(task) if type(e.value) in (Descriptor, Away)]

    def late(self, task: Task) -> list[Entry]:
        """What it takes that has to be brought back, or is being made again."""
        return [e for e in self._taken(task) if e.value is None or type(e.value) is Away]

    def _fit(self, needed: list[bytes]) -> bool:
        """Whether these may be in the store beside what admitted tasks take.

        Tasks that are blocked do not count: they may wait for the very one.
        """
        mapping = self._objects.mapping
        more_bytes = sum(self._size_of(object_id) for object_id in needed if object_id not in self._used)
        if not more_bytes or mapping is None:
            return True
        used_bytes = self._used_bytes - self._blocked_bytes()
        return used_bytes <= 0 or used_bytes + more_bytes <= mapping.capacity_bytes // _SHARE

    def _blocked_bytes(self) -> int:
        """What only tasks take whose workers are blocked; of what several take, more or less."""
        taken: set[bytes] = set()
        for lease in self._pool.by_id.values():
            if lease.state is LeaseState.PAUSED:
                for task in lease.inflight:
                    taken.update(self.admitted.get(task.task_id, ()))
        return sum(self._used[object_id].size_bytes for object_id in taken)

    def _size_of(self, object_id: bytes) -> int:
        value = self._objects.table.entries[object_id].value
        return value.size_bytes if isinstance(value, (Descriptor, Away)) else 0

    def values(self, task: Task) -> tuple[Value, list[Any], bool]:
        """What a task takes, all of it ready, as it is about to leave.

        Returns its arguments, the values of references among them, and whether they leave at once.
        """
        entries = self._objects.table.entries
        args = task.args
        if type(args) is Descriptor:
            found = entries[args.object_id].value  # it may have been moved
            assert type(found) is Descriptor
            args = found
        if not task.dependencies:
            return args, [], type(args) is bytes and len(args) > BULKY_BYTES
        for object_id in task.dependencies:
            if entries[object_id].inner:  # references in values leave with them
                self._objects.share(entries[object_id].inner)
        return args, [entries[object_id].value for object_id in task.dependencies], True

    def in_use(self) -> set[bytes]:
        """Objects whose bytes stay where they are: of tasks that were pushed to workers, or admitted."""
        used = set(self._used)
        for lease in self._pool.by_id.values():
            for task in lease.inflight:
                used.update(task.holds)
        return used
