"""Objects on their way between the arena and the disk, and those that must go altogether.

Called by:  store.{pressure,disk_jobs}, which copy the bytes; core.spilling says which objects.
Imports:    nbray.core.{objects,object_commands,object_copies,object_records}.
Never:      touches memory or disk. It appends commands to a list that the caller owns.

A thread copies the bytes. What is told of the object meanwhile is heard at once: who asks for an object
that is being written gets it, in the arena, where it then stays; who frees it is done with it, and its
space returns when the thread is done. So every move begins and ends here, and between them the copy is
in a state of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command
from nbray.core.object_copies import Copy, E, OnDisk, S
from nbray.core.object_records import Record
from nbray.core.objects import ObjectTable


class Move(NamedTuple):
    """One that is under way. Give it to the method that ends it, exactly once."""

    record: Record
    copy: Copy


class ObjectMoves:
    """Moves the copies of a directory. Object IDs of what is not there, or is in use, change nothing."""

    def __init__(self, table: ObjectTable) -> None:
        self._table = table

    # --- from the arena ----------------------------------------------------------------------------

    def spill(self, object_id: bytes, disk: OnDisk, out: list[Command]) -> Move | None:
        """A thread begins to write it; None if it must not be moved, and ``disk`` is not used."""
        move = self._idle(object_id)
        if move is None or move.copy.disk is not None:
            return None
        move.copy.disk = disk
        self._table.fire(*move, E.SPILL, out)
        return move

    def written(self, move: Move, checksum: int, out: list[Command]) -> None:
        """It is on the disk as well, and can be dropped from the arena."""
        copy = move.copy
        assert copy.disk is not None
        copy.disk = copy.disk._replace(checksum=checksum)
        if not self._ended(move, out):
            self._table.fire(*move, E.WRITTEN, out)

    def not_written(self, move: Move, out: list[Command]) -> None:
        """It is not, and stays where it was."""
        if not self._ended(move, out):
            self._table.fire(*move, E.MOVE_FAILED, out)

    def drop(self, object_id: bytes, out: list[Command]) -> None:
        """Its bytes are on the disk: those in the arena can go."""
        move = self._idle(object_id)
        if move is not None and move.copy.disk is not None:
            self._table.fire(*move, E.DROP, out)

    def evict(self, object_id: bytes, out: list[Command]) -> None:
        """Its bytes go for good; the owner may make them again."""
        move = self._idle(object_id)
        if move is not None:
            self._table.fire(*move, E.EVICT, out)

    # --- from the disk -----------------------------------------------------------------------------

    def wanted(self, object_id: bytes) -> Copy | None:
        """The copy on the disk for which somebody waits; None if nobody does (any more)."""
        record = self._table.record(object_id)
        if record is None or record.current is None or record.current.state is not S.SPILLED:
            return None
        return record.current if object_id in self._table.waiters else None

    def restore(self, object_id: bytes, extent: Extent, out: list[Command]) -> Move | None:
        """A thread begins to read it into an extent; None if nobody waits for it (any more)."""
        copy, record = self.wanted(object_id), self._table.record(object_id)
        if copy is None or record is None:
            return None
        copy.extent = extent
        self._table.fire(record, copy, E.RESTORE, out)
        return Move(record, copy)

    def restored(self, move: Move, out: list[Command]) -> None:
        """It is in the arena, and is what was written."""
        move.copy.verified = True
        if not self._ended(move, out):
            self._table.fire(*move, E.READ, out)

    def not_restored(self, move: Move, out: list[Command]) -> None:
        """It is not: there is no memory for it. What is on the disk may be right."""
        if not self._ended(move, out):
            self._table.fire(*move, E.MOVE_FAILED, out)

    def damaged(self, move: Move, out: list[Command]) -> bool:
        """What is on the disk cannot be read, or is not what was written. Also after ``check``.

        False if that harms nobody: it was freed meanwhile, and its place on the disk was another's then.
        """
        if self._ended(move, out) or move.copy.state not in {S.RESTORING, S.SPILLED}:
            return False
        self._table.fire(*move, E.LOSE, out)
        self._table.lost_its_bytes(move.record, out)
        self._table.forget_if_empty(move.record)
        return True

    def check(self, object_id: bytes) -> Move | None:
        """A thread begins to look whether it can be read where it lies; None if nobody waits for it."""
        copy, record = self.wanted(object_id), self._table.record(object_id)
        return Move(record, copy) if copy is not None and record is not None else None

    def show_in_place(self, move: Move, out: list[Command]) -> None:
        """It can: who waits reads it on the disk, as long as anybody does."""
        copy, record = move.copy, move.record
        copy.verified = True
        if copy.state is S.SPILLED and self.wanted(record.object_id) is copy:
            copy.read_in_place = True
            self._table.serve_waiters(record, out)

    def forget_disk(self, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """Their bytes are in the arena: those on the disk can go."""
        for object_id in object_ids:
            record = self._table.record(object_id)
            copy = record.current if record is not None else None
            if record is None or copy is None or copy.state is not S.SEALED:
                continue
            if copy.disk is not None and copy.extent is not None:
                self._table.fire(record, copy, E.FORGET_DISK, out)

    # --- one move ------------------------------------------------------------------------------------

    def _idle(self, object_id: bytes) -> Move | None:
        record = self._table.record(object_id)
        if record is None or record.in_use or record.current is None:
            return None
        copy = record.current
        return Move(record, copy) if copy.state is S.SEALED and copy.extent is not None else None

    def _ended(self, move: Move, out: list[Command]) -> bool:
        """Whether nobody wants it any more; then its space returns, unless somebody still reads it."""
        record, copy = move
        if copy.state is not S.ENDING:
            return False
        self._table.fire(record, copy, E.MOVED_PINNED if record.in_use else E.MOVED, out)
        record.lingering = [other for other in record.lingering if other.state is not S.GONE]
        self._table.forget_if_empty(record)
        return True
