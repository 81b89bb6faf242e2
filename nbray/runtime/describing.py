"""Who holds what: this process's own table as plain facts, and the question to everybody else.

Called by:  runtime.process (answers the daemon), api.looking (asks).
Imports:    core.references, runtime.{holders,roots,sites}, wire.memory_messages.
Never:      reads a value, or walks a user's objects with the loop's lock held.
"""

from __future__ import annotations

import bisect
import heapq
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from nbray.core.references import Entry
from nbray.core.tasks import Task
from nbray.runtime.holders import Names, names_of
from nbray.runtime.roots import roots
from nbray.runtime.sites import origin_of
from nbray.wire.base import Descriptor
from nbray.wire.memory_messages import (
    ACTOR,
    EVICTED,
    FAILED,
    IN_STORE,
    INLINE,
    LOST,
    PENDING,
    DescribeEntries,
    EntriesDescribed,
    EntryFacts,
    GetMemory,
    MemoryReport,
    ProcessFacts,
)

if TYPE_CHECKING:
    from nbray.runtime.process import Process

#: So many objects of one process are described, the largest ones.
ENTRIES_MAX = 10_000
#: So many names of tasks are listed for one object.
_TASKS_MAX = 20


class Memory(NamedTuple):
    """All that is known: what others said, what this process knows itself, and its names for that."""

    report: MemoryReport
    own: ProcessFacts
    names: Names


def look(process: Process, *, with_names: bool = True) -> Memory:
    """Ask everybody. Takes as long as a worker takes to answer, at most a second.

    Raises:
        NbrayError: the session is lost, or the daemon does not answer.
    """
    with process.loop.guard, process.loop.lock:
        process.objects.drain()
        own = describe(process)
    report = process.ask(GetMemory)
    assert isinstance(report, MemoryReport)
    if not with_names:
        return Memory(report, own, Names())
    home, locate = process.objects.home, _locator(process)
    return Memory(report, own, names_of(roots(), home, locate, time.monotonic))


def answer(process: Process, message: DescribeEntries) -> None:
    """Somebody asked. Lock held."""
    process.objects.drain()
    process.tell_daemon(EntriesDescribed(message.number, describe(process)))


def describe(process: Process) -> ProcessFacts:
    """What this process holds. Lock held."""
    entries = process.objects.table.entries
    chosen: Iterable[Entry] = entries.values()
    left_out = max(0, len(entries) - ENTRIES_MAX)
    if left_out:
        chosen = heapq.nlargest(ENTRIES_MAX, chosen, key=size_of)
    tasks = tasks_by_argument(process.submitter.tasks.tasks.values())
    of_actors = process.objects.handle_objects
    facts = [
        facts_of(entry, tasks.get(entry.object_id, []), is_actor=entry.object_id in of_actors)
        for entry in chosen
    ]
    role, running = "worker" if process.address.endpoint else "driver", process.running()
    if process.actor is not None and process.address.endpoint:
        role, running = "actor", running or process.actor.spec.class_name
    return ProcessFacts(process.process_id, os.getpid(), role, running, facts, left_out)


# --- pure -------------------------------------------------------------------------------------------------


def facts_of(entry: Entry, tasks: list[str], *, is_actor: bool = False) -> EntryFacts:
    """One row.

    Args:
        entry: of the object.
        tasks: the names of those that take it.
        is_actor: handles of an actor hold it.
    """
    return EntryFacts(
        entry.object_id,
        entry.owner or b"",
        size_of(entry),
        ACTOR if is_actor else state_of(entry),
        entry.handles,
        entry.arguments,
        entry.views,
        entry.kept,
        entry.exported,
        tasks,
        list(entry.inner),
        origin_of(entry.site),
    )


def size_of(entry: Entry) -> int:
    """In bytes; -1 as long as nobody knows."""
    value = entry.value
    if value is None:
        return -1
    return len(value) if type(value) is bytes else value.size_bytes  # type: ignore[union-attr]  # not bytes


def state_of(entry: Entry) -> str:
    """As far as this process can tell: the daemon knows what became of a stored one."""
    value = entry.value
    if value is None:
        return PENDING
    if entry.failed:
        return _failure(value) if type(value) is bytes else FAILED
    return INLINE if type(value) is bytes else IN_STORE


def _failure(record: bytes) -> str:
    """What an error says, without making an exception of it: a user's classes may be in there."""
    if len(record) > 4096 or b"system" not in record or b"nbray.model.errors" not in record:
        return FAILED
    if b"UnreconstructableError" not in record and b"OwnerDiedError" not in record:
        return FAILED
    return EVICTED if b"evicted" in record else LOST


def tasks_by_argument(tasks: Iterable[Task]) -> dict[bytes, list[str]]:
    """The names of unfinished tasks, by the objects that they take."""
    found: dict[bytes, list[str]] = {}
    for task in tasks:
        for object_id in task.holds:
            names = found.setdefault(object_id, [])
            if len(names) < _TASKS_MAX:
                names.append(task.name)
    return found


# --- arrays over the store --------------------------------------------------------------------------------


def _locator(process: Process) -> Callable[[int], bytes | None]:
    """Says which object of this process lies at an address of memory."""
    mapping = process.objects.mapping
    base = None if mapping is None else mapping.read_address()
    if base is None:
        return lambda _address: None
    with process.loop.lock:
        known = [
            (entry.value.offset, entry.value.size_bytes, entry.object_id)
            for entry in process.objects.table.entries.values()
            if type(entry.value) is Descriptor and not entry.value.path
        ]
    return locator(base, known)


def locator(base: int, known: list[tuple[int, int, bytes]]) -> Callable[[int], bytes | None]:
    """The same for a mapping at ``base`` and objects (offset, size, ID) in it."""
    known = sorted(known)
    starts = [offset for offset, _size, _object_id in known]

    def locate(address: int) -> bytes | None:
        index = bisect.bisect_right(starts, address - base) - 1
        if index < 0:
            return None
        offset, size_bytes, object_id = known[index]
        return object_id if address - base < offset + size_bytes else None

    return locate
