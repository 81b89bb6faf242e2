"""An owner's leases: which worker gets which task, how deep to pipeline, when to ask and give back.

Called by:  runtime.submitter, under the owner's lock.
Imports:    nbray.core.{tasks,task_queue}, nbray.model.
Never:      sends, waits, reads a clock (times arrive as arguments, in seconds).

Tasks of one shape share a queue and leases. A lease runs its tasks in the order they were pushed,
so the oldest unanswered one is the one that runs. Several tasks are pushed ahead only when they are
short: the depth is what fits into a few ms of measured execution time (``core.task_queue``). A task
that turns out slow is not waited behind: the others are taken back.

Methods append commands to the list that the caller passes. Source of the idea of leasing a
worker and pushing to it directly: the ownership design published for Ray (Wang et al., NSDI 2021).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from nbray.core.task_queue import ShapeQueue
from nbray.core.tasks import Task, TaskEvent, TaskState
from nbray.model.resources import Shape

#: From this depth on a lease is filled up when it is half empty, not with each answer: a message of many
#: costs little more than one of a few, and may wake a core.
COARSE_DEPTH = 16
LINGER_S = 0.1
SLOW_S = 0.005
_QUEUED = TaskState.QUEUED
#: Leases that one owner asks for at once for tasks that need no CPU.
UNBOUNDED_PARALLELISM = 64


class LeaseState(Enum):
    REQUESTED = "requested"
    OPEN = "open"
    PAUSED = "its worker is blocked"
    CLOSING = "goes back when its tasks are done"


class RequestLease(NamedTuple):
    lease: Lease
    backlog: int


class CancelRequest(NamedTuple):
    lease: Lease


class Push(NamedTuple):
    lease: Lease
    tasks: list[Task]


class TakeBack(NamedTuple):
    lease: Lease
    number: int


class GiveBack(NamedTuple):
    lease: Lease


class EndCancelled(NamedTuple):
    """A task that was to be cancelled came back from its worker: it is over."""

    task: Task


Command = RequestLease | CancelRequest | Push | TakeBack | GiveBack | EndCancelled


class Lease:
    """One worker, lent to this owner for tasks of one shape. ``host`` is the host's own record."""

    __slots__ = (
        "depth_of_request",
        "head_since_s",
        "host",
        "idle_since_s",
        "inflight",
        "lease_id",
        "lingers",
        "shape",
        "state",
        "taking_back",
    )

    def __init__(self, lease_id: bytes, shape: Shape) -> None:
        self.lease_id = lease_id
        self.shape = shape
        self.state = LeaseState.REQUESTED
        self.inflight: deque[Task] = deque()
        self.idle_since_s = 0.0
        self.head_since_s = 0.0
        self.taking_back = False
        self.lingers = True  # stays for a moment when it is idle: more tasks may come
        self.host: object = None


