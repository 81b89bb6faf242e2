"""Who waits for room in the arena, and what is done about it.

Called by:  store.{server,creating,disk_jobs}.
Imports:    nbray.core.{object_moves,objects,spilling}, nbray.store.{disk_jobs,performing,space}.
Never:      waits: it looks again when something came back, and every ``POLL_S`` while anybody waits.

The eldest goes first: what comes back is not given to others once it has waited for ``PASS_S``, so that
many small objects cannot starve a large one. Who waits is refused, or served in another way, when nothing
has moved for as long as it has patience.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from nbray.core import spilling
from nbray.core.object_commands import Command
from nbray.core.object_moves import ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.core.spilling import RoomMaker
from nbray.store.disk_jobs import DiskJobs
from nbray.store.performing import Performer
from nbray.store.space import Space
from nbray.wire.object_messages import ObjectsYielded

POLL_S = 0.05
#: The eldest lets others pass for so long.
PASS_S = 0.1
#: While bytes are on their way to the disk, so much longer may pass without a sign of it.
STALL_S = 5.0
#: For so long after somebody had to wait, objects are written ahead for the next one.
AHEAD_S = 1.0
#: Beside the eldest, room is made for so much of what waits behind it.
_TOGETHER_BYTES = 256 * 1024 * 1024
#: No more than this share of the arena is written ahead.
_AHEAD_SHARE = 4


class Wish(Protocol):
    """Somebody who needs room. ``reads``: it can be served from the disk, too.

    ``lacks_bytes``: there is room, but the machine lacks so much memory for it; others have to leave theirs.
    """

    size_bytes: int
    lacks_bytes: int
    since_s: float
    patience_s: float
    reads: bool

    def fits(self) -> bool:
        """Take the room and go on; False if there is none."""

    def give_up(self) -> None:
        """Go on without."""


class Pressure:
    """All methods run on one thread.

    Args:
        recall_slabs: asks for the space of slabs.
    """

    def __init__(
        self,
        table: ObjectTable,
        moves: ObjectMoves,
        space: Space,
        perform: Performer,
        jobs: DiskJobs,
        maker: RoomMaker,
        call_later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        recall_slabs: Callable[[], None],
    ) -> None:
        self.maker = maker
        self._table = table
        self._moves = moves
        self._space = space
        self._perform = perform
        self._jobs = jobs
        self._call_later = call_later
        self._clock = clock
        self._recall_slabs = recall_slabs
        self._queue: dict[int, Wish] = {}  # by id, eldest first
        self._ahead_bytes = 0
        self._ahead_until_s = 0.0
        self._progress_s = 0.0
        self._read_progress_s = 0.0
        self._seen = (0, 0)
        self._is_armed = False
        self._is_advancing = False
        self._again = False
        self.evicted = 0
        perform.on_room = self.room_came_back
        perform.on_fetch = jobs.fetch
        perform.on_disk_released = jobs.release
        jobs.wait_for_room = self.add
        jobs.on_done = self.advance
        jobs.on_refused = lambda: maker.disk_refused(self._clock())
        jobs.on_nothing_ahead = self._stop_working_ahead

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    # --- who waits -----------------------------------------------------------------------------------

    def add(self, wish: Wish) -> None:
        """Serve it now, or when there is room."""
        wish.since_s = self._clock()
        if not self._is_reserved() and wish.fits():
            return
        self._queue[id(wish)] = wish
        self._recall_slabs()
        self.advance()
        self._arm()

    def remove(self, wish: Wish) -> None:
        """It is not wanted any more."""
        if self._queue.pop(id(wish), None) is not None:
            self.advance()

    def is_contended(self) -> bool:
        """Whether anybody waits."""
        return bool(self._queue)

    def clear(self) -> None:
        """The end: nobody is served any more."""
        self._queue.clear()

    # --- what happens --------------------------------------------------------------------------------

    def room_came_back(self) -> None:
        """Space of the arena is free again."""
        self._progress_s = self._clock()
        self.advance()

    def yielded(self, process_id: bytes, message: ObjectsYielded) -> None:
        """A process can do without these."""
        now_s = self._clock()
        self.maker.answered(process_id, message.number, message.object_ids, now_s)
        if message.object_ids:
            self._progress_s = now_s
        out: list[Command] = []
        self._table.yielded(process_id, message.object_ids, out)
        self._perform(out)
        self.advance()

    def process_lost(self, process_id: bytes) -> None:
        """What it had in hand, and what it was asked for, is in nobody's hand now."""
        self.maker.process_lost(process_id)
        self.advance()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While facts come in that belong together nobody is served; who can be is served then."""
        was_advancing, self._is_advancing = self._is_advancing, True
        try:
            yield
        finally:
            self._is_advancing = was_advancing
        self.advance()

    def advance(self) -> None:
        """Serve whom there is room for; have room made for the others."""
        if self._is_advancing:
            self._again = True
            return
        self._is_advancing = True
        try:
            self._again = True
            while self._again and self._queue:
                self._again = False
                self._serve()
                if self._queue:
                    self._press()
            if not self._queue and self._clock() < self._ahead_until_s:
                self._work_ahead()
        finally:
            self._is_advancing = False

    def _serve(self) -> None:
        for wish in list(self._queue.values()):
            if id(wish) not in self._queue:
                continue
            if wish.fits():
                self._queue.pop(id(wish), None)
                self._ahead_bytes = min(wish.size_bytes, self._space.books.capacity_bytes // _AHEAD_SHARE)
                self._ahead_until_s = self._clock() + AHEAD_S
            elif self._is_reserved():
                return

    def _is_reserved(self) -> bool:
        """Whether what comes back is the eldest's."""
        eldest = next(iter(self._queue.values()), None)
        return eldest is not None and self._clock() - eldest.since_s >= PASS_S

    def _press(self) -> None:
        commands: list[spilling.Command] = []
        self.maker.make_room(self._missing(), self._clock(), commands)
        self._do(commands)

    def _work_ahead(self) -> None:
        commands: list[spilling.Command] = []
        books = self._space.books
        free_bytes = books.capacity_bytes - books.used_bytes
        self.maker.work_ahead(self._ahead_bytes - free_bytes, self._clock(), commands)
        self._do(commands, ahead=True)

    def _stop_working_ahead(self) -> None:
        self._ahead_until_s = 0.0

    def _do(self, commands: list[spilling.Command], *, ahead: bool = False) -> None:
        for command in commands:
            out: list[Command] = []
            if isinstance(command, spilling.Write):
                self._jobs.write(command.object_ids, ahead=ahead)
            elif isinstance(command, spilling.Recall):
                self._perform.send(command.process_id, command.message)
            elif isinstance(command, spilling.Evict):
                self.evicted += 1
                self._moves.evict(command.object_id, out)
            else:
                self._moves.drop(command.object_id, out)
            self._perform(out)

    def _missing(self) -> int:
        """Bytes that have to leave the arena: the eldest needs them in one piece."""
        books = self._space.books
        sizes = [wish.size_bytes for wish in self._queue.values()]
        in_one_piece = max(sizes[0] - books.largest_free(), next(iter(self._queue.values())).lacks_bytes, 1)
        together = min(sum(sizes), sizes[0] + _TOGETHER_BYTES) - (books.capacity_bytes - books.used_bytes)
        return max(in_one_piece, together)

    # --- time ----------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self._queue and not self._is_armed:
            self._is_armed = True
            self._call_later(POLL_S, self._tick)

    def _tick(self) -> None:
        self._is_armed = False
        self._look_for_progress()
        now_s = self._clock()
        for wish in list(self._queue.values()):
            if id(wish) in self._queue and self._has_lost_patience(wish, now_s):
                del self._queue[id(wish)]
                wish.give_up()
        self.advance()
        self._arm()

    def _look_for_progress(self) -> None:
        now_s, seen = self._clock(), (self._jobs.written.done_bytes, self._jobs.read.done_bytes)
        if seen[0] != self._seen[0]:
            self._progress_s = now_s
        if seen != self._seen:
            self._read_progress_s = now_s
        self._seen = seen

    def _has_lost_patience(self, wish: Wish, now_s: float) -> bool:
        patience_s, last_s = wish.patience_s, max(wish.since_s, self._progress_s)
        if wish.reads:
            last_s = max(last_s, self._read_progress_s)
        elif self._jobs.is_writing:
            patience_s = max(patience_s, STALL_S)
        return now_s - last_s >= patience_s
