"""How stored results were made, so that lost ones can be made again.

Called by:  runtime.recomputing, under the loop's lock.
Imports:    core.{references,tasks}, model.
Never:      sends, waits, reads a clock.

Kept is a task whose result lies in the store, for as long as that result, or a kept task that takes one of
its results, may need it. Results that rode in a message are not lost while their owner lives, but may be
let go of while a task that took them is kept: their values are kept with it, since they are small. Values
that were put are made by nobody: who takes one that is gone cannot be made again.

What is kept is bounded: beyond ``max_bytes`` the oldest goes, and is counted.

Source: lineage reconstruction of task graphs as in Wang et al., "Lineage Stash", SOSP 2019, and Ray's
ownership paper (Wang et al., NSDI 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from nbray.core.references import Entry
from nbray.core.tasks import Task
from nbray.model.ids import TASK_ID_BYTES

#: Memory that all kept tasks of a process may take together.
MAX_BYTES = 256 * 1024 * 1024
#: What a kept task takes besides its arguments, about.
_TASK_BYTES = 700


class Kept(msgspec.Struct, eq=False):
    """A task that can be run again. ``users`` are live results of it, and kept tasks that take one."""

    task: Task
    values: dict[bytes, bytes]  # small arguments, by object ID
    users: set[bytes]
    size_bytes: int


class CannotBeMadeError(Exception):
    """Why an object cannot be made again; the text is the end of a sentence."""


class Lineage:
    """The kept tasks of one process."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: dict[bytes, Kept] = {}  # by task ID, oldest first
        self.size_bytes = 0
        self.dropped = 0  # for want of room

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, task_id: bytes) -> bool:
        return task_id in self._kept

    def keep(self, task: Task, results: Sequence[bytes], entries: Mapping[bytes, Entry]) -> None:
        """A task was answered, and these results of it lie in the store.

        Args:
            task: must not change any more.
            results: object IDs.
            entries: its arguments are among them.
        """
        kept = self._kept.get(task.task_id)
        if kept is not None:  # it was run again
            kept.task = task
            kept.users.update(results)
            return
        if not task.max_retries or type(task.args) is not bytes:
            return
        values = {}
        for object_id in task.dependencies:
            entry = entries.get(object_id)
            if entry is not None and type(entry.value) is bytes:
                values[object_id] = entry.value
            maker = self._kept.get(object_id[:TASK_ID_BYTES])
            if maker is not None:
                maker.users.add(task.task_id)
        size_bytes = _TASK_BYTES + len(task.args) + sum(map(len, values.values()))
        self._kept[task.task_id] = Kept(task, values, set(results), size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))
            self.dropped += 1

    def result_gone(self, object_id: bytes) -> None:
        """A stored result is let go of: nobody will ask for it any more."""
        self._unused(object_id[:TASK_ID_BYTES], object_id)

    def _unused(self, task_id: bytes, user: bytes) -> None:
        loose = [(task_id, user)]
        while loose:  # not recursive: chains of tasks are long
            task_id, user = loose.pop()
            kept = self._kept.get(task_id)
            if kept is not None:
                kept.users.discard(user)
                if not kept.users:
                    loose += self._drop(task_id)

    def _drop(self, task_id: bytes) -> list[tuple[bytes, bytes]]:
        """Forget a task; returns whose user it was."""
        kept = self._kept.pop(task_id)
        self.size_bytes -= kept.size_bytes
        return [(object_id[:TASK_ID_BYTES], task_id) for object_id in kept.task.dependencies]

    def plan(self, object_id: bytes, entries: Mapping[bytes, Entry]) -> list[Kept]:
        """The tasks that must run again for this object, those first whose results the others take.

        Raises:
            CannotBeMadeError: it, or what it needs, cannot be made again.
        """
        order: list[Kept] = []
        planned: set[bytes] = set()
        stack = [object_id]
        while stack:
            task_id = stack[-1][:TASK_ID_BYTES]
            if task_id in planned:
                stack.pop()
                continue
            kept = self._maker(stack[-1], stack[-1] != object_id)
            missing = self._missing(kept, entries, planned)
            if missing:
                stack += missing
            else:
                planned.add(task_id)
                order.append(kept)
                stack.pop()
        return order

    def _maker(self, object_id: bytes, is_argument: bool) -> Kept:
        what = "a value that it was made from" if is_argument else "it"
        kept = self._kept.get(object_id[:TASK_ID_BYTES])
        if kept is None:
            raise CannotBeMadeError(
                f"{what} was put or passed by value, made by an actor or by a task with max_retries=0, or "
                "was made too long ago: there is no task that would make it again"
            )
        if not kept.task.may_retry():
            runs, limit = kept.task.attempt + 1, kept.task.max_retries
            raise CannotBeMadeError(
                f"the task {kept.task.name}, which made {what}, has run {runs} times, as often as its "
                f"max_retries={limit} allows"
            )
        return kept

    @staticmethod
    def _missing(kept: Kept, entries: Mapping[bytes, Entry], planned: set[bytes]) -> list[bytes]:
        for object_id in kept.task.holds:
            if object_id not in entries and object_id not in kept.task.dependencies:
                raise CannotBeMadeError(
                    f"a reference inside the arguments of the task {kept.task.name} leads nowhere any more"
                )
        return [
            object_id
            for object_id in kept.task.dependencies
            if object_id not in entries
            and object_id not in kept.values
            and object_id[:TASK_ID_BYTES] not in planned
        ]
