"""Which task this process is working for: where the IDs of its children come from.

Called by:  runtime.process, worker.executor.
Imports:    msgspec, nbray.model.
Never:      is shared between processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import msgspec

from nbray.model import ids


class Place(msgspec.Struct, eq=False, gc=False):
    """Where calls come from, as far as what they have in common goes: see ``core.tasks.TaskSpec``.

    Compared by identity: calls from one place and of one session share their specs.
    """

    cell: str  # of the notebook
    depth: int  # 0 for a driver's tasks, 1 for their children, ...


class TaskContext(msgspec.Struct, eq=False, gc=False):
    """One attempt of one task, or the driver's whole session, as a parent of tasks.

    A struct, since a worker makes one for every task; what only parents need is made when it is asked for.
    """

    job_id: bytes
    task_id: bytes
    attempt: int
    name: str
    place: Place
    numbers: Iterator[int]
    _scope: bytes = b""

    @property
    def scope(self) -> bytes:
        """What the IDs of all its children begin with."""
        if not self._scope:
            self._scope = ids.child_scope(self.job_id, self.task_id, self.attempt)
        return self._scope

    @property
    def cell(self) -> str:
        return self.place.cell

    def next_number(self) -> int:
        """The next child's. Atomic, so threads of one task may submit at the same time."""
        return next(self.numbers)

    def enter_cell(self, cell: str) -> None:
        """From now on this cell of the notebook submits."""
        if cell != self.place.cell:
            self.place = Place(cell, self.place.depth)


def new_context(job_id: bytes, task_id: bytes, attempt: int, name: str, place: Place) -> TaskContext:
    """A context that counts its children from 1."""
    return TaskContext(job_id, task_id, attempt, name, place, count(1))
