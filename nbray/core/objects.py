"""The node's directory of objects: who writes, owns, reads and waits for each, and when its space returns.

Called by:  store.server, its only host.
Imports:    nbray.core.object_copies, nbray.core.allocator (Extent), nbray.wire.messages.
Never:      touches memory, sends. It appends commands to a list that the caller owns.

An object usually has one copy. It has more when a task is retried: the first attempt's worker died,
and its messages and those of the second attempt arrive in any order. Each writer therefore fills a
copy of its own, the copy sealed last is the current one, and older ones linger until nobody reads
the object any more. (Refusing the second writer instead would make its fate depend on whose socket
is read first.) ``object_copies.TABLE`` says what happens to one copy.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from nbray.core.allocator import Extent
from nbray.core.object_copies import Copy, Do, E, S
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.object_messages import (
    ObjectGone,
    ObjectReady,
)

#: So many freed objects are remembered, so that a late reader learns why there is nothing.
FREED_REMEMBERED = 100_000
#: So many lost processes are remembered: their late messages change nothing.
LOST_REMEMBERED = 100_000


class Tell(NamedTuple):
    """Command: send this message."""

    process_id: bytes
    message: Message


class Release(NamedTuple):
    """Command: this extent is nobody's any more. Issued exactly once per extent."""

    extent: Extent


Command = Tell | Release


class Holding(NamedTuple):
    """One object and the space it takes, for messages to people."""

    object_id: bytes
    owner_id: bytes
    size_bytes: int


class _Object:
    """What the directory knows of one object ID while it has a copy."""

    __slots__ = ("current", "freed", "lingering", "object_id", "owner", "pins", "writing")

    def __init__(self, object_id: bytes, owner: bytes) -> None:
        self.object_id = object_id
        self.owner = owner
        self.current: Copy | None = None
        self.writing: dict[bytes, Copy] = {}  # by writer: CREATING or DOOMED
        self.lingering: list[Copy] = []
        #: Counted over all copies, since an unpin names the object only: who read an old copy and
        #: then the new one may let go of either first.
        self.pins = 0
        self.freed = False


