"""The writer's side of slabs: objects of middling size go into space that this process has already.

Called by:  runtime.objects; runtime.process (messages of the daemon).
Imports:    core.slabs, store.{mapping,pages}.
Never:      waits: where there is no slab, the object takes the way that asks.

A slab is asked for when a second such object comes while there is none, and the next one when half of
it is used, so that it is there in time. Methods whose docstring says "lock held" are called with
``loop.lock``.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core.slabs import object_max_bytes
from nbray.model.limits import STORE_ALIGNMENT_BYTES
from nbray.store.mapping import Mapping
from nbray.store.pages import can_populate, populate
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    RecallSlab,
    RequestSlab,
    ReturnSlab,
    SlabGranted,
)

_MASK = STORE_ALIGNMENT_BYTES - 1
#: Pages of a slab are mapped by so much at a time, and more for a larger object.
_STRIDE_BYTES = 1024 * 1024
#: After a refusal so many objects take the way that asks before a slab is asked for again.
_PATIENCE = 64


class _Slab:
    __slots__ = ("at", "closed", "end", "generation", "mapped", "start", "writing")

    def __init__(self, message: SlabGranted) -> None:
        self.generation = message.generation
        self.start = self.at = self.mapped = message.offset
        self.end = message.offset + message.size_bytes
        self.writing = 0  # pieces that are being filled
        self.closed = False


class Piece:
    """Space for one object, taken from a slab. Give it to ``SlabWriter.finished``, whatever happens."""

    __slots__ = ("offset", "size_bytes", "slab")

    def __init__(self, slab: _Slab, offset: int, size_bytes: int) -> None:
        self.slab = slab
        self.offset = offset
        self.size_bytes = size_bytes

    @property
    def generation(self) -> int:
        return self.slab.generation


class SlabWriter:
    """The slabs of one process.

    Args:
        tell_daemon: sends a message to the node daemon; lock held.
    """

    def __init__(self, tell_daemon: Callable[[Message], None]) -> None:
        self._tell_daemon = tell_daemon
        self._current: _Slab | None = None
        self._next: _Slab | None = None
        self._asked = False
        self._wait = 1  # so many objects go by before a slab is asked for

    @property
    def is_open(self) -> bool:
        """Whether there is one."""
        return self._current is not None

    @property
    def is_asked(self) -> bool:
        """Whether a slab is on its way."""
        return self._asked

    @staticmethod
    def takes(size_bytes: int, capacity_bytes: int) -> bool:
        """Whether objects of this size may lie in slabs."""
        return 0 < size_bytes <= object_max_bytes(capacity_bytes)

    def carve(self, size_bytes: int) -> Piece | None:
        """Space for an object, if there is some. Lock held."""
        slab = self._current
        if slab is None or slab.end - slab.at < size_bytes:
            if slab is not None and self._next is not None:
                self._close(slab)
            slab = self._current = self._next or slab
            self._next = None
            if slab is None or slab.end - slab.at < size_bytes:
                self._ask(size_bytes)
                return None
        piece = Piece(slab, slab.at, size_bytes)
        slab.at = min(slab.end, (slab.at + size_bytes + _MASK) & ~_MASK)
        slab.writing += 1
        if self._next is None and slab.end - slab.at < max(size_bytes, (slab.end - slab.start) // 2):
            self._ask(size_bytes)
        return piece

    def finished(self, piece: Piece) -> None:
        """The daemon was told of the object, or it came to nothing. Lock held."""
        piece.slab.writing -= 1
        self._return_if_done(piece.slab)

    def granted(self, message: SlabGranted) -> None:
        """Lock held."""
        self._asked = False
        if not message.size_bytes:
            self._wait = _PATIENCE
        elif self._current is None:
            self._current = _Slab(message)
        else:
            self._next = _Slab(message)

    def recalled(self, message: RecallSlab) -> None:
        """Others need the space, or this process has not used it for long. Lock held."""
        if self._next is not None and self._next.generation == message.generation:
            slab, self._next = self._next, None
        elif self._current is not None and self._current.generation == message.generation:
            slab, self._current = self._current, self._next
            self._next = None
        else:
            return  # it is on its way back
        self._wait = max(self._wait, 1)
        self._close(slab)

    def _ask(self, object_bytes: int) -> None:
        if self._wait > 0:
            self._wait -= 1
        elif not self._asked:
            self._asked = True
            self._tell_daemon(RequestSlab(object_bytes))

    def _close(self, slab: _Slab) -> None:
        slab.closed = True
        self._return_if_done(slab)

    def _return_if_done(self, slab: _Slab) -> None:
        if slab.closed and not slab.writing:
            self._tell_daemon(ReturnSlab(slab.generation))


def map_in(piece: Piece, mapping: Mapping) -> None:
    """Map the pages of a piece to be written, and some more of its slab. All have memory already."""
    slab, end = piece.slab, piece.offset + piece.size_bytes
    start = slab.mapped
    if end <= start:
        return
    stop = slab.mapped = min(slab.end, slab.start - (slab.start - end) // _STRIDE_BYTES * _STRIDE_BYTES)
    if can_populate() and not mapping.is_touched(start, stop - start):
        populate(mapping.address(start), stop - start)
        mapping.touch(start, stop - start)
