"""One actor as its supervisor sees it: its states, what it orders, what is known of it.

Called by:  core.actors; node, which performs the commands.
Imports:    nbray.model, nbray.wire.actor_messages.
Never:      decides (core.actors does).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from nbray.model.errors import ProtocolError
from nbray.model.ids import short
from nbray.wire.actor_messages import ActorEnd, ActorSpec, ActorUpdate, SavedCheckpoint


class ActorState(Enum):
    """The values are what people read, and what travels."""

    PENDING = "PENDING"
    STARTING = "STARTING"
    ALIVE = "ALIVE"
    RESTARTING = "RESTARTING"
    LEAVING = "LEAVING"
    DEAD = "DEAD"


class ActorEvent(Enum):
    LEASED = "leased a process"
    READY = "constructed"
    LOST = "lost its process, and will be restarted"
    LEFT = "leaving by its own will, or since nobody has a handle"
    ENDED = "ended for good"


_S, _E = ActorState, ActorEvent

#: A process that is gone is LOST where there is another life, else ENDED. DEAD has no row: it is final.
# fmt: off
TABLE: dict[tuple[ActorState, ActorEvent], ActorState] = {
    # state,         event     : next state
    (_S.PENDING,    _E.LEASED): _S.STARTING,
    (_S.PENDING,    _E.ENDED):  _S.DEAD,      # an argument failed, no process can be had, or it was killed
    (_S.STARTING,   _E.READY):  _S.ALIVE,
    (_S.STARTING,   _E.LOST):   _S.RESTARTING,
    (_S.STARTING,   _E.LEFT):   _S.LEAVING,   # by exit_actor() in its constructor
    (_S.STARTING,   _E.ENDED):  _S.DEAD,      # its constructor raised, too
    (_S.ALIVE,      _E.LOST):   _S.RESTARTING,
    (_S.ALIVE,      _E.LEFT):   _S.LEAVING,
    (_S.ALIVE,      _E.ENDED):  _S.DEAD,
    (_S.RESTARTING, _E.LEASED): _S.STARTING,
    (_S.RESTARTING, _E.ENDED):  _S.DEAD,
    (_S.LEAVING,    _E.LEFT):   _S.LEAVING,   # said twice
    (_S.LEAVING,    _E.ENDED):  _S.DEAD,
}
# fmt: on


class Request(NamedTuple):
    """Have a process leased for it under this new lease, after a delay in seconds."""

    actor_id: bytes
    delay_s: float


class Start(NamedTuple):
    """Tell the process, which was leased for it, to become it."""

    actor_id: bytes
    process_id: bytes


class Dismiss(NamedTuple):
    """Ask its process to leave when it has nothing to do; see to it that it does."""

    process_id: bytes


class Kill(NamedTuple):
    """End its process at once."""

    process_id: bytes


class CancelLease(NamedTuple):
    """It needs no process any more: the lease has none yet."""

    lease_id: bytes


class Publish(NamedTuple):
    """Its state changed: tell who watches it."""

    actor_id: bytes


class DropCheckpoints(NamedTuple):
    """It is dead, and so is its process: nobody will need its checkpoints."""

    actor_id: bytes


Command = Request | Start | Dismiss | Kill | CancelLease | Publish | DropCheckpoints


class Actor:
    """All that is known of one. ``spec`` is None until its owner has declared it."""

    __slots__ = (
        "actor_id", "called", "checkpoints", "created_ns", "early_deaths", "end", "endpoint", "error",
        "incarnation", "is_released", "lease_id", "owner", "pid", "process_id", "restarts_left", "since_ns",
        "since_s", "spec", "state", "watchers", "why",
    )  # fmt: skip

    def __init__(self, actor_id: bytes, owner: bytes, now_s: float, now_ns: int) -> None:
        self.actor_id = actor_id
        self.owner = owner
        self.called = ""  # its class, as who watches it says
        self.spec: ActorSpec | None = None
        self.state = ActorState.PENDING
        self.incarnation = 0
        self.lease_id = b""
        self.process_id = b""
        self.pid = 0
        self.endpoint = ""
        self.restarts_left = 0
        self.error = b""
        self.why = ""
        self.end: ActorEnd | None = None  # of its last process, if nobody ended that on purpose
        self.is_released = False
        self.checkpoints: list[SavedCheckpoint] = []  # the newest first
        self.watchers: dict[bytes, None] = {}
        self.early_deaths = 0
        self.created_ns = self.since_ns = now_ns
        self.since_s = now_s

    @property
    def name(self) -> str:
        """What people call it."""
        return self.spec.class_name if self.spec is not None else self.called or "actor"

    def move(self, event: ActorEvent, now_s: float, now_ns: int) -> None:
        """Follow the table.

        Raises:
            ProtocolError: the table has no such row.
        """
        after = TABLE.get((self.state, event))
        if after is None:
            allowed = ", ".join(e.value for s, e in TABLE if s is self.state) or "nothing"
            raise ProtocolError(
                f"Actor {self.name} {short(self.actor_id)} ({self.state.value}) cannot be {event.value}; "
                f"possible is: {allowed}. A process sent messages out of order: this is a bug in nbray."
            )
        if after is not self.state:
            self.state, self.since_s, self.since_ns = after, now_s, now_ns

    def update(self) -> ActorUpdate:
        """What who watches it is told."""
        return ActorUpdate(
            self.actor_id, self.state.value, self.incarnation, self.process_id, self.pid,
            self.endpoint if self.state is ActorState.ALIVE else "", self.error, self.why, self.restarts_left,
            self.end,
        )  # fmt: skip
