"""Makes lost results again, by running the tasks that made them.

Called by:  runtime.{objects,submitter,process}.
Imports:    core.{lineage,references,tasks}, runtime.{objects,submitter}.
Never:      decides what must run (``core.lineage`` does).

All methods: lock held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from nbray.core.actor_calls import Route
from nbray.core.lineage import CannotBeMadeError, Kept, Lineage
from nbray.core.references import Away, Entry
from nbray.core.tasks import Task, TaskState
from nbray.wire.base import Descriptor

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects
    from nbray.runtime.submitter import Submitter


class Recomputing:
    """The lineage of one owner, and its hands."""

    def __init__(self, objects: Objects, submitter: Submitter) -> None:
        self.lineage = Lineage()
        self._objects = objects
        self._submitter = submitter

    def keep(self, task: Task) -> None:
        """A task was answered, with a result in the store."""
        if type(task.spec.pooled) is Route:  # what an actor makes depends on all that it did before
            return
        known = self._objects.table.entries
        results = [
            entry.object_id
            for entry in task.results
            if type(entry.value) in (Descriptor, Away) and entry.object_id in known
        ]
        if results:
            self.lineage.keep(task, results, known)

    def gone(self, object_ids: Sequence[bytes]) -> None:
        """These own objects are let go of."""
        for object_id in object_ids:
            self.lineage.result_gone(object_id)

    def recompute(self, entry: Entry) -> str:
        """The bytes of an own object are gone: have it made again. Returns why that cannot be, or ""."""
        known = self._objects.table.entries
        try:
            plan = self.lineage.plan(entry.object_id, known)
        except CannotBeMadeError as exc:
            return str(exc)
        self._objects.forget_value(entry)
        for kept in plan:
            for object_id in kept.task.dependencies:
                if object_id not in known:
                    known[object_id] = Entry(object_id, None, value=kept.values.get(object_id))
        for kept in plan:
            self._run_again(kept, known)
        return ""

    def _run_again(self, kept: Kept, known: dict[bytes, Entry]) -> None:
        running = self._submitter.tasks.tasks.get(kept.task.task_id)
        if running is not None:  # for the sake of another of its results
            running.results = [known.get(entry.object_id, entry) for entry in running.results]
            return
        task = msgspec.structs.replace(kept.task, attempt=kept.task.attempt + 1, state=TaskState.WAITING)
        task.results = [known.get(entry.object_id, entry) for entry in task.results]
        task.seal_results = task.seal_results or any(entry.shared for entry in task.results)
        kept.task = task
        self._submitter.submit(task)