class ObjectTable:
    """Directory of one node's objects.

    Methods take facts in the order in which they arrived. A fact that comes twice, or from a process
    that was lost, changes nothing. ``out`` receives the commands.
    """

    def __init__(self, node_id: bytes) -> None:
        self._node_id = node_id
        self._objects: dict[bytes, _Object] = {}
        self._waiters: dict[bytes, dict[bytes, bytes]] = {}  # object -> reader -> owner
        self._pinned: dict[bytes, Counter[bytes]] = {}  # process -> object -> pins
        self._early: dict[bytes, Counter[bytes]] = {}  # object that is not here yet -> process -> pins
        self._writing: dict[bytes, set[bytes]] = {}  # process -> objects
        self._owned: dict[bytes, set[bytes]] = {}  # process -> objects
        self._freed: OrderedDict[bytes, None] = OrderedDict()
        self._lost: OrderedDict[bytes, None] = OrderedDict()
        self._in_state: Counter[S] = Counter()
        self._pinned_objects = 0
        self._orphans: set[bytes] = set()  # sealed objects whose owner died

    # --- writing ---------------------------------------------------------------------------------

    def admits(self, object_id: bytes, owner: bytes, writer: bytes) -> bool:
        """False if this writer made, or is making, this object already, or it has another owner."""
        entry = self._objects.get(object_id)
        if entry is None:
            return True
        made_it = entry.current is not None and entry.current.writer == writer
        return entry.owner == owner and writer not in entry.writing and not made_it

    def created(
        self,
        object_id: bytes,
        owner: bytes,
        writer: bytes,
        extent: Extent,
        size_bytes: int,
        out: list[Command],
    ) -> None:
        """An extent was allocated for a writer whom ``admits`` let in; it begins to fill it.

        If the writer is lost by now the extent goes back at once. If the owner is, nobody can ever
        ask for the object, but the writer does not know: the copy is doomed.
        """
        if writer in self._lost:
            out.append(Release(extent))
            return
        entry = self._objects.get(object_id)
        if entry is None:
            entry = self._objects[object_id] = _Object(object_id, owner)
            self._owned.setdefault(owner, set()).add(object_id)
        copy = Copy(writer, extent, size_bytes)
        entry.writing[writer] = copy
        self._writing.setdefault(writer, set()).add(object_id)
        self._in_state[S.CREATING] += 1
        if owner in self._lost:
            self._fire(entry, copy, E.DISCARD, out)
            return
        entry.freed = False
        self._freed.pop(object_id, None)

    def descriptor(self, object_id: bytes, writer: bytes) -> Descriptor | None:
        """Where this writer's unsealed copy lies; None if it has none (any more)."""
        entry = self._objects.get(object_id)
        copy = entry.writing.get(writer) if entry is not None else None
        return self._describe(object_id, copy) if copy is not None else None

    def seal(self, object_id: bytes, writer: bytes, out: list[Command]) -> bool:
        """The writer is done; from now on the bytes never change and readers may see them.

        False if nobody ever will: it was freed, its owner is dead, or it was sealed before.
        """
        return self._end_writing(object_id, writer, E.SEAL, out)

    def abort(self, object_id: bytes, writer: bytes, out: list[Command]) -> None:
        """The writer gave up. Who waits goes on waiting: the owner retries, frees or dies."""
        self._end_writing(object_id, writer, E.ABORT, out)

    def adopted(
        self,
        object_id: bytes,
        owner: bytes,
        writer: bytes,
        extent: Extent,
        size_bytes: int,
        out: list[Command],
    ) -> bool:
        """A writer made an object in space that it had already: created and sealed in one. As ``seal``.

        The writer told others of it when it had sent us this message, and they may have been heard
        first: what they said of an object that was not here yet counts from now on.
        """
        entry = self._objects.get(object_id)
        if writer in self._lost or (
            entry is not None and (entry.owner != owner or writer in entry.writing)
        ):  # the latter two: not by our processes
            out.append(Release(extent))
            return False
        was_freed = object_id in self._freed or (entry is not None and entry.freed)
        self.created(object_id, owner, writer, extent, size_bytes, out)
        if was_freed and owner not in self._lost:  # else nobody would ever free it again
            self.free([object_id], owner, out)
        return self.seal(object_id, writer, out)

    # --- reading ---------------------------------------------------------------------------------

    def get(self, wanted: Iterable[tuple[bytes, bytes]], reader: bytes, out: list[Command]) -> None:
        """Tell the reader of each (object, owner), now or once it is sealed.

        With each ``ObjectReady`` goes one pin, which the reader must undo. Asking again while it
        waits changes nothing.
        """
        if reader in self._lost:
            return
        for object_id, owner in wanted:
            entry = self._objects.get(object_id)
            if entry is not None and entry.current is not None:
                self._serve(entry, entry.current, reader, out)
            elif object_id in self._freed or (entry is not None and entry.freed):
                out.append(Tell(reader, ObjectGone(object_id, "freed")))
            elif owner in self._lost or (entry is not None and entry.owner in self._lost):
                out.append(Tell(reader, ObjectGone(object_id, "owner_died")))
            else:
                self._waiters.setdefault(object_id, {})[reader] = owner

    def pin(self, process: bytes, object_ids: Iterable[bytes]) -> list[bytes]:
        """Count one more pin on each for a process that reads it; return those that were freed.

        One that is not whole yet is so in truth: its writer said it, and we read the reader first.
        """
        if process in self._lost:
            return []
        missing = []
        for object_id in object_ids:
            entry = self._objects.get(object_id)
            if entry is not None and (entry.current is not None or entry.lingering):
                self._pin(entry, process)
            elif object_id in self._freed and object_id not in self._early:
                missing.append(object_id)
            else:
                self._early.setdefault(object_id, Counter())[process] += 1
        return missing

    def unpin(self, process: bytes, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """The process let go of one pin on each. Pins that it does not hold are ignored."""
        pins = self._pinned.get(process, Counter())
        for object_id in object_ids:
            if pins[object_id]:
                pins[object_id] -= 1
                if not pins[object_id]:
                    del pins[object_id]
                self._unpinned(self._objects[object_id], 1, out)
            else:
                self._unpin_early(object_id, process, 1)
        if not pins:
            self._pinned.pop(process, None)

    def _unpin_early(self, object_id: bytes, process: bytes, count: int) -> None:
        early = self._early.get(object_id)
        if early is not None:
            early[process] -= count
            if early[process] <= 0:
                del early[process]
            if not early:
                del self._early[object_id]

    # --- ends ------------------------------------------------------------------------------------

    def free(self, object_ids: Iterable[bytes], owner: bytes, out: list[Command]) -> list[bytes]:
        """The owner says that nobody refers to these any more. Others cannot free them.

        A copy that is being written goes when it is sealed, a pinned one when its last pin goes.
        Returns those that were the owner's to free.
        """
        taken: list[bytes] = []
        if owner in self._lost:
            return taken
        for object_id in object_ids:
            entry = self._objects.get(object_id)
            if entry is not None and entry.owner != owner:
                continue
            taken.append(object_id)
            _remember(self._freed, object_id, FREED_REMEMBERED)
            for reader, named in list(self._waiters.get(object_id, {}).items()):
                if named == owner:
                    self._dismiss(object_id, reader, "freed", out)
            if entry is not None:
                entry.freed = True
                self._discard(entry, out)
        return taken

    def abandon(self, object_id: bytes, out: list[Command]) -> None:
        """The owner of an object is dead, and nobody else holds it."""
        entry = self._objects.get(object_id)
        if entry is not None:
            self._discard(entry, out)

    def process_lost(self, process: bytes, out: list[Command]) -> list[bytes]:
        """Undo what a dead process was doing: its waits, its writes, its pins, its ownership.

        Returns the sealed objects that it owned: they are orphans, and stay until they are abandoned.
        """
        if process in self._lost:
            return []
        _remember(self._lost, process, LOST_REMEMBERED)
        for object_id in [o for o, readers in self._waiters.items() if process in readers]:
            self._forget_waiter(object_id, process)
        for object_id in list(self._writing.get(process, ())):
            self._end_writing(object_id, process, E.WRITER_LOST, out)
        for object_id in [o for o, pins in self._early.items() if process in pins]:
            self._unpin_early(object_id, process, self._early[object_id][process])
        for object_id, count in self._pinned.pop(process, Counter()).items():
            self._unpinned(self._objects[object_id], count, out)
        orphans = []
        for object_id in sorted(self._owned.pop(process, ())):
            entry = self._objects[object_id]
            if entry.current is not None:
                orphans.append(object_id)
            for copy in list(entry.writing.values()):
                self._fire(entry, copy, E.DISCARD, out)
        self._orphans.update(orphans)
        self._dismiss_orphans(process, out)
        return orphans

    # --- views -----------------------------------------------------------------------------------

    def is_lost(self, process: bytes) -> bool:
        return process in self._lost

    def counts(self) -> dict[str, int]:
        """Numbers for people and monitors; copies by state, objects by what holds them."""
        states = {state.value: self._in_state[state] for state in S if state is not S.GONE}
        return {
            "objects": len(self._objects),
            **states,
            "pinned": self._pinned_objects,
            "waited_for": len(self._waiters),
            "orphaned_bytes": sum(
                copy.extent.size_bytes for o in self._orphans for copy in _copies(self._objects[o])
            ),
        }

    def largest(self, n: int) -> list[Holding]:
        """The ``n`` objects that take most space, all their copies together."""
        sizes = (
            Holding(entry.object_id, entry.owner, sum(copy.extent.size_bytes for copy in _copies(entry)))
            for entry in self._objects.values()
        )
        return heapq.nlargest(n, sizes, key=lambda holding: holding.size_bytes)

    # --- one copy --------------------------------------------------------------------------------

    def _fire(self, entry: _Object, copy: Copy, event: E, out: list[Command]) -> None:
        self._in_state[copy.state] -= 1
        do = copy.step(event)
        self._in_state[copy.state] += 1
        if do is Do.PUBLISH:
            self._publish(entry, copy, out)
        elif do is Do.LINGER:
            entry.lingering.append(copy)
        elif do is Do.RELEASE:
            out.append(Release(copy.extent))

    def _publish(self, entry: _Object, copy: Copy, out: list[Command]) -> None:
        older, entry.current = entry.current, copy
        if older is not None:
            self._fire(entry, older, E.DISCARD_PINNED if entry.pins else E.DISCARD, out)
        for reader in self._waiters.pop(entry.object_id, {}):
            self._serve(entry, copy, reader, out)

    def _end_writing(self, object_id: bytes, writer: bytes, event: E, out: list[Command]) -> bool:
        """True if readers may see it now."""
        entry = self._objects.get(object_id)
        copy = entry.writing.pop(writer, None) if entry is not None else None
        if entry is None or copy is None:
            return False
        _discard(self._writing, writer, object_id)
        if event is E.SEAL:
            for process, count in self._early.pop(object_id, Counter()).items():
                for _ in range(count):
                    self._pin(entry, process)
            event = E.SEAL_PINNED if entry.pins else E.SEAL
        self._fire(entry, copy, event, out)
        self._forget_if_empty(entry)
        return entry.current is copy

    def _discard(self, entry: _Object, out: list[Command]) -> None:
        event = E.DISCARD_PINNED if entry.pins else E.DISCARD
        current, entry.current = entry.current, None
        if current is not None:
            self._fire(entry, current, event, out)
        for copy in list(entry.writing.values()):
            self._fire(entry, copy, event, out)
        self._forget_if_empty(entry)

    def _describe(self, object_id: bytes, copy: Copy) -> Descriptor:
        extent = copy.extent
        return Descriptor(object_id, self._node_id, extent.offset, copy.size_bytes, extent.generation)

    # --- pins and waiters ------------------------------------------------------------------------

    def _serve(self, entry: _Object, copy: Copy, reader: bytes, out: list[Command]) -> None:
        self._pin(entry, reader)
        out.append(Tell(reader, ObjectReady(self._describe(entry.object_id, copy))))

    def _pin(self, entry: _Object, process: bytes) -> None:
        self._pinned_objects += entry.pins == 0
        entry.pins += 1
        self._pinned.setdefault(process, Counter())[entry.object_id] += 1

    def _unpinned(self, entry: _Object, count: int, out: list[Command]) -> None:
        entry.pins -= count
        if entry.pins:
            return
        self._pinned_objects -= 1
        lingering, entry.lingering = entry.lingering, []
        for copy in lingering:
            self._fire(entry, copy, E.LAST_UNPIN, out)
        self._forget_if_empty(entry)

    def _forget_if_empty(self, entry: _Object) -> None:
        if entry.current is None and not entry.writing and not entry.lingering:
            self._objects.pop(entry.object_id, None)
            self._orphans.discard(entry.object_id)
            _discard(self._owned, entry.owner, entry.object_id)

    def _dismiss_orphans(self, owner: bytes, out: list[Command]) -> None:
        waits = [
            (o, r) for o, readers in self._waiters.items() for r, named in readers.items() if named == owner
        ]
        for object_id, reader in waits:
            self._dismiss(object_id, reader, "owner_died", out)

    def _dismiss(self, object_id: bytes, reader: bytes, reason: str, out: list[Command]) -> None:
        self._forget_waiter(object_id, reader)
        out.append(Tell(reader, ObjectGone(object_id, reason)))

    def _forget_waiter(self, object_id: bytes, reader: bytes) -> None:
        readers = self._waiters[object_id]
        del readers[reader]
        if not readers:
            del self._waiters[object_id]


def _copies(entry: _Object) -> list[Copy]:
    current = [entry.current] if entry.current is not None else []
    return [*current, *entry.writing.values(), *entry.lingering]


def _discard(index: dict[bytes, set[bytes]], key: bytes, member: bytes) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(member)
        if not members:
            del index[key]


def _remember(recent: OrderedDict[bytes, None], key: bytes, limit: int) -> None:
    recent[key] = None
    recent.move_to_end(key)
    if len(recent) > limit:
        recent.popitem(last=False)
