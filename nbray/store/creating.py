"""New objects: from the request for space to the answer.

Called by:  store.server.
Imports:    nbray.core.{allocator,object_commands,objects}, nbray.store.{disk_jobs,performing,pressure,space}.
Never:      looks at the bytes of an object.

The life of a creation::

    CreateObject --> larger than the arena? --yes--> space on the disk ------> CreateFailed "full"
                       | no                             |
                     extent? --no--> room is made ------+--------------------> CreateFailed "full"
                       | yes           | no memory for it, but objects may leave
                     cold pages? --yes-+-> back them, or let the writer -----> CreateFailed "memory"
                       | no                             |
                     ObjectCreated <--------------------+
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from nbray.core.allocator import LARGE_BYTES, Extent
from nbray.core.object_commands import Command
from nbray.core.object_copies import OnDisk
from nbray.core.objects import ObjectTable
from nbray.store import refusals
from nbray.store.disk_jobs import DiskJobs, RunInThread
from nbray.store.performing import Performer
from nbray.store.pressure import Pressure
from nbray.store.space import Space
from nbray.wire.object_messages import CreateFailed, CreateObject, ObjectCreated

#: A full store waits so long for frees that are on their way before it says so.
FULL_WAIT_S = 0.2
#: And so long where objects may be moved out of it. A writer asks twice, and is to know within 2 s.
PRESSED_WAIT_S = 0.8
#: Up to this size, backing takes less time than handing it to a thread.
INLINE_BACKING_BYTES = 256 * 1024
#: A refusal names so many of the largest objects.
LARGEST_NAMED = 8

Key = tuple[bytes, bytes]


class Creation:
    """A CreateObject that was not answered yet; a wish of ``store.pressure``."""

    reads = False

    def __init__(self, host: Creations, message: CreateObject, writer: bytes, patience_s: float) -> None:
        self.object_id = message.object_id
        self.owner = message.owner_id
        self.size_bytes = message.size_bytes
        self.weak = message.weak
        self.writer = writer
        self.freed = False
        self.since_s = 0.0
        self.patience_s = patience_s
        self.lacks_bytes = 0
        self._host = host

    @property
    def key(self) -> Key:
        return self.object_id, self.writer

    def fits(self) -> bool:
        return self._host.reserve(self)

    def give_up(self) -> None:
        self._host.refuse(self)


class Creations:
    """All methods run on one thread.

    Args:
        writers_back: writers give the pages of large objects memory themselves.
        tell: says something to people.
    """

    def __init__(
        self,
        table: ObjectTable,
        space: Space,
        perform: Performer,
        pressure: Pressure,
        jobs: DiskJobs,
        run_in_thread: RunInThread,
        tell: Callable[[str], object],
        *,
        writers_back: bool,
    ) -> None:
        self._table = table
        self._space = space
        self._perform = perform
        self._pressure = pressure
        self._jobs = jobs
        self._run_in_thread = run_in_thread
        self._tell = tell
        self._writers_back = writers_back
        self._waiting: dict[Key, Creation] = {}  # for room in the arena, or on the disk
        self._told_of_large = False
        self._is_closed = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Nobody is answered any more."""
        self._is_closed = True
        self._waiting.clear()

    # --- facts ---------------------------------------------------------------------------------------

    def requested(self, writer: bytes, message: CreateObject) -> None:
        """Somebody wants to write an object."""
        patience_s = PRESSED_WAIT_S if self._pressure.maker.can_make_room else FULL_WAIT_S
        creation = Creation(self, message, writer, patience_s)
        capacity = self._space.books.capacity_bytes
        if creation.key in self._waiting or not self._table.admits(
            creation.object_id, creation.owner, creation.writer
        ):
            self._fail(creation, "exists", refusals.exists(creation.object_id))
        elif 0 <= creation.size_bytes <= capacity:
            self._waiting[creation.key] = creation
            self._pressure.add(creation)
        elif self._jobs.file is not None and creation.size_bytes > capacity:
            self._create_on_disk(creation)
        else:
            self._fail(creation, "full", refusals.too_large(creation.size_bytes, capacity))

    def withdrawn(self, object_id: bytes, writer: bytes) -> None:
        """The writer wants it no more."""
        creation = self._waiting.pop((object_id, writer), None)
        if creation is not None:
            self._pressure.remove(creation)

    def process_lost(self, process_id: bytes) -> None:
        """It wants nothing any more."""
        for creation in [c for c in self._waiting.values() if c.writer == process_id]:
            self.withdrawn(*creation.key)

    def freed(self, object_ids: Iterable[bytes], owner: bytes) -> None:
        """The owner has no use for these: they go when they are sealed."""
        if self._waiting:
            freed = set(object_ids)
            for creation in self._waiting.values():
                creation.freed |= creation.owner == owner and creation.object_id in freed

    # --- in the arena --------------------------------------------------------------------------------

    def reserve(self, creation: Creation) -> bool:
        """Allocate and go on to backing; False if there is no room, or no memory until others leave."""
        creation.lacks_bytes = 0
        extent = self._space.reserve(creation.size_bytes)
        if extent is None:
            return False
        if extent.cold:
            creation.lacks_bytes = self._space.find_memory(extent)
            if creation.lacks_bytes and self._pressure.maker.can_make_room:
                self._space.release(extent)
                self._space.not_backed(extent)
                return False
        self._begin(creation, extent, None)
        if extent.cold:
            self._back(creation, extent)
        else:
            self._announce(creation)
        return True

    def _begin(self, creation: Creation, extent: Extent | None, disk: OnDisk | None) -> None:
        self._waiting.pop(creation.key, None)
        out: list[Command] = []
        self._table.created(
            creation.object_id, creation.owner, creation.writer, extent, creation.size_bytes, out,
            weak=creation.weak, disk=disk, freed=creation.freed,
        )  # fmt: skip
        self._perform(out)

    def _back(self, creation: Creation, extent: Extent) -> None:
        def done(error: BaseException | None) -> None:
            self._backed(creation, extent, error)

        if creation.lacks_bytes:
            done(_no_memory(extent.cold_bytes, creation.lacks_bytes))
        elif self._writers_back and extent.size_bytes >= LARGE_BYTES:
            # (Smaller ones share their first and last page with others.)
            if self._space.leave_to_writer(extent):
                self._announce(creation, extent.cold_bytes)
            else:
                self._perform.on_room()
        elif extent.cold_bytes > INLINE_BACKING_BYTES:
            self._run_in_thread(lambda: self._space.grow(extent), done)
        else:
            try:
                self._space.back_now(extent)
            except OSError as error:
                done(error)
            else:
                done(None)

    def _backed(self, creation: Creation, extent: Extent, error: BaseException | None) -> None:
        if self._is_closed:
            return
        if error is None:
            if self._space.backed(extent):
                self._announce(creation)
            else:
                self._perform.on_room()
            return
        is_wanted = self._space.is_wanted(extent)
        if is_wanted:
            out: list[Command] = []
            self._table.abort(creation.object_id, creation.writer, out)
            self._perform(out)  # releases the extent, which is only noted while it is being backed
        self._space.not_backed(extent)
        if is_wanted:
            text = refusals.no_memory(creation.size_bytes, self._space.books.backed_bytes, error)
            self._fail(creation, "memory", text)
        self._perform.on_room()

    # --- on the disk -----------------------------------------------------------------------------------

    def _create_on_disk(self, creation: Creation) -> None:
        self._waiting[creation.key] = creation

        def done(place: OnDisk | None, why: str) -> None:
            is_wanted = self._waiting.get(creation.key) is creation
            if place is not None and is_wanted:
                self._begin(creation, None, place)
                self._announce(creation)
                self._tell_of_large(creation.size_bytes)
            elif place is not None:
                self._jobs.release(place.extent)
            elif is_wanted:
                del self._waiting[creation.key]
                text = refusals.too_large_for_both(creation.size_bytes, self._space.books.capacity_bytes, why)
                self._fail(creation, "full", text)

        self._jobs.reserve(creation.size_bytes, done)

    def _tell_of_large(self, size_bytes: int) -> None:
        if not self._told_of_large:
            self._told_of_large = True
            text = refusals.lies_on_disk(size_bytes, self._space.books.capacity_bytes)
            self._tell(f"nbray: {text}")

    # --- answers ---------------------------------------------------------------------------------------

    def _announce(self, creation: Creation, cold_bytes: int = 0) -> None:
        descriptor = self._table.descriptor(creation.object_id, creation.writer)
        if descriptor is not None:
            self._perform.send(creation.writer, ObjectCreated(descriptor, cold_bytes))

    def refuse(self, creation: Creation) -> None:
        """There is no room, and none is coming."""
        self._waiting.pop(creation.key, None)
        books = self._space.books
        if creation.lacks_bytes:
            error = _no_memory(creation.size_bytes, creation.lacks_bytes)
            self._fail(creation, "memory", refusals.no_memory(creation.size_bytes, books.backed_bytes, error))
            return
        jobs = self._jobs
        maker = self._pressure.maker
        text = refusals.full(
            creation.size_bytes,
            books.used_bytes,
            books.capacity_bytes,
            books.largest_free(),
            self._table.largest(LARGEST_NAMED),
            refusals.why_no_room(
                self._table.recency.idle_bytes,
                can_make_room=maker.can_make_room,
                disk=jobs.refusal if jobs.refused_s >= creation.since_s else "",
            ),
        )
        self._fail(creation, "full", text)

    def _fail(self, creation: Creation, reason: str, text: str) -> None:
        self._perform.send(creation.writer, CreateFailed(creation.object_id, reason, text))


def _no_memory(needed_bytes: int, missing_bytes: int) -> OSError:
    left = max(0, needed_bytes - missing_bytes)
    return OSError(errno.ENOMEM, f"{needed_bytes} more bytes are needed and {left} may be taken")
