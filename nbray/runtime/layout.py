"""How a serialized value lies in memory: in a message, or in the store.

Called by:  serialization, task_errors.
Imports:    nbray.model, runtime.bulk_copy.
Never:      pickles; copies a buffer except into its final place.

The **last byte** says what the bytes are. A pickle stream ends with the opcode ``.``, so that a value
without buffers is its pickle and nothing else. With buffers::

    | pickle | pad | buffer 0 | pad | buffer 1 | ... | n x (offset, length) | pickle length | n   | kind |
    |        | 64  |          | 64  |          |     | u64, u64             | u64           | u32 | u8   |

Kind ``B`` is a value, ``E`` an error record (always with this trailer, even if n is 0). Buffers start
at multiples of 64 from the start of the whole, little endian all over. The trailer stands at the end
because only then is everything known, and the pickle at the start because it needs no alignment.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from nbray.model.limits import STORE_ALIGNMENT_BYTES
from nbray.runtime.bulk_copy import copy_into

PLAIN = ord(".")
BUFFERED = ord("B")
ERROR = ord("E")

_TAIL = struct.Struct("<QIB")  # pickle length, number of buffers, kind
_ENTRY = struct.Struct("<QQ")  # offset, length
_MASK = STORE_ALIGNMENT_BYTES - 1

Buffer = bytes | memoryview


class Serialized:
    """A value in its parts, not yet in one piece: large buffers are copied once, by ``write_into``.

    ``size_bytes`` is the size in one piece; ``refs`` lists the references inside, in order. The
    buffers are views of the value's own memory: change nothing in it before they are written.
    """

    __slots__ = ("_pieces", "pickled", "refs", "size_bytes")

    def __init__(self, pickled: bytes, refs: list[Any] | None = None) -> None:
        self.pickled = pickled
        self.refs: list[Any] = [] if refs is None else refs
        self.size_bytes = len(pickled)
        self._pieces: list[tuple[int, Buffer]] | None = None

    @classmethod
    def with_buffers(
        cls, pickled: bytes, buffers: list[memoryview], refs: list[Any], kind: int = BUFFERED
    ) -> Serialized:
        """Lay out a pickle and its out-of-band buffers, each one flat and contiguous."""
        self = cls(pickled, refs)
        at = len(pickled)
        self._pieces = [(0, pickled)]
        index = []
        for buffer in buffers:
            at = (at + _MASK) & ~_MASK
            self._pieces.append((at, buffer))
            index.append(_ENTRY.pack(at, buffer.nbytes))
            at += buffer.nbytes
        tail = b"".join(index) + _TAIL.pack(len(pickled), len(buffers), kind)
        self._pieces.append((at, tail))
        self.size_bytes = at + len(tail)
        return self

    def outline(self) -> Outline | None:
        """None for a value without buffers, or with a long pickle."""
        if self._pieces is None or len(self.pickled) > OUTLINE_MAX_BYTES:
            return None
        return Outline(self.pickled, [(at, len(piece)) for at, piece in self._pieces[1:-1]])

    def to_bytes(self) -> bytes:
        """The value in one piece."""
        if self._pieces is None:
            return self.pickled
        at = 0
        parts: list[Buffer] = []
        for offset, piece in self._pieces:
            if offset > at:
                parts.append(bytes(offset - at))
            parts.append(piece)
            at = offset + len(piece)
        return b"".join(parts)

    def pieces(self) -> list[tuple[int, Buffer]]:
        """What the value consists of, each with its offset. Between them, less than 64 bytes are left out."""
        return self._pieces or [(0, self.pickled)]

    def write_into(self, target: memoryview, *, map_in: bool = False) -> None:
        """Write the value in one piece to the first ``size_bytes`` of ``target``.

        Padding is left as it is. Large pieces are copied without the GIL. ``map_in``: as for ``copy_into``.

        Raises:
            ValueError: ``target`` is too small.
            OSError: its pages cannot be mapped.
        """
        if target.nbytes < self.size_bytes:
            raise ValueError(f"{self.size_bytes} bytes do not fit into {target.nbytes}.")
        for offset, piece in self.pieces():
            copy_into(target[offset : offset + len(piece)], piece, map_in=map_in)


class Outline(NamedTuple):
    """What is needed of a value besides its buffers: kept by who has it at hand, it saves looking for it."""

    pickled: bytes
    extents: list[tuple[int, int]]


#: An outline is kept if its pickle is no longer than this.
OUTLINE_MAX_BYTES = 4096


class Parts(NamedTuple):
    """A value in one piece, taken apart again: nothing is copied."""

    pickled: memoryview
    extents: list[tuple[int, int]]
    kind: int


def take_apart(whole: memoryview) -> Parts:
    """Find the parts of a value that has a trailer.

    Raises:
        ValueError: the trailer contradicts the size; the bytes are cut or damaged.
    """
    at = whole.nbytes - _TAIL.size
    if at < 0:
        raise ValueError(f"{whole.nbytes} bytes are too few for a serialized value.")
    pickle_bytes, count, kind = _TAIL.unpack_from(whole, at)
    at -= count * _ENTRY.size
    if at < pickle_bytes:
        raise ValueError(f"The index of a serialized value does not fit into its {whole.nbytes} bytes.")
    extents = [_ENTRY.unpack_from(whole, at + n * _ENTRY.size) for n in range(count)]
    for offset, length in extents:
        if offset < pickle_bytes or offset + length > at:
            raise ValueError(f"A buffer at {offset} of {length} bytes lies outside its serialized value.")
    return Parts(whole[:pickle_bytes], extents, kind)
