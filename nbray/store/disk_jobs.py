"""Objects on their way to the disk and back: threads copy, and the directory hears how it went.

Called by:  store.{server,creating,pressure}.
Imports:    nbray.core.{object_moves,objects}, nbray.store.{disk_io,performing,refusals,space,spill_file}.
Never:      decides what goes; blocks its thread.

One thread writes at a time: the kernel reports an error of the disk once, to whoever asks first, and it
must be clear whose bytes it was about. A few read. What could not be written stays where it was. What was
read is compared with its checksum before anybody sees it. An object that finds no room in the arena is
read where it lies.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command
from nbray.core.object_copies import OnDisk, S
from nbray.core.object_moves import Move, ObjectMoves
from nbray.core.object_records import Record
from nbray.core.objects import ObjectTable
from nbray.store import refusals
from nbray.store.disk_io import Piece, Pulse, checksum_of, read_back, write_out
from nbray.store.performing import Performer
from nbray.store.space import Space
from nbray.store.spill_file import SpillFile

if TYPE_CHECKING:
    from nbray.store.pressure import Wish

#: Objects are written in batches of this size, or one by one where they are larger.
BATCH_BYTES = 64 * 1024 * 1024
#: So many threads read at once.
READS_MAX = 3
#: An object on the disk waits so long for room in the arena, while nothing moves.
RESTORE_WAIT_S = 0.2
#: The same trouble is told so often.
_TELL_EVERY_S = 60.0

RunInThread = Callable[[Callable[[], object], Callable[[BaseException | None], None]], object]


class _Fetch:
    """An object on the disk for which somebody waits, and which waits for room."""

    reads = True
    short_bytes = 0  # it is read where it lies instead

    def __init__(self, jobs: DiskJobs, object_id: bytes, size_bytes: int) -> None:
        self.object_id = object_id
        self.size_bytes = size_bytes
        self.since_s = 0.0
        self.patience_s = RESTORE_WAIT_S
        self._jobs = jobs

    def fits(self) -> bool:
        return self._jobs.restore(self.object_id)

    def give_up(self) -> None:
        self._jobs.read_in_place(self.object_id)


class DiskJobs:
    """All methods run on one thread.

    Args:
        file: where objects go; None if none may.
        run_in_thread: as for ``StoreServer``.
        tell: says something to people.
    """

    def __init__(
        self,
        table: ObjectTable,
        moves: ObjectMoves,
        space: Space,
        perform: Performer,
        file: SpillFile | None,
        run_in_thread: RunInThread,
        clock: Callable[[], float],
        tell: Callable[[str], object],
    ) -> None:
        self.wait_for_room: Callable[[Wish], None] = lambda _wish: None
        self.on_done: Callable[[], None] = lambda: None
        self.on_refused: Callable[[], None] = lambda: None
        self.on_restored: Callable[[bytes], None] = lambda _object_id: None
        self.on_nothing_ahead: Callable[[], None] = lambda: None
        self.file = file
        self.written = Pulse()
        self.read = Pulse()
        self.is_writing = False
        #: Why nothing could be written the last time, and when that was.
        self.refusal = ""
        self.refused_s = float("-inf")
        self.totals = {"objects_spilled": 0, "bytes_spilled": 0, "objects_restored": 0, "spill_failures": 0}
        self._table = table
        self._moves = moves
        self._space = space
        self._perform = perform
        self._run_in_thread = run_in_thread
        self._clock = clock
        self._tell = tell
        self._told: dict[str, float] = {}
        self._fetching: set[bytes] = set()
        self._reading = 0
        self._checks: deque[bytes] = deque()  # for want of threads
        self._to_punch: list[Extent] = []
        self._is_punching = False
        #: Places of writes that failed, by generation: their return is no news for who needs room.
        self._in_vain: set[int] = set()
        self._room_comes = False  # by the holes that are being punched
        self._is_closed = False

    def close(self) -> None:
        """Threads end as soon as they can; the file is gone then."""
        self._is_closed = self.written.stop = self.read.stop = True
        if self.file is not None:
            self.file.close()

    # --- to the disk ---------------------------------------------------------------------------------

    def write(self, object_ids: Iterable[bytes], *, ahead: bool = False) -> None:
        """Write a batch of these. Call again when it is done: while it is under way nothing happens.

        ``ahead``: nobody needs it yet, so that nobody is told if it comes to nothing.
        """
        if self.is_writing or self.file is None or self._is_closed:
            return
        try:
            file = self.file.open()
        except OSError as exc:
            self._not_written(exc, 0, ahead=ahead, room_comes=False)
            return
        batch, needed_bytes = self._batch(self.file, object_ids)
        if self.file.is_memory and not self.totals["objects_spilled"]:
            self._say("memory", refusals.no_disk(str(self.file.directory)))
        if not batch:
            if needed_bytes:
                self._not_written(None, needed_bytes, ahead=ahead, room_comes=self._room_comes)
            return
        self.is_writing = True
        arena, checksums = self._space.arena.again(), list[int]()
        pieces, page_bytes = [_piece_to_disk(move) for move in batch], self._space.arena.page_bytes

        def work() -> None:
            assert self.file is not None
            self.file.back(file, [disk_extent(move) for move in batch])
            checksums.extend(write_out(arena.fd, page_bytes, file.fd, pieces, self.written))

        def done(error: BaseException | None) -> None:
            self.is_writing = False
            if not self._is_closed:
                self._batch_done(batch, checksums, error, ahead=ahead)

        self._run_in_thread(work, done)

    def _batch(self, file: SpillFile, object_ids: Iterable[bytes]) -> tuple[list[Move], int]:
        """Begin to move what fits into a batch and onto the disk; what the first of the others needs."""
        batch: list[Move] = []
        out: list[Command] = []
        total_bytes = needed_bytes = 0
        for object_id in object_ids:
            record = self._table.record(object_id)
            copy = record.current if record is not None else None
            if copy is None or copy.disk is not None or (batch and total_bytes >= BATCH_BYTES):
                continue
            extent = file.allocate(copy.size_bytes)
            if extent is None:
                needed_bytes = needed_bytes or copy.size_bytes
                continue
            move = self._moves.spill(object_id, OnDisk(extent, file.path), out)
            if move is None:
                file.free([extent])
            else:
                batch.append(move)
                total_bytes += copy.size_bytes
        self._perform(out)
        return batch, needed_bytes

    def _batch_done(
        self, batch: list[Move], checksums: list[int], error: BaseException | None, *, ahead: bool
    ) -> None:
        out: list[Command] = []
        room_comes = self._room_comes  # before what comes back now: that was not enough
        if error is None:
            for move, checksum in zip(batch, checksums, strict=True):
                self._moves.written(move, checksum, out)
                self.totals["bytes_spilled"] += move.copy.size_bytes
            self.totals["objects_spilled"] += len(batch)
        else:
            for move in batch:
                if move.copy.disk is not None:
                    self._in_vain.add(move.copy.disk.extent.generation)
                self._moves.not_written(move, out)
        self._perform(out)
        if error is not None:
            size_bytes = sum(move.copy.size_bytes for move in batch)
            self._not_written(error, size_bytes, ahead=ahead, room_comes=room_comes)
        self.on_done()

    def _not_written(
        self, error: BaseException | None, size_bytes: int, *, ahead: bool, room_comes: bool
    ) -> None:
        """It found no space, for the limit if there is no error; or something is wrong."""
        if ahead:
            self.on_nothing_ahead()
        elif not (error is None or _is_full(error)) or not (room_comes or self._make_disk_room(size_bytes)):
            self._refuse(error)

    def _make_disk_room(self, size_bytes: int) -> bool:
        """Give up places on the disk whose bytes are in the arena, too. False if there are none."""
        spare: list[bytes] = []
        for record in self._spare_places():
            if size_bytes <= 0:
                break
            spare.append(record.object_id)
            size_bytes -= record.memory_bytes
        out: list[Command] = []
        self._moves.forget_disk(spare, out)
        self._perform(out)
        return bool(spare)

    def _spare_places(self) -> Iterable[Record]:
        # The busy first: they are not about to be dropped.
        for records in (list(self._table.recency.busy()), self._table.recency.idle()):
            for record in records:
                copy = record.current
                if copy is None or copy.state is not S.SEALED:
                    continue
                if copy.disk is not None and copy.extent is not None:
                    yield record

    def reserve(self, size_bytes: int, done: Callable[[OnDisk | None, str], None]) -> None:
        """Set space aside for an object that has no place in the arena; ``done`` gets it, or why not."""
        assert self.file is not None
        try:
            file = self.file.open()
        except OSError as exc:
            self._refuse(exc)
            done(None, self.refusal)
            return
        extent = self.file.allocate(size_bytes)
        if extent is None:
            self._refuse(None)
            done(None, self.refusal)
            return
        place = OnDisk(extent, self.file.path)

        def backed(error: BaseException | None) -> None:
            if self._is_closed:
                return
            if error is None:
                done(place, "")
                return
            self.release(extent)
            self._refuse(error)
            done(None, self.refusal)

        spill_file = self.file
        self._run_in_thread(lambda: spill_file.back(file, [extent]), backed)

    # --- from the disk -------------------------------------------------------------------------------

    def fetch(self, object_id: bytes) -> None:
        """Somebody waits for it: bring it back, or show it where it lies."""
        copy = self._moves.wanted(object_id)
        if copy is not None and object_id not in self._fetching and not self._is_closed:
            self._fetching.add(object_id)
            self.wait_for_room(_Fetch(self, object_id, copy.size_bytes))

    def restore(self, object_id: bytes) -> bool:
        """Begin to read it into the arena; False if there is no room for it, or no thread."""
        copy = self._moves.wanted(object_id)
        if copy is None:
            self._fetching.discard(object_id)
            return True
        if self._reading >= READS_MAX:
            return False
        extent = self._space.reserve(copy.size_bytes)
        if extent is None:
            return False
        if extent.cold and self._space.find_memory(extent):
            self._space.release(extent)
            self._space.not_backed(extent)
            self.read_in_place(object_id)
            return True
        out: list[Command] = []
        move = self._moves.restore(object_id, extent, out)
        self._perform(out)
        assert move is not None
        self._read(move, extent)
        return True

    def _read(self, move: Move, extent: Extent) -> None:
        assert self.file is not None
        assert move.copy.disk is not None
        file, disk = self.file.open(), move.copy.disk
        write_to = self._space.arena.writer()
        checksums: list[int] = []
        is_backed = [not extent.cold]

        def work() -> None:
            if extent.cold:
                self._space.grow(extent)
                is_backed[0] = True
            piece = Piece(disk.extent.offset, extent.offset, move.copy.size_bytes)
            checksums.append(read_back(file.fd, write_to, piece, self.read))

        def done(error: BaseException | None) -> None:
            self._reading -= 1
            if not self._is_closed:
                self._fetching.discard(move.record.object_id)
                if is_backed[0]:
                    self._space.backed(extent)
                    self._read_done(move, error is None and checksums[0] == disk.checksum, error)
                else:
                    self._not_restored(move, extent)
                self._next_check()
                self.on_done()

        self._reading += 1
        self._run_in_thread(work, done)

    def _read_done(self, move: Move, is_right: bool, error: BaseException | None) -> None:
        out: list[Command] = []
        if is_right:
            self.totals["objects_restored"] += 1
            self.on_restored(move.record.object_id)
            self._moves.restored(move, out)
        else:
            self._damaged(move, error, out)
        self._perform(out)

    def _not_restored(self, move: Move, extent: Extent) -> None:
        out: list[Command] = []
        self._moves.not_restored(move, out)
        self._perform(out)  # releases the extent, which is only noted while it is being backed
        self._space.not_backed(extent)
        if self._moves.wanted(move.record.object_id) is not None:
            self._fetching.add(move.record.object_id)
            self.read_in_place(move.record.object_id)

    def read_in_place(self, object_id: bytes) -> None:
        """Show it where it lies, after it was looked at once."""
        move = self._moves.check(object_id)
        if move is None:
            self._fetching.discard(object_id)
        elif move.copy.verified:
            self._shown(move, None, True)
        elif self._reading >= READS_MAX:
            self._checks.append(object_id)
        else:
            self._check(move)

    def _check(self, move: Move) -> None:
        assert self.file is not None
        assert move.copy.disk is not None
        file, disk, size_bytes = self.file.open(), move.copy.disk, move.copy.size_bytes
        checksums: list[int] = []

        def work() -> None:
            checksums.append(checksum_of(file.fd, disk.extent.offset, size_bytes, self.read))

        def done(error: BaseException | None) -> None:
            self._reading -= 1
            if not self._is_closed:
                self._shown(move, error, error is None and checksums[0] == disk.checksum)
                self._next_check()
                self.on_done()

        self._reading += 1
        self._run_in_thread(work, done)

    def _shown(self, move: Move, error: BaseException | None, is_right: bool) -> None:
        self._fetching.discard(move.record.object_id)
        out: list[Command] = []
        if is_right:
            self._moves.show_in_place(move, out)
        else:
            self._damaged(move, error, out)
        self._perform(out)

    def _next_check(self) -> None:
        while self._checks and self._reading < READS_MAX:  # some are not wanted any more
            self.read_in_place(self._checks.popleft())

    def _damaged(self, move: Move, error: BaseException | None, out: list[Command]) -> None:
        if self._moves.damaged(move, out) and self.file is not None:
            self.totals["spill_failures"] += 1
            self._say("damaged", refusals.damaged(str(self.file.directory), move.record.object_id, error))

    # --- the disk's space ----------------------------------------------------------------------------

    def release(self, extent: Extent) -> None:
        """It is nobody's any more."""
        self._to_punch.append(extent)
        self._punch()

    def _punch(self) -> None:
        if self._is_punching or not self._to_punch or self._is_closed or self.file is None:
            return
        extents, self._to_punch = self._to_punch, []
        self._is_punching = True
        generations = {extent.generation for extent in extents}
        self._room_comes = not generations <= self._in_vain
        self._in_vain -= generations
        spill_file, file = self.file, self.file.open()

        def done(_error: BaseException | None) -> None:
            self._is_punching = self._room_comes = False
            if not self._is_closed:
                spill_file.free(extents)
                self._punch()
                self.on_done()

        self._run_in_thread(lambda: spill_file.punch(file, extents), done)

    def _refuse(self, error: BaseException | None) -> None:
        """Nothing could be written; None: for its limit."""
        assert self.file is not None
        self.totals["spill_failures"] += 1
        self.refused_s = self._clock()
        kind = "limit" if error is None else "full" if _is_full(error) else str(error)
        directory = str(self.file.directory)
        if error is None:
            self.refusal = refusals.spill_limit(self.file.limit_bytes or 0)
        elif _is_full(error):
            self.refusal = refusals.disk_full(directory)
        else:
            self.refusal = refusals.disk_refuses(directory, error)
        self._say(kind, self.refusal)
        self.on_refused()

    def _say(self, kind: str, text: str) -> None:
        now_s = self._clock()
        if now_s - self._told.get(kind, float("-inf")) >= _TELL_EVERY_S:
            self._told[kind] = now_s
            self._tell(f"nbray: {text}")


def disk_extent(move: Move) -> Extent:
    """Where a move to the disk ends."""
    assert move.copy.disk is not None
    return move.copy.disk.extent


def _piece_to_disk(move: Move) -> Piece:
    assert move.copy.extent is not None
    return Piece(move.copy.extent.offset, disk_extent(move).offset, move.copy.size_bytes)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
