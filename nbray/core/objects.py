"""The node's directory of objects: who writes, owns, reads and waits for each, and when its space returns.

Called by:  store.server, its only host; core.{object_moves,spilling}, which work on it.
Imports:    nbray.core.{object_commands,object_copies,object_records,allocator}, nbray.wire.
Never:      touches memory, sends. It appends commands to a list that the caller owns.

An object usually has one copy. It has more when a task is retried: the first attempt's worker died,
and its messages and those of the second attempt arrive in any order. Each writer therefore fills a
copy of its own, the copy sealed last is the current one, and older ones linger until nobody has the
object in hand any more. (Refusing the second writer instead would make its fate depend on whose socket
is read first.) ``object_copies.TABLE`` says what happens to one copy; ``object_moves`` moves copies
between the arena and the disk.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Fetch, Holding, Release, ReleaseDisk, Tell
from nbray.core.object_copies import TOLD, Copy, Do, E, OnDisk, S
from nbray.core.object_records import Recency, Record, Waiters
from nbray.wire.base import Descriptor
from nbray.wire.object_messages import (
    ObjectGone,
    ObjectReady,
    ObjectsLost,
)

#: So many freed objects are remembered, so that a late reader learns why there is nothing.
FREED_REMEMBERED = 100_000
#: So many lost processes are remembered: their late messages change nothing.
LOST_REMEMBERED = 100_000


class ObjectTable:
    """Directory of one node's objects.

    Methods take facts in the order in which they arrived. A fact that comes twice, or from a process
    that was lost, changes nothing. ``out`` receives the commands.
    """

    def __init__(self, node_id: bytes) -> None:
        #: Told, for people, that an object was "spilled", "restored", "evicted" or "lost", and its size.
        self.on_moved: Callable[[bytes, str, int], object] = lambda _object_id, _state, _size_bytes: None
        self.recency = Recency()
        self.waiters = Waiters()
        self._node_id = node_id
        self._objects: dict[bytes, Record] = {}
        self._pinned: dict[bytes, set[bytes]] = {}  # process -> objects
        self._early: dict[bytes, Counter[bytes]] = {}  # object that is not here yet -> process -> pins
        self._writing: dict[bytes, set[bytes]] = {}  # process -> objects
        self._owned: dict[bytes, set[bytes]] = {}  # process -> objects
        self._freed: OrderedDict[bytes, None] = OrderedDict()
        self._lost: OrderedDict[bytes, None] = OrderedDict()
        self._in_state: Counter[S] = Counter()
        self._bytes_in_state: Counter[S] = Counter()
        self._pinned_objects = 0
        self._orphans: set[bytes] = set()  # sealed objects whose owner died

    # --- writing ---------------------------------------------------------------------------------

    def admits(self, object_id: bytes, owner: bytes, writer: bytes) -> bool:
        """False if this writer is making this object already, or it has another owner.

        Whoever made it may make it again: the task runs once more when another of its results was lost.
        """
        record = self._objects.get(object_id)
        return record is None or (record.owner == owner and writer not in record.writing)

    def created(
        self,
        object_id: bytes,
        owner: bytes,
        writer: bytes,
        extent: Extent | None,
        size_bytes: int,
        out: list[Command],
        *,
        weak: bool = False,
        disk: OnDisk | None = None,
        freed: bool = False,
    ) -> None:
        """An extent was allocated for a writer whom ``admits`` let in; it begins to fill it.

        It lies in the arena, or it is ``disk`` for an object that is larger than that. ``weak``: it may be
        evicted. If the writer is lost by now the extent goes back at once. If the owner is, or has freed the
        object since the writer asked, nobody wants the copy, but the writer does not know: it is doomed.
        """
        copy = Copy(writer, extent, size_bytes, disk)
        if writer in self._lost:
            _release(copy, Do.RELEASE, out)
            return
        record = self._objects.get(object_id)
        if record is None:
            record = self._objects[object_id] = Record(object_id, owner)
            self._owned.setdefault(owner, set()).add(object_id)
        record.writing[writer] = copy
        record.weak = weak
        self._writing.setdefault(writer, set()).add(object_id)
        self._count(copy, 1)
        if freed or owner in self._lost:
            self.fire(record, copy, E.DISCARD, out)
            return
        record.freed = False
        self._freed.pop(object_id, None)

    def descriptor(self, object_id: bytes, writer: bytes) -> Descriptor | None:
        """Where this writer's unsealed copy lies; None if it has none (any more)."""
        record = self._objects.get(object_id)
        copy = record.writing.get(writer) if record is not None else None
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
        *,
        weak: bool = False,
    ) -> bool:
        """A writer made an object in space that it had already: created and sealed in one. As ``seal``.

        The writer told others of it when it had sent us this message, and they may have been heard
        first: what they said of an object that was not here yet counts from now on.
        """
        record = self._objects.get(object_id)
        if writer in self._lost or (
            record is not None and (record.owner != owner or writer in record.writing)
        ):  # the latter two: not by our processes
            out.append(Release(extent))
            return False
        was_freed = object_id in self._freed or (record is not None and record.freed)
        # If it was freed nobody would ever free it again.
        self.created(object_id, owner, writer, extent, size_bytes, out, weak=weak, freed=was_freed)
        return self.seal(object_id, writer, out)

    # --- reading ---------------------------------------------------------------------------------

    def get(self, wanted: Iterable[tuple[bytes, bytes]], reader: bytes, out: list[Command]) -> None:
        """Tell the reader of each (object, owner), now or once it is sealed and at hand.

        With each ``ObjectReady`` goes one pin, which the reader must undo. Asking again while it
        waits changes nothing.
        """
        if reader in self._lost:
            return
        for object_id, owner in wanted:
            record = self._objects.get(object_id)
            if record is not None and record.has_bytes:
                if not self._serve_if_here(record, reader, out):
                    self.waiters.add(object_id, reader, owner)
                    out.append(Fetch(object_id))
            elif object_id in self._freed or (record is not None and record.freed):
                out.append(Tell(reader, ObjectGone(object_id, "freed")))
            elif owner in self._lost or (record is not None and record.owner in self._lost):
                out.append(Tell(reader, ObjectGone(object_id, "owner_died")))
            elif record is not None and record.current is not None and reader == record.owner:
                out.append(Tell(reader, ObjectGone(object_id, record.current.state.value)))
            else:
                self.waiters.add(object_id, reader, owner)
                if record is not None:
                    self.report_loss(record, out)

    def pin(self, process: bytes, object_ids: Iterable[bytes]) -> list[bytes]:
        """Count one more pin on each for a process that reads it; return those that were freed.

        One that is not whole yet is so in truth: its writer said it, and we read the reader first.
        """
        if process in self._lost:
            return []
        missing = []
        for object_id in object_ids:
            record = self._objects.get(object_id)
            if record is not None and (record.current is not None or record.lingering):
                self._pin(record, process)
            elif object_id in self._freed and object_id not in self._early:
                missing.append(object_id)
            else:
                self._early.setdefault(object_id, Counter())[process] += 1
        return missing

    def unpin(self, process: bytes, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """The process let go of one pin on each. Pins that it does not hold are ignored."""
        for object_id in object_ids:
            if object_id in self._pinned.get(process, ()):
                self._unpin(self._objects[object_id], process, 1, out)
            else:
                self._unpin_early(object_id, process, 1)

    def yielded(self, process: bytes, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """The process has no bytes of these in hand any more, and asks before it reads them again."""
        if process in self._lost:
            return
        for object_id in object_ids:
            record = self._objects.get(object_id)
            if record is not None:
                if record.owner == process:
                    record.in_hand = False
                self._unpin(record, process, record.readers.get(process, 0), out)

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
            record = self._objects.get(object_id)
            if record is not None and record.owner != owner:
                continue
            taken.append(object_id)
            _remember(self._freed, object_id, FREED_REMEMBERED)
            for reader, named in self.waiters.of(object_id).items():
                if named == owner:
                    self._dismiss(object_id, reader, "freed", out)
            if record is not None:
                record.freed = True
                record.in_hand = False
                self._discard(record, out)
        return taken

    def abandon(self, object_id: bytes, out: list[Command]) -> None:
        """The owner of an object is dead, and nobody else holds it."""
        record = self._objects.get(object_id)
        if record is not None:
            self._dismiss_all(object_id, "owner_died", out)
            self._discard(record, out)

    def process_lost(self, process: bytes, out: list[Command]) -> list[bytes]:
        """Undo what a dead process was doing: its waits, its writes, its pins, its ownership.

        Returns the sealed objects that it owned: they are orphans, and stay until they are abandoned.
        """
        if process in self._lost:
            return []
        _remember(self._lost, process, LOST_REMEMBERED)
        self.waiters.process_lost(process)
        for object_id in list(self._writing.get(process, ())):
            self._end_writing(object_id, process, E.WRITER_LOST, out)
        for object_id in [o for o, pins in self._early.items() if process in pins]:
            self._unpin_early(object_id, process, self._early[object_id][process])
        for object_id in list(self._pinned.get(process, ())):
            record = self._objects[object_id]
            self._unpin(record, process, record.readers[process], out)
        orphans = []
        for object_id in sorted(self._owned.pop(process, ())):
            record = self._objects[object_id]
            record.in_hand = False
            if record.has_bytes:
                orphans.append(object_id)
                for copy in list(record.writing.values()):
                    self.fire(record, copy, E.DISCARD, out)
            else:
                self._discard(record, out)
            self._settle(record, out)
        self._orphans.update(orphans)
        for object_id, reader in self.waiters.of_owner(process):
            if object_id not in orphans:
                self._dismiss(object_id, reader, "owner_died", out)
        return orphans

    # --- views -----------------------------------------------------------------------------------

    def is_lost(self, process: bytes) -> bool:
        return process in self._lost

    def record(self, object_id: bytes) -> Record | None:
        return self._objects.get(object_id)

    def bytes_in(self, state: S) -> int:
        """Of all copies in a state."""
        return self._bytes_in_state[state]

    def counts(self) -> dict[str, int]:
        """Numbers for people and monitors; copies by state, objects by what holds them."""
        states = {state.value: self._in_state[state] for state in S if state is not S.GONE}
        return {
            "objects": len(self._objects),
            **states,
            "spilled_bytes": self._bytes_in_state[S.SPILLED],
            "pinned": self._pinned_objects,
            "waited_for": len(self.waiters),
            "orphaned_bytes": sum(self._objects[object_id].memory_bytes for object_id in self._orphans),
        }

    def records(self) -> list[Record]:
        """All of them, to be looked at."""
        return list(self._objects.values())

    def largest(self, n: int) -> list[Holding]:
        """The ``n`` objects that take most of the arena, all their copies together."""
        largest = heapq.nlargest(n, self._objects.values(), key=lambda record: record.memory_bytes)
        return [
            Holding(
                record.object_id, record.owner, record.memory_bytes, record.state, len(record.readers),
                record.in_hand,
            )
            for record in largest
        ]  # fmt: skip

    # --- one copy; also for core.object_moves ------------------------------------------------------

    def fire(self, record: Record, copy: Copy, event: E, out: list[Command]) -> None:
        """Something happened to a copy: take the transition, and do what it demands."""
        self._count(copy, -1)
        do = copy.step(event)
        self._count(copy, 1)
        if event in TOLD:
            self.on_moved(record.object_id, TOLD[event], copy.size_bytes)
        if do is Do.PUBLISH:
            self._publish(record, copy, out)
        elif do is Do.SERVE:
            self.serve_waiters(record, out)
        elif do is Do.LINGER:
            record.lingering.append(copy)
        elif do is not Do.NOTHING:
            _release(copy, do, out)
        self.recency.update(record, used=do is Do.PUBLISH)

    def forget_if_empty(self, record: Record) -> None:
        if record.is_empty and self._objects.get(record.object_id) is record:
            del self._objects[record.object_id]
            self._orphans.discard(record.object_id)
            _discard(self._owned, record.owner, record.object_id)

    def serve_waiters(self, record: Record, out: list[Command]) -> None:
        """Its current copy is at hand: pin it for each who waits, and tell them."""
        for reader in self.waiters.take(record.object_id):
            self._serve_if_here(record, reader, out)

    def report_loss(self, record: Record, out: list[Command]) -> None:
        """If its bytes are gone and others than the owner wait for them, the owner hears of it, once."""
        copy = record.current
        if copy is None or record.has_bytes or copy.reported:
            return
        if any(reader != record.owner for reader in self.waiters.of(record.object_id)):
            copy.reported = True
            out.append(Tell(record.owner, ObjectsLost([record.object_id])))

    def lost_its_bytes(self, record: Record, out: list[Command]) -> None:
        """Tell those who wait for what the copy had, as if they asked now."""
        assert record.current is not None
        if record.owner in self._lost:
            self._dismiss_all(record.object_id, "owner_died", out)
        elif record.owner in self.waiters.of(record.object_id):
            self._dismiss(record.object_id, record.owner, record.current.state.value, out)
        self.report_loss(record, out)

    def _publish(self, record: Record, copy: Copy, out: list[Command]) -> None:
        older, record.current = record.current, copy
        if older is not None:
            self.fire(record, older, E.DISCARD_PINNED if record.in_use else E.DISCARD, out)
        record.in_hand = record.owner not in self._lost
        self.serve_waiters(record, out)

    def _end_writing(self, object_id: bytes, writer: bytes, event: E, out: list[Command]) -> bool:
        """True if readers may see it now."""
        record = self._objects.get(object_id)
        copy = record.writing.pop(writer, None) if record is not None else None
        if record is None or copy is None:
            return False
        _discard(self._writing, writer, object_id)
        if event is E.SEAL:
            for process, count in self._early.pop(object_id, Counter()).items():
                for _ in range(count):
                    self._pin(record, process)
            event = E.SEAL_PINNED if record.pins else E.SEAL
        self.fire(record, copy, event, out)
        self.forget_if_empty(record)
        return record.current is copy

    def _discard(self, record: Record, out: list[Command]) -> None:
        event = E.DISCARD_PINNED if record.in_use else E.DISCARD
        current, record.current = record.current, None
        if current is not None:
            self.fire(record, current, event, out)
        for copy in list(record.writing.values()):
            self.fire(record, copy, event, out)
        self._settle(record, out)

    def _describe(self, object_id: bytes, copy: Copy) -> Descriptor:
        if copy.extent is not None:
            extent, path = copy.extent, ""
        else:
            assert copy.disk is not None
            extent, path = copy.disk.extent, copy.disk.path
        return Descriptor(object_id, self._node_id, extent.offset, copy.size_bytes, extent.generation, path)

    def _count(self, copy: Copy, change: int) -> None:
        self._in_state[copy.state] += change
        self._bytes_in_state[copy.state] += change * copy.size_bytes

    # --- pins and waiters ------------------------------------------------------------------------

    def _serve_if_here(self, record: Record, reader: bytes, out: list[Command]) -> bool:
        copy = record.current
        assert copy is not None
        if copy.state not in {S.SEALED, S.SPILLING} and not copy.read_in_place:
            return False
        self._pin(record, reader)
        out.append(Tell(reader, ObjectReady(self._describe(record.object_id, copy))))
        return True

    def _pin(self, record: Record, process: bytes) -> None:
        self._pinned_objects += record.pins == 0
        record.pins += 1
        record.readers[process] = record.readers.get(process, 0) + 1
        self._pinned.setdefault(process, set()).add(record.object_id)
        self.recency.update(record, used=True)

    def _unpin(self, record: Record, process: bytes, count: int, out: list[Command]) -> None:
        if count:
            record.pins -= count
            record.readers[process] -= count
            if not record.readers[process]:
                del record.readers[process]
                _discard(self._pinned, process, record.object_id)
            self._pinned_objects -= record.pins == 0
        self._settle(record, out)

    def _settle(self, record: Record, out: list[Command]) -> None:
        """If nobody has it in hand now, what lingers goes."""
        if not record.pins and record.current is not None:
            record.current.read_in_place = False
        if not record.in_use:
            lingering, record.lingering = record.lingering, []
            for copy in lingering:
                self.fire(record, copy, E.LAST_UNPIN, out)
                if copy.state is S.ENDING:
                    record.lingering.append(copy)
        self.recency.update(record, used=True)
        self.forget_if_empty(record)

    def _dismiss_all(self, object_id: bytes, reason: str, out: list[Command]) -> None:
        for reader in self.waiters.of(object_id):
            self._dismiss(object_id, reader, reason, out)

    def _dismiss(self, object_id: bytes, reader: bytes, reason: str, out: list[Command]) -> None:
        self.waiters.forget(object_id, reader)
        out.append(Tell(reader, ObjectGone(object_id, reason)))


def _release(copy: Copy, do: Do, out: list[Command]) -> None:
    if do in {Do.RELEASE, Do.RELEASE_MEMORY} and copy.extent is not None:
        out.append(Release(copy.extent))
        copy.extent = None
    if do in {Do.RELEASE, Do.RELEASE_DISK} and copy.disk is not None:
        out.append(ReleaseDisk(copy.disk.extent))
        copy.disk = None


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
