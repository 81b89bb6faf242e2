"""Calls that an actor answered and may have to run again: kept by their caller until a checkpoint has them.

Called by:  runtime.replay, under the owner's lock.
Imports:    nbray.core.{actor_calls,tasks}.
Never:      sends, waits, reads a clock.

An actor with checkpoints comes back with the state of the last one. What it was told since then its callers
tell it again, each what it had told, in order, before anything else: for the effect alone, since the results
were seen and do not change.

Calls of one caller are numbered by nothing but their order: those that are *in the state* of the actor come
first. When a connection is made the actor says how many of this caller its state has (``begin``); from then
on it runs what comes in order, so both sides count the same. Numbers of calls that never get into a state do
not exist: a call that was lost with its process and may not be tried again leaves no gap. One that was given
up here and runs all the same has a number, and stands as None.

That a checkpoint never has a call whose answer can be lost is the actor's part (``worker.checkpoints``): all
answers are in the kernel's hands before a checkpoint counts, and what is there outlives the process.

Calls that a checkpoint covers are kept, too, while they are cheap: a checkpoint that turns out to be unusable
sends the actor back to an older one, or to its constructor. They hold no references then, and a few
megabytes of them are kept, the last ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from nbray.core.actor_calls import Route, RouteState
from nbray.core.tasks import Task, TaskSpec, TaskState

#: So much memory covered calls may take on one route.
COVERED_MAX_BYTES = 4 * 1024 * 1024
#: What a call takes beside its arguments.
CALL_BYTES = 300


class ReplaySpec(TaskSpec, eq=False):
    """Of calls that run again for their effect: they have no results, and are tried again without end."""


def is_replay(task: Task) -> bool:
    """Whether a call was answered in an earlier life of the actor."""
    return type(task.spec) is ReplaySpec


class Begun(NamedTuple):
    """What follows from the state that an actor has when a connection to it is made.

    ``again`` were put before all that is queued; the host registers them as tasks. ``skipped`` were queued to
    run again and need not. ``released``: nobody needs the arguments of these any more. ``missing``: so many
    calls are not in the state, and nobody can run them again.
    """

    again: list[Task]
    skipped: list[Task]
    released: list[Task]
    missing: int


class KeptCalls:
    """Of one route. ``covered`` calls are in a checkpoint, then come ``calls``, which are in the state."""

    __slots__ = ("_bytes", "_specs", "archive", "calls", "covered")

    def __init__(self) -> None:
        self.covered = 0
        self.calls: deque[Task | None] = deque()
        self.archive: deque[Task | None] = deque()  # the last covered ones
        self._bytes = 0
        self._specs: dict[TaskSpec, ReplaySpec] = {}

    def answered(self, task: Task, holds: Sequence[bytes]) -> None:
        """A call is in the state now, and its result was seen. ``holds`` is what is held to run it again."""
        again = msgspec.structs.replace(
            task, spec=self._spec_of(task.spec), attempt=task.attempt + 1, results=(), holds=holds,
            seal_results=False, state=TaskState.QUEUED,
        )  # fmt: skip
        self.calls.append(again)

    def ran_in_vain(self) -> None:
        """A call ran that had been given up here."""
        self.calls.append(None)

    def cover(self, count: int) -> list[Task]:
        """A checkpoint has the first ``count`` calls; returns those whose arguments nobody needs any more."""
        released = []
        for _ in range(min(count - self.covered, len(self.calls))):
            self.covered += 1
            task = self.calls.popleft()
            if task is not None and task.holds:
                released.append(task)
            self._archive(task)
        return released

    def clear(self) -> list[Task]:
        """The actor is dead: nothing is needed any more. Returns as ``cover`` does."""
        released = [task for task in self.calls if task is not None and task.holds]
        self.calls.clear()
        self._forget_archive()
        return released

    def go_back_to(self, count: int) -> int:
        """The state has no more than ``count`` calls. Returns how many of the others nobody has any more."""
        back = self.covered - count
        there = min(back, len(self.archive))
        for _ in range(there):
            task = self.archive.pop()
            self._bytes -= _size_of(task)
            self.calls.appendleft(task)
        if there < back:
            self._forget_archive()
        self.covered = count
        return back - there

    def begin(self, count: int, queue: deque[Task]) -> tuple[int, list[Task], list[Task]]:
        """As ``begin`` of this module. Returns (missing, released, skipped)."""
        missing, released, skipped = 0, list[Task](), list[Task]()
        if count < self.covered:
            missing = self.go_back_to(count)
        else:
            released = self.cover(count)
            # A checkpoint of a life before the last one may have what the last one did not get round to.
            while self.covered < count and queue and is_replay(queue[0]):
                task = queue.popleft()
                skipped.append(task)
                self.covered += 1
                self._archive(task)
            if self.covered < count:  # calls on a route that this process had before this one
                self._forget_archive()
                self.covered = count
        return missing, released, skipped

    def _archive(self, task: Task | None) -> None:
        if task is not None and task.holds:  # what came before it is of no use without it
            self._forget_archive()
            return
        self.archive.append(task)
        self._bytes += _size_of(task)
        while self._bytes > COVERED_MAX_BYTES:
            self._bytes -= _size_of(self.archive.popleft())

    def _forget_archive(self) -> None:
        self.archive.clear()
        self._bytes = 0

    def _spec_of(self, spec: TaskSpec) -> ReplaySpec:
        if type(spec) is ReplaySpec:
            return spec
        twin = self._specs.get(spec)
        if twin is None:
            # Its number is told to the actor beside those of the others, which are above 0.
            changes = {"spec_id": -spec.spec_id, "num_returns": 0, "max_retries": -1}
            twin = self._specs[spec] = ReplaySpec(**{**msgspec.structs.asdict(spec), **changes})
        return twin


def begin(route: Route, count: int) -> Begun:
    """There is a connection, and the state of the actor has ``count`` calls of this caller."""
    kept: KeptCalls = route.kept
    missing, released, skipped = kept.begin(count, route.queue)
    again = [task for task in kept.calls if task is not None]
    kept.calls.clear()
    route.queue.extendleft(reversed(again))
    route.state = RouteState.OPEN
    return Begun(again, skipped, released, missing)


def take_strays(route: Route, task_ids: Sequence[bytes]) -> None:
    """These ran; those that are still on the books had been given up here meanwhile."""
    kept: KeptCalls = route.kept
    for task_id in task_ids:
        if route.inflight.pop(task_id, None) is not None:
            kept.ran_in_vain()


def drop_replays(route: Route) -> list[Task]:
    """Nothing runs again. Returns what would have, or is about to: these are tasks still."""
    replays = [task for task in (*route.inflight.values(), *route.queue) if is_replay(task)]
    for task in replays:
        route.inflight.pop(task.task_id, None)
    route.queue = deque(task for task in route.queue if not is_replay(task))
    return replays


def _size_of(task: Task | None) -> int:
    return CALL_BYTES + (len(task.args) if task is not None and type(task.args) is bytes else 0)
