"""Who must make room when the arena is full: what is evicted, dropped, written to the disk, or asked for.

Called by:  store.pressure, its only host.
Imports:    nbray.core.objects.
Never:      moves a byte, sends, reads a clock. It appends commands to a list that the caller owns.

Objects that nobody has in hand go first, those longest unused before others: weak ones are evicted, those
with a copy on the disk are dropped from the arena, all others are written to the disk first. If they are
not enough, processes are asked for what they have in hand and do not use (``RecallObjects``). A process
answers when it comes to it, so what it was asked for counts as on its way for a moment only: then others
are asked. What it refused is not asked for again at once.

Where one object after the other needs room, the next ones are written ahead: they stay in the arena until
somebody needs their place, who then waits for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nbray.core.allocator import LARGE_BYTES
from nbray.core.object_copies import S
from nbray.core.object_records import Record
from nbray.core.objects import ObjectTable
from nbray.wire.object_messages import RecallObjects

#: A process is given so long to answer before others are asked instead.
ANSWER_S = 0.05
#: What was refused is left alone for so long.
REFUSED_S = 0.1
#: What came back from the disk is left to who asked for it for so long: it is about to be read. And for so
#: long others are asked for first. (Who reads one object after the other may have nothing older.)
RESTORED_S = 0.05
RESTORED_LATELY_S = 0.3
#: After the disk refused, it is left alone for so long.
DISK_REST_S = 1.0
#: So many times what is missing is asked for: some of it will be in use.
_ASK_FOR = 2
#: A process is asked for so many objects at most in one message.
_ASK_MAX = 1000


class Evict(NamedTuple):
    """Command: these bytes go for good."""

    object_id: bytes


class Drop(NamedTuple):
    """Command: these bytes are on the disk as well: take them out of the arena."""

    object_id: bytes


class Write(NamedTuple):
    """Command: write these objects to the disk. They stay in the arena until they are dropped."""

    object_ids: tuple[bytes, ...]


class Recall(NamedTuple):
    """Command: send this."""

    process_id: bytes
    message: RecallObjects


Command = Evict | Drop | Write | Recall


class _Question(NamedTuple):
    """What a process was asked for and has not answered."""

    process_id: bytes
    object_ids: frozenset[bytes]
    size_bytes: int
    asked_s: float


class RoomMaker:
    """Chooses what has to leave the arena.

    Args:
        table: the directory. What is commanded is told to it before this is asked again.
        spills: objects may be written to the disk.
        evicts: all objects are evicted instead.
        batch_bytes: so much at least is written, or asked for, at once: waiting for the disk takes as long
            for one small object as for many.
    """

    def __init__(self, table: ObjectTable, *, spills: bool, evicts: bool, batch_bytes: int = 0) -> None:
        self.batch_bytes = batch_bytes
        self._table = table
        self._spills = spills and not evicts
        self._evicts = evicts
        self._open: dict[int, _Question] = {}
        self._refused: dict[bytes, float] = {}  # object -> until when
        self._restored: dict[bytes, float] = {}  # object -> when it came back, lately
        self._last_number = 0
        self._disk_rests_until_s = 0.0

    @property
    def can_make_room(self) -> bool:
        """Whether an object may ever leave that is not weak."""
        return self._spills or self._evicts

    def make_room(self, missing_bytes: int, now_s: float, out: list[Command]) -> None:
        """So much has to leave. What is leaving already, and what was just asked for, counts."""
        missing = missing_bytes - self._table.bytes_in(S.SPILLING)
        batch_bytes = 0
        written: list[bytes] = []
        for record, command in self._idle(now_s) if missing > 0 else ():
            if isinstance(command, Write):
                written.append(record.object_id)
                batch_bytes += record.memory_bytes
            elif missing > 0:
                out.append(command)
            missing -= record.memory_bytes
            if missing <= 0 and not 0 < batch_bytes < self.batch_bytes:
                break
        self._write_and_recall(written, missing, now_s, out)

    def work_ahead(self, wanted_bytes: int, now_s: float, out: list[Command]) -> None:
        """See to it that so much can leave at once, when it has to; once only half of it can."""
        if not self._may_write(now_s):
            return
        missing = wanted_bytes - self._table.bytes_in(S.SPILLING)
        written: list[bytes] = []
        idle = list(self._idle(now_s))
        missing -= sum(record.memory_bytes for record, command in idle if not isinstance(command, Write))
        if 2 * missing < wanted_bytes:
            return
        for record, command in idle:
            if missing <= 0:
                break
            if isinstance(command, Write):
                written.append(record.object_id)
                missing -= record.memory_bytes
        self._write_and_recall(written, missing, now_s, out)

    def _write_and_recall(self, written: list[bytes], missing: int, now_s: float, out: list[Command]) -> None:
        if written:
            out.append(Write(tuple(written)))
        if missing > 0:
            self._recall(missing, now_s, out)

    def answered(self, process_id: bytes, number: int, yielded: Iterable[bytes], now_s: float) -> None:
        """A process named what it can do without."""
        question = self._open.get(number)
        if question is not None and question.process_id == process_id:
            del self._open[number]
            until = now_s + REFUSED_S
            self._refused.update(dict.fromkeys(question.object_ids.difference(yielded), until))

    def restored(self, object_id: bytes, now_s: float) -> None:
        """It came back for somebody who is about to read it."""
        self._restored.pop(object_id, None)  # in the order of time
        self._restored[object_id] = now_s

    def process_lost(self, process_id: bytes) -> None:
        """It answers no more."""
        self._open = {n: asked for n, asked in self._open.items() if asked.process_id != process_id}

    def disk_refused(self, now_s: float) -> None:
        """Nothing could be written."""
        self._disk_rests_until_s = now_s + DISK_REST_S

    def _idle(self, now_s: float) -> Iterator[tuple[Record, Evict | Drop | Write]]:
        """What can leave now, those longest unused first, and how."""
        may_write = self._may_write(now_s)
        for record in self._table.recency.idle():
            command = self._command(record, may_write)
            if command is not None:
                yield record, command

    def _may_write(self, now_s: float) -> bool:
        return self._spills and now_s >= self._disk_rests_until_s

    def _command(self, record: Record, may_write: bool) -> Evict | Drop | Write | None:
        if self._evicts or record.weak:
            return Evict(record.object_id)
        if record.current is not None and record.current.disk is not None:
            return Drop(record.object_id)
        return Write((record.object_id,)) if may_write else None

    # --- what is in hand -----------------------------------------------------------------------------

    def _recall(self, missing: int, now_s: float, out: list[Command]) -> None:
        self._refused = {object_id: until for object_id, until in self._refused.items() if until > now_s}
        since_s = now_s - RESTORED_LATELY_S
        self._restored = {object_id: at_s for object_id, at_s in self._restored.items() if at_s > since_s}
        asked: set[bytes] = set()
        for question in self._open.values():
            asked |= question.object_ids
            if now_s - question.asked_s < ANSWER_S:
                missing -= question.size_bytes
        if missing <= 0:
            return
        wanted = max(missing * _ASK_FOR, self.batch_bytes)
        found = 0
        of: dict[bytes, list[bytes]] = {}
        sizes: dict[bytes, int] = {}
        for record in self._candidates(asked, now_s):
            if found >= (missing if record.object_id in self._restored else wanted):
                break
            found += record.memory_bytes
            for process in record.hands():
                of.setdefault(process, []).append(record.object_id)
                sizes[process] = sizes.get(process, 0) + record.memory_bytes
        for process, object_ids in of.items():
            self._ask(process, object_ids[:_ASK_MAX], sizes[process], now_s, out)

    def _candidates(self, asked: set[bytes], now_s: float) -> Iterator[Record]:
        """What is worth asking for: a few large objects before many small ones, and the oldest first.

        What came back lately comes last.
        """
        small, lately, may_write = [], [], self._may_write(now_s)
        for record in self._table.recency.busy():
            object_id = record.object_id
            if object_id in asked or object_id in self._refused:
                continue
            if self._command(record, may_write) is None and not record.lingering:
                continue
            if object_id in self._restored:
                lately.append(record)
            elif record.memory_bytes < LARGE_BYTES:
                small.append(record)
            else:
                yield record
        yield from small
        for record in lately:
            if now_s - self._restored[record.object_id] >= RESTORED_S:
                yield record

    def _ask(
        self, process: bytes, object_ids: list[bytes], size_bytes: int, now_s: float, out: list[Command]
    ) -> None:
        self._last_number += 1
        self._open[self._last_number] = _Question(process, frozenset(object_ids), size_bytes, now_s)
        out.append(Recall(process, RecallObjects(self._last_number, object_ids)))