class LeasePool:
    """All leases of one owner.

    Args:
        new_lease_id: makes IDs; randomness is the host's.
        parallelism: how many tasks of a shape the cluster can run at once, at most.
    """

    def __init__(self, new_lease_id: Callable[[], bytes], parallelism: Callable[[Shape], int]) -> None:
        self._new_lease_id = new_lease_id
        self._parallelism = parallelism
        self.shapes: dict[Shape, ShapeQueue] = {}
        self.by_id: dict[bytes, Lease] = {}
        self.ripe: list[ShapeQueue] = []

    # --- tasks in ------------------------------------------------------------------------------

    def queue_up(self, task: Task) -> bool:
        """``place`` for most tasks of a burst: others wait before it, and for all that they can have.

        False: it is not one of these.
        """
        shape = task.spec.pooled
        if shape is None or not shape.queue or not (shape.is_served or shape.is_ripe):
            return False
        shape.queue.append(task)
        return True

    def place(self, task: Task, now_s: float, out: list[Command]) -> None:
        """A task whose arguments are ready: push it to an idle worker, or queue it and ask for one.

        What only busy workers have room for is not pushed one by one: call ``feed_ripe`` soon after.
        """
        shape = task.spec.pooled
        if shape is None:
            shape = task.spec.pooled = self.shapes.setdefault(task.shape, ShapeQueue(task.shape))
        if not shape.queue:
            lease = self._lease_with_room(shape, 1 if task.alone else shape.depth)
            if lease is not None:
                if not lease.inflight:
                    self._push(lease, task, now_s, out)
                    return
                shape.is_ripe = True
                self.ripe.append(shape)
        shape.queue.append(task)
        if not (shape.is_served or shape.is_ripe):
            self._ask(shape, out)

    def feed_ripe(self, now_s: float, out: list[Command]) -> None:
        """Push what was queued although there was room, in equal parts; ask for workers for the rest."""
        ripe, self.ripe = self.ripe, []
        for shape in ripe:
            shape.is_ripe = False
            open_ = [lease for lease in shape.leases.values() if lease.state is LeaseState.OPEN]
            open_ = [lease for lease in open_ if not (lease.taking_back and lease.inflight)]
            open_.sort(key=lambda lease: len(lease.inflight))
            for index, lease in enumerate(open_):
                share = -(-len(shape.queue) // (len(open_) - index))
                self._push_queued(lease, min(shape.depth, len(lease.inflight) + share), now_s, out)
            if shape.queue and not shape.is_served:
                self._ask(shape, out)

    def _lease_with_room(self, shape: ShapeQueue, depth: int) -> Lease | None:
        best, least = None, depth
        for lease in shape.leases.values():
            inflight = lease.inflight
            if lease.state is LeaseState.OPEN and len(inflight) < least:
                if inflight and (inflight[-1].alone or lease.taking_back):
                    continue
                best, least = lease, len(inflight)
                if not least:
                    break
        return best

    def _push(self, lease: Lease, task: Task, now_s: float, out: list[Command]) -> None:
        task.pushed()
        if not lease.inflight:
            lease.head_since_s = now_s
        lease.inflight.append(task)
        out.append(Push(lease, [task]))

    def _push_queued(self, lease: Lease, depth: int, now_s: float, out: list[Command]) -> None:
        """Push from the queue until so many are in flight."""
        shape, inflight = self.shapes[lease.shape], lease.inflight
        queue = shape.queue
        take = shape.take if shape.gone else queue.popleft
        tasks: list[Task] = []
        while queue and len(inflight) < depth:
            task = queue[0]
            if inflight and (task.alone or inflight[-1].alone):
                break
            take()
            task.pushed()
            inflight.append(task)
            tasks.append(task)
        if tasks:
            if len(tasks) == len(inflight):
                lease.head_since_s = now_s
            out.append(Push(lease, tasks))

    def _ask(self, shape: ShapeQueue, out: list[Command]) -> None:
        """Ask for as many workers as could be of use and as the cluster may have."""
        waiting = len(shape.queue) - shape.gone
        shape.is_served = False
        if not waiting:
            return
        running = sum(1 for lease in shape.leases.values() if lease.state is LeaseState.OPEN)
        room = max(1, self._parallelism(shape.shape)) - running - len(shape.requests)
        asking = min(room, waiting - len(shape.requests))
        for _ in range(asking):
            lease = Lease(self._new_lease_id(), shape.shape)
            shape.requests[lease.lease_id] = self.by_id[lease.lease_id] = lease
            out.append(RequestLease(lease, waiting))
        shape.is_served = room <= max(0, asking)
        if room > 0:
            self._return_idle_of_others(shape, out)

    def _return_idle_of_others(self, wanting: ShapeQueue, out: list[Command]) -> None:
        """Our own idle leases of other shapes may be what this shape waits for."""
        for shape in self.shapes.values():
            # One with a queue is idle for a moment only: its answer came in this very batch.
            if shape is not wanting and not shape.queue:
                for lease in [
                    x for x in shape.leases.values() if not x.inflight and x.state is LeaseState.OPEN
                ]:
                    self._give_back(lease, out)

    # --- leases ----------------------------------------------------------------------------------

    def granted(self, lease_id: bytes, now_s: float, out: list[Command]) -> Lease | None:
        """A worker came. None: nobody asked (any more), it must go back."""
        lease = self.by_id.get(lease_id)
        if lease is None or lease.state is not LeaseState.REQUESTED:
            return None
        shape = self.shapes[lease.shape]
        del shape.requests[lease_id]
        shape.leases[lease_id] = lease
        lease.state = LeaseState.OPEN
        lease.idle_since_s = now_s
        return lease

    def feed(self, lease: Lease, now_s: float, out: list[Command]) -> None:
        """Push what the lease has room for; give it back if it is leaving and empty."""
        shape = self.shapes[lease.shape]
        if lease.state is LeaseState.OPEN:
            if lease.taking_back and lease.inflight:
                return  # what would be pushed now might overtake what comes back
            if shape.queue and (shape.depth < COARSE_DEPTH or len(lease.inflight) <= shape.depth // 2):
                self._push_queued(lease, shape.depth, now_s, out)
            if not lease.inflight:
                lease.idle_since_s = now_s
                self._relieve(shape, now_s, out)
                if not (lease.lingers or shape.queue):
                    self._give_back(lease, out)
        elif lease.state is LeaseState.CLOSING and not lease.inflight:
            self._give_back(lease, out)
            self._ask(shape, out)

    def _relieve(self, shape: ShapeQueue, now_s: float, out: list[Command]) -> None:
        """A worker is idle: take back what waits behind a slow task elsewhere."""
        for lease in shape.leases.values():
            if len(lease.inflight) > 1 and now_s - lease.head_since_s > SLOW_S:
                self._take_back(lease, out)

    def _take_back(self, lease: Lease, out: list[Command]) -> None:
        if not lease.taking_back:
            lease.taking_back = True
            out.append(TakeBack(lease, len(lease.inflight) - 1))

    def answered(self, lease: Lease, task: Task, now_s: float) -> bool:
        """A task of this lease is over. Call ``measured`` and ``feed`` once the whole batch is dealt with.

        False: it is another lease's task, so the answer does not count.
        """
        if lease.inflight and lease.inflight[0] is task:
            lease.inflight.popleft()
        elif task in lease.inflight:
            lease.inflight.remove(task)
        else:
            return False
        lease.head_since_s = now_s
        return True

    def measured(self, lease: Lease, slowest_us: int) -> None:
        """The slowest task of a batch of answers took that long."""
        self.shapes[lease.shape].measured(slowest_us)

    def handed_back(self, lease: Lease, tasks: list[Task], now_s: float, out: list[Command]) -> None:
        """The worker will not run these (a subset of the lease's, none of them started)."""
        lease.taking_back = False
        shape = self.shapes[lease.shape]
        gone = {task.task_id for task in tasks}
        returned = [task for task in lease.inflight if task.task_id in gone]
        lease.inflight = deque(task for task in lease.inflight if task.task_id not in gone)
        for task in reversed(returned):
            task.step(TaskEvent.HANDED_BACK)
            if task.state is _QUEUED:
                shape.queue.appendleft(task)
            else:
                out.append(EndCancelled(task))
        if not lease.inflight:
            self.feed(lease, now_s, out)
        self._spread(shape, now_s, out)

    def unqueue(self, task: Task) -> None:
        """A queued task was cancelled. Call ``housekeeping`` soon: its request may be of no more use."""
        self.shapes[task.shape].drop()

    def take_out(self, task: Task, lease_id: bytes, now_s: float, out: list[Command]) -> None:
        """Its owner runs this queued task itself. ``lease_id``: the request that there is no worker for."""
        shape = self.shapes[task.shape]
        shape.remove(task)
        task.pushed()
        requests = sorted(shape.requests.values(), key=lambda request: request.lease_id != lease_id)
        for request in requests[: max(0, len(requests) - len(shape.queue) + shape.gone)]:
            self._forget(request)
            out.append(CancelRequest(request))

    def put_back(self, task: Task, now_s: float, out: list[Command]) -> None:
        """It was taken out, and will not be run."""
        task.step(TaskEvent.HANDED_BACK)
        shape = self.shapes[task.shape]
        if task.state is _QUEUED:
            shape.queue.appendleft(task)
        else:
            out.append(EndCancelled(task))
        self._spread(shape, now_s, out)

    def lease_of(self, task: Task) -> Lease | None:
        """The lease of the worker that has it."""
        return next((lease for lease in self.by_id.values() if task in lease.inflight), None)

    def withdrawn(self, lease: Lease, task: Task, missing: int) -> None:
        """A task that was about to be pushed lacks so many of its arguments after all: it waits again.

        Call ``feed`` soon: the lease has room.
        """
        lease.inflight.remove(task)
        task.step(TaskEvent.ARGUMENTS_AWAY)
        task.missing = missing

    def requeue(self, task: Task, now_s: float, out: list[Command]) -> None:
        """A task that gets another attempt goes first."""
        task.alone = True
        shape = self.shapes[task.shape]
        shape.queue.appendleft(task)
        self._spread(shape, now_s, out)

    def _spread(self, shape: ShapeQueue, now_s: float, out: list[Command]) -> None:
        for lease in list(shape.leases.values()):
            if shape.queue and lease.state is LeaseState.OPEN and not lease.inflight:
                self.feed(lease, now_s, out)
        self._ask(shape, out)

    def paused(self, lease: Lease, now_s: float, out: list[Command]) -> None:
        """Its worker waits in get or wait: push nothing, look for another worker."""
        if lease.state is LeaseState.OPEN:
            lease.state = LeaseState.PAUSED
            self._ask(self.shapes[lease.shape], out)

    def resumed(self, lease: Lease, now_s: float, out: list[Command]) -> None:
        if lease.state is LeaseState.PAUSED:
            lease.state = LeaseState.OPEN
            self.feed(lease, now_s, out)
            self._shed(self.shapes[lease.shape], out)

    def _shed(self, shape: ShapeQueue, out: list[Command]) -> None:
        """While one was paused another was had in its place: together they are more than the cluster runs."""
        open_ = [lease for lease in shape.leases.values() if lease.state is LeaseState.OPEN]
        if len(open_) > max(1, self._parallelism(shape.shape)):
            self.reclaim(min(open_, key=lambda lease: len(lease.inflight)).lease_id, out)

    def reclaim(self, lease_id: bytes, out: list[Command]) -> None:
        """The daemon wants it for somebody else: at once if idle, else after its running task."""
        lease = self.by_id.get(lease_id)
        if lease is None or lease.state in (LeaseState.REQUESTED, LeaseState.CLOSING):
            return
        lease.state = LeaseState.CLOSING
        if not lease.inflight:
            self._give_back(lease, out)
        elif len(lease.inflight) > 1:
            self._take_back(lease, out)
        # While it was open it stood for a request; without one, the queue would wait for ever.
        self._ask(self.shapes[lease.shape], out)

    def spare(self, lease_id: bytes, out: list[Command]) -> None:
        """Others wait for what it holds: give it back as soon as it is idle."""
        lease = self.by_id.get(lease_id)
        if lease is not None:
            lease.lingers = False
            if lease.state is LeaseState.OPEN and not lease.inflight and not self.shapes[lease.shape].queue:
                self._give_back(lease, out)

    def closing(self, lease: Lease) -> None:
        """Its worker is dying: push nothing more to it."""
        lease.state = LeaseState.CLOSING
        self.shapes[lease.shape].is_served = False

    def lost(self, lease: Lease) -> list[Task]:
        """Its worker is gone. Returns the tasks it had, the one that ran first; all still PUSHED."""
        self._forget(lease)
        tasks = list(lease.inflight)
        lease.inflight.clear()
        return tasks

    def requeue_unstarted(self, tasks: list[Task], shape: Shape, now_s: float, out: list[Command]) -> None:
        """Tasks of a lost lease that hardly ran: back to the front, the attempt does not count."""
        queue = self.shapes[shape]
        for task in reversed(tasks):
            task.alone = True
            task.step(TaskEvent.HANDED_BACK)
            queue.queue.appendleft(task)
        self._spread(queue, now_s, out)

    def housekeeping(self, now_s: float, out: list[Command]) -> bool:
        """Give back leases that idled for ``LINGER_S``, relieve slow ones. True: call again later."""
        for shape in self.shapes.values():
            for lease in list(shape.leases.values()):
                if lease.inflight:
                    if len(lease.inflight) > 1 and now_s - lease.head_since_s > SLOW_S:
                        self._take_back(lease, out)
                elif (
                    lease.state is LeaseState.OPEN
                    and not shape.queue
                    and now_s - lease.idle_since_s >= LINGER_S
                ):
                    self._give_back(lease, out)
            if not shape.queue:
                for lease in list(shape.requests.values()):
                    self._forget(lease)
                    out.append(CancelRequest(lease))
        return any(shape.leases for shape in self.shapes.values())

    def _give_back(self, lease: Lease, out: list[Command]) -> None:
        self._forget(lease)
        out.append(GiveBack(lease))

    def _forget(self, lease: Lease) -> None:
        self.by_id.pop(lease.lease_id, None)
        shape = self.shapes[lease.shape]
        shape.is_served = False
        shape.leases.pop(lease.lease_id, None)
        shape.requests.pop(lease.lease_id, None)
