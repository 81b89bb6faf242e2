"""Keeps answered calls of actors with checkpoints, and has them run again after a restart.

Called by:  runtime.actors.
Imports:    core.{actor_calls,kept_calls,tasks}, runtime.{objects,task_arguments}, wire.
Never:      decides what is kept or runs again: that is core.kept_calls'.

A call that runs again is a task like others, without results. Its arguments are held as long as it is kept.

All methods: lock held.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from nbray.core import actor_calls, kept_calls
from nbray.core.actor_calls import Route
from nbray.core.kept_calls import KeptCalls, is_replay
from nbray.core.tasks import Task
from nbray.wire.actor_messages import CallsCovered, StateHas
from nbray.wire.base import Message
from nbray.wire.messages import TaskAnswer

if TYPE_CHECKING:
    from nbray.runtime.process import Process

logger = logging.getLogger("nbray")


class Replays:
    """Of all routes of one process on which calls may have to run again.

    Kept calls do not hold what the handles of their actor hold: it must not live on for their sake.
    """

    def __init__(self, process: Process) -> None:
        self._loop = process.loop
        self._objects = process.objects
        self._tasks = process.submitter.tasks
        self._arguments = process.submitter.arguments

    def answered(self, route: Route, task: Task, _now_s: float = 0.0) -> bool:
        """As ``core.actor_calls.answered``; the call is kept."""
        if not actor_calls.answered(route, task):
            return False
        holds = task.holds
        if holds:
            entry = route.host.entry
            holds = [object_id for object_id in holds if entry is None or object_id != entry.object_id]
            for object_id in holds:
                self._objects.table.hold_argument(object_id)
        _kept(route).answered(task, holds)
        return True

    def strays(self, route: Route, answers: list[TaskAnswer]) -> None:
        """These were delivered."""
        if route.inflight:
            kept_calls.take_strays(route, [answer.task_id for answer in answers])

    def heard(self, route: Route, message: Message) -> bool:
        """The actor says something. True: calls may be sent now."""
        if type(message) is CallsCovered:
            self._release(_kept(route).cover(message.calls))
        elif type(message) is StateHas:
            self._begin(route, message.calls)
            return True
        return False

    def is_needed(self, route: Route) -> bool:
        """Whether calls are kept that no checkpoint covers."""
        return route.kept is not None and bool(_kept(route).calls or route.queue or route.inflight)

    def gave_up(self, route: Route, task: Task) -> None:
        """A call that was to run again cannot: an argument is lost."""
        if is_replay(task):
            self._tell(
                f"A call of {task.name} cannot run again after the actor's restart, since an argument of it "
                "is lost: its effect is missing in the actor's state."
            )

    def died(self, route: Route) -> None:
        """The actor is dead for good, or nobody here will know of it any more."""
        if route.kept is None:
            return
        for task in kept_calls.drop_replays(route):
            self._tasks.given_up(task)
            self._arguments.over(task)
        self._release(_kept(route).clear())

    def _begin(self, route: Route, count: int) -> None:
        begun = kept_calls.begin(route, count)
        for task in begun.again:
            self._tasks.add_ready(task)
        for task in begun.skipped:
            self._tasks.given_up(task)
        self._release(begun.skipped)
        self._release(begun.released)
        if begun.missing:
            self._tell(
                f"{route.host.class_name} was restarted from an older checkpoint, or from its constructor. "
                f"{begun.missing} calls from here are missing in its state: a newer checkpoint had them, so "
                "nobody keeps them any more. Look for an earlier error that says why that one was not used."
            )

    def _release(self, tasks: list[Task]) -> None:
        for task in tasks:
            if task.holds:
                self._objects.release_arguments(task.holds)

    def _tell(self, text: str) -> None:
        # The seam for ``runtime.pushed_errors.push("checkpoint", text)``.
        self._loop.later.append(partial(logger.error, "%s", text))


def _kept(route: Route) -> KeptCalls:
    kept: KeptCalls = route.kept
    return kept
