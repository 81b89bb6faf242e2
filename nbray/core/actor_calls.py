"""Calls of actors at their caller: in which order they leave, and what becomes of them when the actor dies.

Called by:  runtime.actors, under the owner's lock.
Imports:    nbray.core.tasks, nbray.wire.actor_messages.
Never:      sends, waits, reads a clock.

A call is a task (``core.tasks``) whose worker is known. One process has one ``Route`` to an actor. On it
calls leave in the order in which they were made, also where arguments of one are ready later than those of
the next; an actor that runs one at a time runs them in that order. One that runs several at a time promises
no order, so there nothing waits for an unready call.

So many are under way at most; what is not, survives the death of a process without having been in doubt.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

from nbray.core.tasks import Task, TaskEvent, TaskState
from nbray.wire.actor_messages import ActorSpec

#: Calls under way on a route, at most; more than an actor with so many threads can run.
WINDOW = 512


class RouteState(Enum):
    SEEKING = "not known where it is"
    OPEN = "connected"
    DEAD = "it is dead"


_OPEN = RouteState.OPEN
_QUEUED, _PUSHED = TaskState.QUEUED, TaskState.PUSHED


class Creation:
    """A constructor on its way: stands in ``core.tasks.TaskSpec.pooled`` as the queue of a shape does."""

    queue: tuple[Task, ...] = ()
    is_served = is_ripe = False  # for ``core.leases``: nothing joins such a queue

    __slots__ = ("template",)

    def __init__(self, template: ActorSpec) -> None:
        self.template = template


class Route:
    """One actor as one of its callers sees it. ``host`` is the host's own record of the connection.

    It stands where ``Creation`` does.
    """

    is_served = is_ripe = False  # as in ``Creation``

    __slots__ = (
        "actor_id", "error", "host", "in_order", "incarnation", "inflight", "is_quiet", "kept", "owner",
        "queue", "state", "window",
    )  # fmt: skip

    def __init__(self, actor_id: bytes, owner: bytes, concurrency: int) -> None:
        self.actor_id = actor_id
        self.owner = owner
        self.state = RouteState.SEEKING
        self.incarnation = -1  # of the process that was last connected to
        self.in_order = concurrency == 1
        self.window = max(WINDOW, 2 * concurrency)
        self.queue: deque[Task] = deque()  # not sent yet, in their order
        self.inflight: dict[bytes, Task] = {}  # sent, in their order
        self.error = b""  # of a dead one
        self.is_quiet = False  # the host looks whether calls come, before it lets go of the actor
        self.host: Any = None
        self.kept: Any = None  # ``core.kept_calls.KeptCalls``, where calls may have to run again

    def __len__(self) -> int:
        return len(self.queue) + len(self.inflight)


def place(route: Route, task: Task) -> bool:
    """A call was made whose arguments are there. True: send it now; False: it is queued."""
    inflight = route.inflight
    if route.queue or route.state is not _OPEN or len(inflight) >= route.window:
        route.queue.append(task)
        return False
    task.pushed()
    inflight[task.task_id] = task
    return True


def hold_place(route: Route, task: Task) -> None:
    """A call was made whose arguments are not all there: where order counts, the next ones wait for it."""
    if route.in_order:
        route.queue.append(task)


def take(route: Route) -> list[Task]:
    """Calls that may be sent now and hold nothing, taken off the queue up to the first one that does."""
    queue, inflight = route.queue, route.inflight
    sent: list[Task] = []
    if route.state is _OPEN:
        room = route.window - len(inflight)
        while room > 0 and queue:
            task = queue[0]
            if task.holds or task.state is not _QUEUED:
                break
            task.state = _PUSHED
            inflight[task.task_id] = task
            sent.append(queue.popleft())
            room -= 1
    return sent


def next_call(route: Route) -> Task | None:
    """The call that may be sent next, taken from the queue: ``send`` it or ``put_back``. None if none may."""
    queue = route.queue
    if route.state is not RouteState.OPEN or len(route.inflight) >= route.window:
        return None
    while queue:
        task = queue[0]
        if task.state is TaskState.WAITING:
            return None
        queue.popleft()
        if task.state is TaskState.QUEUED:  # else it was given up meanwhile
            return task
    return None


def has_room(route: Route) -> bool:
    """Whether to send what is queued: many at once, since a message of many costs little more than one."""
    return bool(route.queue) and route.state is RouteState.OPEN and len(route.inflight) <= route.window // 2


def send(route: Route, task: Task) -> None:
    """It is on its way."""
    task.pushed()
    route.inflight[task.task_id] = task


def put_back(route: Route, task: Task) -> None:
    """It lacks an argument after all: where order counts, the next ones wait for it."""
    if route.in_order:
        route.queue.appendleft(task)


def prune(route: Route) -> None:
    """Forget calls at the head of the queue that were given up."""
    queue = route.queue
    while queue and queue[0].state is TaskState.FAILED:
        queue.popleft()


def arguments_ready(route: Route, task: Task) -> bool:
    """A call that waited has its arguments now. True: send it now; False: ``feed`` sends it in its turn."""
    return not route.in_order and place(route, task)


def answered(route: Route, task: Task, _now_s: float = 0.0) -> bool:
    """A call is over. False: it was another's, so the answer does not count."""
    return route.inflight.pop(task.task_id, None) is not None


def disconnected(route: Route) -> None:
    """The connection is gone. Calls under way are in doubt until it is known what became of the process."""
    if route.state is RouteState.OPEN:
        route.state = RouteState.SEEKING


def connected(route: Route, incarnation: int) -> None:
    """There is a connection to this life of the actor."""
    route.state = RouteState.OPEN
    route.incarnation = incarnation


def connecting(route: Route, incarnation: int) -> None:
    """There is a connection to this life of the actor, which first says what it knows of earlier ones."""
    route.incarnation = incarnation


def lost(route: Route) -> list[Task]:
    """The process that it was connected to is gone, and its last words are read.

    Calls that were under way and may be tried again come first again; returns those that may not.
    """
    disconnected(route)
    # Without those that were given up meanwhile.
    calls = [task for task in route.inflight.values() if task.state is TaskState.PUSHED]
    route.inflight = {}
    failed = [task for task in calls if not task.may_retry()]
    for task in reversed(calls):
        if task.may_retry():
            task.step(TaskEvent.WORKER_LOST)
            task.attempt += 1
            route.queue.appendleft(task)
    return failed


def died(route: Route, error: bytes) -> list[Task]:
    """It is dead for good; call ``lost`` first. Returns the calls that will never be answered."""
    route.state = RouteState.DEAD
    route.error = error
    calls, route.queue = list(route.queue), deque()
    return [task for task in calls if task.state in (TaskState.WAITING, TaskState.QUEUED)]
