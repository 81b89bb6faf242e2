"""An owner's tasks that it runs itself: taken out of their queue, and answered without a message.

Called by:  worker.nesting.
Imports:    core.{inlining,references,tasks}, runtime.{objects,submitter,blocking}, wire.
Never:      runs anything (``worker.nesting`` does), or takes a task that a worker has.

All methods: lock held.
"""

from __future__ import annotations

from functools import partial

from nbray.core.inlining import to_run
from nbray.core.references import Away
from nbray.core.tasks import Task
from nbray.runtime.blocking import Wait
from nbray.runtime.objects import Objects
from nbray.runtime.refs import ObjectRef, pairs_of
from nbray.runtime.submitter import Submitter
from nbray.wire.base import Descriptor, Value
from nbray.wire.messages import TaskCall


class OwnTasks:
    """The tasks of this process, for a thread of its own."""

    def __init__(self, submitter: Submitter, objects: Objects) -> None:
        self._submitter = submitter
        self._objects = objects
        self._entries = objects.table.entries

    def take(self, wait: Wait, lease_id: bytes) -> Task | None:
        """What this wait depends on and no worker has; its request for a worker goes back, if need be."""
        wanted = [entry.object_id for entry in wait.entries if entry.value is None]
        needs_all = wait.waiter.remaining >= len(wanted)
        task = to_run(self._submitter.tasks.tasks, wanted, needs_all, self._is_missing)
        if task is None or any(type(self._entries[o].value) is Away for o in task.holds):
            return None
        self._submitter.run(partial(self._submitter.pool.take_out, task, lease_id))
        return task

    def _is_missing(self, object_id: bytes) -> bool:
        return self._entries[object_id].value is None

    def put_back(self, task: Task) -> None:
        """It was not begun, and will not be: its wait ended."""
        self._submitter.run(partial(self._submitter.pool.put_back, task))

    def call(self, task: Task) -> TaskCall:
        """What a worker would be told."""
        args = task.args
        if type(args) is Descriptor:
            args = self._there(args.object_id)
        values = [self._there(object_id) for object_id in task.dependencies]
        spec_id = task.spec.spec_id
        return TaskCall(task.task_id, task.attempt, spec_id, args, values, task.seal_results)

    def _there(self, object_id: bytes) -> Value:
        value = self._entries[object_id].value
        assert type(value) is bytes or type(value) is Descriptor
        return value

    def contain(self, task: Task, refs: list[list[ObjectRef]]) -> None:
        """The references in its results."""
        for entry, some in zip(task.results, refs, strict=True):
            if some and self._objects.is_alive(entry):
                self._objects.contain(entry, pairs_of(some))

    def answered(self, task: Task, values: list[Value], failed: bool) -> None:
        """It is over; whoever waits for it hears it."""
        submitter = self._submitter
        submitter.tasks.answered(task)
        for entry, value in zip(task.results, values, strict=True):
            self._objects.deliver_to(entry, value, failed)
        submitter.recomputing.keep(task)
        if task.holds:
            submitter.arguments.over(task)
