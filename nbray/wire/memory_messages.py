"""Messages about who holds what: a question for everybody, and the answers, as plain facts.

Called by:  runtime, node, observe, which build and read them; wire.messages gives them their numbers.
Imports:    wire.base.
Never:      carries a value of a user, only its size and the names by which it is held.
"""

from __future__ import annotations

import msgspec

from nbray.wire.base import Message

#: ``EntryFacts.state`` and ``StoredFacts.state``.
PENDING, INLINE, IN_STORE = "pending", "inline", "in store"
#: Of what the handles of an actor hold: there will never be a value.
ACTOR = "actor"
WRITING, SPILLED, EVICTED, LOST, FAILED = "being written", "spilled", "evicted", "lost", "failed"


class Origin(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Which line made an object.

    ``kind`` is "put", "task" (``name`` is the function's), "actor" (the class's) or "".
    """

    kind: str = ""
    name: str = ""
    cell: str = ""
    file: str = ""
    line: int = 0


class EntryFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one process knows of one object, and what holds it there.

    ``owner_id`` is empty if that process owns it, ``size_bytes`` -1 as long as nobody knows. ``tasks`` are
    the names of unfinished tasks that take it, ``inner`` the objects whose references are in its value.
    """

    object_id: bytes
    owner_id: bytes
    size_bytes: int
    state: str
    handles: int
    arguments: int
    views: int
    kept: int
    exported: bool
    tasks: list[str]
    inner: list[bytes]
    origin: Origin


class ProcessFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One process. ``role`` is "driver", "worker" or "actor"; ``running`` is the task that runs there now, of
    an actor that does nothing its class; ``left_out`` counts smaller objects.
    """

    process_id: bytes
    pid: int
    role: str
    running: str
    entries: list[EntryFacts]
    left_out: int


class StoredFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the node's daemon knows of one object in its care. ``place`` is "store" or "disk".

    ``pins`` are pairs of process and number, ``holders`` the processes with references, ``parcels`` counts
    values on their way with a reference inside, ``containers`` are objects that outlived their owner.
    """

    object_id: bytes
    owner_id: bytes
    size_bytes: int
    state: str
    place: str
    pins: list[tuple[bytes, int]]
    holders: list[bytes]
    parcels: int
    containers: list[bytes]


class GetMemory(Message, frozen=True):
    """Process -> daemon: what is stored, and who holds what? Answered by ``MemoryReport``."""

    request_id: int


class DescribeEntries(Message, frozen=True):
    """Daemon -> process: somebody asked; say what you hold."""

    number: int


class EntriesDescribed(Message, frozen=True):
    """The answer. It comes from whichever thread reads, also while a task runs."""

    number: int
    facts: ProcessFacts


class MemoryReport(Message, frozen=True):
    """Daemon -> asker: all that was answered within a second; the asker itself is left out.

    ``silent`` are (process ID, PID) of those that did not answer, ``left_out`` counts smaller objects that
    are stored.
    """

    request_id: int
    node_id: bytes
    figures: dict[str, int]
    stored: list[StoredFacts]
    processes: list[ProcessFacts]
    silent: list[tuple[bytes, int]]
    left_out: int
