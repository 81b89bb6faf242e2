"""One lease as the node sees it: the request, its states, and what the scheduler orders.

Called by:  core.scheduler, core.reclaim; node, which performs the commands.
Imports:    nbray.model.
Never:      decides who is served next (core.scheduler does) or knows a process's socket.

The owner's view of the same lease is ``core.leases``.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from typing import NamedTuple

from nbray.model.errors import ProtocolError
from nbray.model.ids import short
from nbray.model.resources import Shape

#: Requests that stand in one queue: how deep they are nested, and what they need.
Kind = tuple[int, Shape]


class RequestState(Enum):
    QUEUED = "waits for resources"
    ADMITTED = "has its resources, waits for a worker process"
    GRANTED = "has a worker"
    BLOCKED = "its worker waits in get or wait, its CPUs are lent"
    ENDED = "over"


class RequestEvent(Enum):
    REPEATED = "requested again"
    ADMIT = "admitted"
    GRANT = "granted"
    BLOCK = "blocked"
    UNBLOCK = "unblocked"
    CANCEL = "cancelled"
    END = "ended"


_S, _E = RequestState, RequestEvent

#: An ended lease is forgotten but for its ID, so it has no row: whatever reaches it does nothing.
# fmt: off
TABLE: dict[tuple[RequestState, RequestEvent], RequestState] = {
    # state,       event        : next state
    (_S.QUEUED,   _E.REPEATED): _S.QUEUED,
    (_S.QUEUED,   _E.ADMIT):    _S.ADMITTED,
    (_S.QUEUED,   _E.CANCEL):   _S.ENDED,
    (_S.QUEUED,   _E.END):      _S.ENDED,
    (_S.ADMITTED, _E.REPEATED): _S.ADMITTED,
    (_S.ADMITTED, _E.GRANT):    _S.GRANTED,
    (_S.ADMITTED, _E.CANCEL):   _S.ENDED,
    (_S.ADMITTED, _E.END):      _S.ENDED,
    (_S.GRANTED,  _E.REPEATED): _S.GRANTED,
    (_S.GRANTED,  _E.GRANT):    _S.GRANTED,
    (_S.GRANTED,  _E.BLOCK):    _S.BLOCKED,
    (_S.GRANTED,  _E.UNBLOCK):  _S.GRANTED,
    (_S.GRANTED,  _E.CANCEL):   _S.GRANTED,  # it crossed with the grant; the owner returns the lease
    (_S.GRANTED,  _E.END):      _S.ENDED,
    (_S.BLOCKED,  _E.REPEATED): _S.BLOCKED,
    (_S.BLOCKED,  _E.GRANT):    _S.BLOCKED,
    (_S.BLOCKED,  _E.BLOCK):    _S.BLOCKED,
    (_S.BLOCKED,  _E.UNBLOCK):  _S.GRANTED,
    (_S.BLOCKED,  _E.CANCEL):   _S.BLOCKED,
    (_S.BLOCKED,  _E.END):      _S.ENDED,
}
# fmt: on


class Admit(NamedTuple):
    """Resources are taken: find a worker. Repeated when an owner asks again for a granted lease."""

    lease_id: bytes


class Infeasible(NamedTuple):
    """This node can never run it as things are. It stays queued."""

    lease_id: bytes
    text: str


class Reclaim(NamedTuple):
    """Ask ``owner`` to give this granted lease back once its running task is done: others wait."""

    lease_id: bytes
    owner: bytes


class Spare(NamedTuple):
    """Ask ``owner`` not to keep this granted lease for a moment when it is idle: others wait."""

    lease_id: bytes
    owner: bytes


Command = Admit | Infeasible | Reclaim | Spare


class Request:
    """One request and the lease that comes of it.

    Args:
        owner: ID of the process that asked.
        shape: what it needs, in units of 1e-4.
        depth: 0 for a driver's tasks, 1 for their children, ...
        backlog: tasks of this shape that wait at the owner, a hint for people.
        arrival: number of the request on this node.
        name: a task that waits for it, for people.
        for_life: of an actor: it will not be given back for others.
    """

    __slots__ = (
        "arrival", "asked", "backlog", "for_life", "kind", "lease_id", "mark", "name", "owner", "rank",
        "shape", "spared", "state", "told",
    )  # fmt: skip

    def __init__(
        self, lease_id: bytes, owner: bytes, shape: Shape, depth: int, backlog: int, arrival: int, name: str,
        *, for_life: bool = False,
    ) -> None:  # fmt: skip
        self.lease_id = lease_id
        self.owner = owner
        self.shape = shape
        self.kind: Kind = (depth, shape)
        self.backlog = backlog
        self.arrival = arrival
        self.name = name
        self.state = RequestState.QUEUED
        #: Who comes first: the deeper one, then the earlier one.
        self.rank = (-depth, arrival)
        #: How often its queue had been passed over when it joined.
        self.mark = 0
        self.told = False  # that it is infeasible
        self.spared = False  # its owner was asked not to keep it when it is idle
        self.for_life = for_life
        self.asked = for_life  # to be given back; in vain, if it is for life

    def move(self, event: RequestEvent) -> None:
        """Follow the table.

        Raises:
            ProtocolError: the table has no such row.
        """
        after = TABLE.get((self.state, event))
        if after is None:
            allowed = ", ".join(e.value for s, e in TABLE if s is self.state)
            raise ProtocolError(
                f"Lease {short(self.lease_id)} ({self.state.value}) cannot be {event.value}; "
                f"possible is: {allowed}. A process sent messages out of order: this is a bug in nbray."
            )
        self.state = after


class RequestQueue:
    """The queued requests of one kind, first come first served."""

    __slots__ = ("feasible", "passed", "requests", "shape")

    def __init__(self, shape: Shape, feasible: bool) -> None:
        self.shape = shape
        self.feasible = feasible
        # An OrderedDict: the first is found, and one in the middle removed, in constant time;
        # a plain dict finds its first slowly after many were removed from the front.
        self.requests: OrderedDict[bytes, Request] = OrderedDict()
        #: Admissions that went ahead of this queue and delayed it.
        self.passed = 0

    def head(self) -> Request:
        """The request that comes next; the queue is not empty."""
        return next(iter(self.requests.values()))

    def head_passed(self) -> int:
        """How often the head was passed over since it joined (or its elders were)."""
        return self.passed - self.head().mark


class Recent:
    """A set of the last ``limit`` IDs that were added: what is over, so that it stays over."""

    __slots__ = ("_ids", "_order")

    def __init__(self, limit: int) -> None:
        self._order: deque[bytes] = deque(maxlen=limit)
        self._ids: set[bytes] = set()

    def add(self, identifier: bytes) -> None:
        """Remember it, and forget the oldest when there are too many."""
        if identifier in self._ids:
            return
        if len(self._order) == self._order.maxlen:
            self._ids.discard(self._order[0])
        self._order.append(identifier)
        self._ids.add(identifier)

    def __contains__(self, identifier: bytes) -> bool:
        return identifier in self._ids
