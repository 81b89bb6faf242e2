"""Which task this process is working for: where the IDs of its children come from.

Called by:  runtime.process, worker.executor.
Imports:    nbray.model.
Never:      is shared between processes.
"""

from __future__ import annotations

import itertools

from nbray.model import ids


class TaskContext:
    """One attempt of one task, or the driver's whole session, as a parent of tasks.

    ``next_number`` is atomic, so threads of one task may submit at the same time.
    """

    __slots__ = ("attempt", "cell", "depth", "name", "next_number", "scope", "task_id")

    def __init__(self, job_id: bytes, task_id: bytes, attempt: int, depth: int, name: str, cell: str) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.depth = depth  # of its children: 0 for a driver's
        self.name = name
        self.cell = cell
        self.scope = ids.child_scope(job_id, task_id, attempt)
        self.next_number = itertools.count(1).__next__
