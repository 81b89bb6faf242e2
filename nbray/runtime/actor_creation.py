"""Constructors of actors on their way: their arguments, and who keeps them.

Called by:  runtime.actors.
Imports:    core.{actor_calls,references,tasks}, runtime.{refs,task_arguments}, wire.
Never:      knows where an actor is.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from nbray.core.actor_calls import Creation
from nbray.core.references import Entry
from nbray.core.tasks import Task, TaskSpec, TaskState
from nbray.model import ids
from nbray.runtime.refs import ObjectRef, make_ref
from nbray.runtime.task_arguments import MANY
from nbray.wire.actor_messages import ActorSpec, CreateActor, FailActor, UnwatchActor

if TYPE_CHECKING:
    from nbray.runtime.actors import Actors
    from nbray.runtime.process import Process


class Creations:
    """The actors that this process made. Methods: lock held, unless they say otherwise."""

    def __init__(self, process: Process, actors: Actors) -> None:
        self._process = process
        self._actors = actors
        self._submitter = process.submitter
        self._tasks = process.submitter.tasks
        self._arguments = process.submitter.arguments
        self._own: dict[bytes, Task | None] = {}  # made here -> the constructor while its arguments are kept
        self._classes: set[bytes] = set()  # whose code the daemon has

    def __contains__(self, actor_id: bytes) -> bool:
        return actor_id in self._own

    def create(
        self, template: ActorSpec, keeps_calls: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, ObjectRef | None]:
        """Have an actor made. Takes the lock.

        Args:
            template: all but who makes it, its ID and its arguments.
            keeps_calls: whether calls may have to run again; see ``route``.
            args: of its constructor.
            kwargs: likewise.

        Returns:
            Its ID, and the reference that its handles hold; None for a detached one, which nobody holds.

        Raises:
            SerializationError: an argument cannot be pickled.
            ObjectStoreFullError: large arguments found no room.
        """
        process = self._process
        place = process.context.place
        name = f"{template.class_name}.__init__"
        spec = TaskSpec(
            0, template.class_id, name, 0, (), 0, place.depth, place.cell, pooled=Creation(template)
        )
        return process.prepare(spec, args, kwargs, partial(self._begin, keeps_calls))

    def _begin(self, keeps_calls: bool, task: Task) -> tuple[bytes, ObjectRef | None]:
        template: ActorSpec = task.spec.pooled.template
        actor_id = task.task_id
        entry: Entry | None = None
        ref: ObjectRef | None = None
        if not template.detached:
            entry = self._process.objects.table.own(ids.result_id(actor_id, 0))
            entry.site = task.spec
            ref = make_ref(entry, self._process.objects.home)
        self._own[actor_id] = task
        self._actors.route(
            actor_id, self._process.process_id, template.class_name, template.max_concurrency, keeps_calls,
            entry,
        )  # fmt: skip
        self._submitter.submit(task)
        self._process.loop.flush()
        return actor_id, ref

    def declare(self, task: Task) -> None:
        """All that its constructor needs is there: the daemon does the rest."""
        error = self._arguments.error(task) if task.dependencies else None
        if error is not None:
            self._submitter.pass_on(task, error)
            return
        if len(task.dependencies) > MANY and self._arguments.move(task):
            return
        if task.holds and self._actors.fetch(task):
            return
        args, values, _ = self._arguments.values(task)
        task.pushed()
        spec = msgspec.structs.replace(
            task.spec.pooled.template,
            actor_id=task.task_id, owner=self._process.process_id, args=args, dependencies=values,
            depth=task.spec.depth, cell=task.spec.cell,
        )  # fmt: skip
        if spec.class_id not in self._classes:
            self._classes.add(spec.class_id)
            self._process.tell_daemon(self._submitter.exports.messages[spec.class_id])
        self._process.tell_daemon(CreateActor(spec))

    def gave_up(self, task: Task, error: bytes) -> None:
        """A constructor will not run: an argument is this error, or found no room."""
        if self._own.get(task.task_id) is task:
            self._own[task.task_id] = None
            self._process.tell_daemon(FailActor(task.task_id, error))

    def released(self, actor_id: bytes) -> None:
        """No handle is left. Its constructor may still be on its way, and need its arguments."""
        if self._own[actor_id] is None:
            self._forget(actor_id)

    def need_no_arguments(self, actor_id: bytes) -> None:
        """Its constructor will not run again."""
        task = self._own.get(actor_id)
        if task is None:
            return
        self._own[actor_id] = None
        if task.task_id in self._tasks.tasks:
            if task.state is TaskState.PUSHED:
                self._tasks.answered(task)
            else:  # it was killed before they were all there
                self._tasks.given_up(task)
            self._arguments.over(task)
        if actor_id not in self._actors.routes:
            self._forget(actor_id)

    def _forget(self, actor_id: bytes) -> None:
        """Nobody has a handle, and its constructor has run: it is the daemon's alone."""
        del self._own[actor_id]
        self._process.tell_daemon(UnwatchActor(actor_id))
