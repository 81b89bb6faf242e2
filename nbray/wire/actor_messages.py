"""Messages about actors: who makes, watches, names and ends them.

Called by:  wire.messages, which lists them; core, runtime, node, worker.
Imports:    msgspec, wire.base.
Never:      is on the path of a call: calls go straight to the actor, as tasks go to a worker.

The node daemon supervises the actors of the processes on its node; ``core.actors`` has its decisions.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbray.wire.base import Message, Value


class ActorSpec(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What an actor is made of. The code of its class was sent as ``DefineFunction`` before.

    ``resources`` are held for life; a node must have ``placement`` in all. ``args`` and ``dependencies`` are
    as in ``TaskCall``, but what lies in the store is asked for by its ID: it may have been moved.
    """

    actor_id: bytes
    owner: bytes
    class_id: bytes
    class_name: str
    name: str  # "" if it has none
    namespace: str
    detached: bool
    resources: dict[str, int]
    placement: dict[str, int]
    max_restarts: int  # -1: without end
    max_concurrency: int
    is_async: bool
    checkpoint_interval: int  # calls between checkpoints; 0: none; -1: the actor says when
    args: Value
    dependencies: list[Value]
    depth: int
    cell: str
    threads: int  # that numeric libraries may use in it
    memory_bytes: int = 0  # that it may hold for itself; 0: nobody looks


class SavedCheckpoint(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A checkpoint that counts. ``calls``: of each caller, by process ID, how many calls its state has.

    ``saved_ms`` is of the clock on the wall, since 1970.
    """

    checkpoint_id: bytes
    saved_ms: int
    calls: list[tuple[bytes, int]]


class CreateActor(Message, frozen=True):
    """Owner -> daemon: make it, and keep it up."""

    spec: ActorSpec


class FailActor(Message, frozen=True):
    """Owner -> daemon: it cannot be made, since an argument of its constructor is this error."""

    actor_id: bytes
    error: bytes


class StartActor(Message, frozen=True):
    """Daemon -> worker: be this actor. ``incarnation`` counts from 0; ``checkpoints`` newest first."""

    spec: ActorSpec
    incarnation: int
    checkpoints: list[SavedCheckpoint]


class ActorStarted(Message, frozen=True):
    """Worker -> daemon: its constructor is done; ``error`` is what it raised, empty if nothing."""

    actor_id: bytes
    incarnation: int
    error: bytes


class ActorLeft(Message, frozen=True):
    """Worker -> daemon: it ends by its own will; ``why`` is a sentence."""

    actor_id: bytes
    why: str


class CheckpointSaved(Message, frozen=True):
    """Worker -> daemon: this incarnation may be restarted from here."""

    actor_id: bytes
    incarnation: int
    checkpoint: SavedCheckpoint


class StateHas(Message, frozen=True):
    """Actor with checkpoints -> caller, first of all: so many calls of yours are in my state."""

    calls: int


class CallsCovered(Message, frozen=True):
    """Actor -> caller: a checkpoint has your first ``calls`` calls."""

    calls: int


class KillActor(Message, frozen=True):
    """Anybody -> daemon: end its process at once; it is restarted if it may be, unless told otherwise.

    ``owner`` made it; the daemon may not have read that yet.
    """

    actor_id: bytes
    owner: bytes
    no_restart: bool


class ReleaseActor(Message, frozen=True):
    """Owner -> daemon: no handle of it is left, and so no call under way."""

    actor_id: bytes


class WatchActor(Message, frozen=True):
    """Caller -> daemon: tell me how it is, now and whenever that changes. ``owner`` made it."""

    actor_id: bytes
    owner: bytes
    class_name: str


class ActorLinkLost(Message, frozen=True):
    """Caller -> daemon: this process of it closed our connection; if it lives, it is of no use."""

    actor_id: bytes
    process_id: bytes


class UnwatchActor(Message, frozen=True):
    actor_id: bytes


class ActorEnd(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a process ended that nobody had told to. ``cause`` and ``facts`` are as in ``WorkerLost``."""

    pid: int
    exit_code: int
    term_signal: int
    stderr_tail: str
    cause: str
    facts: dict[str, Any]


class ActorUpdate(Message, frozen=True):
    """Daemon -> caller. ``state`` is a ``core.actors.ActorState``.

    ``endpoint`` and ``process_id`` are of a living one. Of a dead one ``error`` is what its constructor
    raised, empty if it died otherwise; ``why`` is a sentence for people. ``end`` is of its last process.
    """

    actor_id: bytes
    state: str
    incarnation: int
    process_id: bytes
    pid: int
    endpoint: str
    error: bytes
    why: str
    restarts_left: int
    end: ActorEnd | None = None


class NameActor(Message, frozen=True):
    """Anybody -> daemon: let this name find it. ``handle`` is pickled."""

    request_id: int
    namespace: str
    name: str
    actor_id: bytes
    owner: bytes
    handle: bytes


class FindActor(Message, frozen=True):
    request_id: int
    namespace: str
    name: str


class ActorNamed(Message, frozen=True):
    """The answer to both: which actor has the name now, and its pickled handle; both empty: nobody."""

    request_id: int
    actor_id: bytes
    handle: bytes


class GetActors(Message, frozen=True):
    request_id: int


class ActorFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One actor, for people. ``since_ns`` is of the clock on the wall, when its state began.

    What its owner has not declared yet, since its constructor waits for arguments, is empty.
    """

    actor_id: bytes
    class_name: str
    name: str
    namespace: str
    detached: bool
    state: str
    owner: bytes
    process_id: bytes
    pid: int
    endpoint: str
    restarts: int
    restarts_left: int
    resources: dict[str, int]
    cell: str
    why: str
    created_ns: int
    since_ns: int


class ActorList(Message, frozen=True):
    request_id: int
    actors: list[ActorFacts]
