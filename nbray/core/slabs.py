"""Slabs: space that a process gets in one piece, and hands out itself to objects of middling size.

Called by:  store.server, its only host; runtime.slabs for the sizes.
Imports:    nbray.core.allocator.
Never:      touches memory, sends.

Asking the daemon for space costs as much as copying a megabyte. A process that writes many such objects
asks once for a slab, writes into it and tells the daemon of each object when it is whole
(``AdoptObject``): its bytes become an extent of their own, which is freed like any other. What a process
has not told of goes back with the slab: when it asks no more of it, when the daemon recalls it, or when
the process ends.
"""

from __future__ import annotations

from typing import NamedTuple

from nbray.core.allocator import Allocator, Extent
from nbray.model.limits import STORE_ALIGNMENT_BYTES

_MIB = 1024 * 1024
#: A process's first slab; each further one is twice as large, up to the store's ``slab_max_bytes``.
FIRST_BYTES = 4 * _MIB
LARGEST_BYTES = 16 * _MIB
#: At least so many objects fit into a slab. (To ask for 4 MiB costs less than to write to memory that
#: is not in the cache, which the space that was freed last is.)
OBJECTS_MIN = 8
#: One that it fills, and one to go on with.
SLABS_PER_PROCESS = 2
#: All slabs together take at most this share of the store; and none is given to a store that is fuller.
_SLABS_SHARE = 8
_FULL_SHARE = 2
_SLAB_SHARE = 64


def slab_max_bytes(capacity_bytes: int) -> int:
    """Size of the largest slab that a store of this capacity gives."""
    return min(LARGEST_BYTES, capacity_bytes // _SLAB_SHARE // STORE_ALIGNMENT_BYTES * STORE_ALIGNMENT_BYTES)


def object_max_bytes(capacity_bytes: int) -> int:
    """Up to this size objects of such a store may lie in slabs."""
    return slab_max_bytes(capacity_bytes) // OBJECTS_MIN


class Holder(NamedTuple):
    """Who has which slab."""

    process_id: bytes
    generation: int


class _Slab:
    __slots__ = ("holder", "rests", "used_lately")

    def __init__(self, holder: Holder, extent: Extent) -> None:
        self.holder = holder
        self.rests = [extent]  # what no object was told of
        self.used_lately = True


class Slabs:
    """All slabs of a store. Space that is in one is live in the allocator, object or not."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._slabs: dict[Holder, _Slab] = {}
        self._sizes: dict[bytes, int] = {}  # of each process's next slab
        self._counts: dict[bytes, int] = {}  # slabs that a process has, or for which it waits
        self._promised_bytes = 0
        self.unused_bytes = 0

    def promise(self, process_id: bytes, object_bytes: int) -> int:
        """How large a slab this process gets for objects of this size; 0: none.

        Follow up with ``granted`` or ``refused``.
        """
        capacity = self._allocator.capacity_bytes
        most = slab_max_bytes(capacity)
        size = min(most, max(self._sizes.get(process_id, FIRST_BYTES), OBJECTS_MIN * object_bytes))
        in_slabs = self.unused_bytes + self._promised_bytes
        if (
            not 0 < OBJECTS_MIN * object_bytes <= most
            or self._counts.get(process_id, 0) >= SLABS_PER_PROCESS
            or in_slabs + size > capacity // _SLABS_SHARE
            or self._allocator.used_bytes + size > capacity // _FULL_SHARE
        ):
            return 0
        self._promised_bytes += size
        self._counts[process_id] = self._counts.get(process_id, 0) + 1
        self._sizes[process_id] = 2 * size
        return size

    def refused(self, process_id: bytes, size_bytes: int) -> None:
        """There was no space or no memory for a promised slab after all, or the process is gone."""
        self._promised_bytes -= size_bytes
        self._forget_one(process_id)

    def granted(self, process_id: bytes, size_bytes: int, extent: Extent) -> None:
        """A promised slab is there, all of it backed."""
        self._promised_bytes -= size_bytes
        self.unused_bytes += extent.size_bytes
        holder = Holder(process_id, extent.generation)
        self._slabs[holder] = _Slab(holder, extent)

    def adopt(self, process_id: bytes, generation: int, offset: int, size_bytes: int) -> Extent | None:
        """The space of an object that its process wrote into its slab; None if it has no such space."""
        slab = self._slabs.get(Holder(process_id, generation))
        if slab is None or size_bytes <= 0 or offset % STORE_ALIGNMENT_BYTES:
            return None
        end = offset + -(-size_bytes // STORE_ALIGNMENT_BYTES) * STORE_ALIGNMENT_BYTES
        # Threads finish in any order: the rests before an object may be about to be told of, too.
        for at, rest in enumerate(slab.rests):
            if rest.offset <= offset and end <= rest.end:
                piece, others = self._allocator.carve(rest, offset, end)
                slab.rests[at : at + 1] = others
                slab.used_lately = True
                self.unused_bytes -= piece.size_bytes
                return piece
        return None

    def returned(self, process_id: bytes, generation: int) -> bool:
        """The process writes no more to this slab; False if it has no such."""
        slab = self._slabs.pop(Holder(process_id, generation), None)
        if slab is None:
            return False
        for rest in slab.rests:
            self.unused_bytes -= rest.size_bytes
            self._allocator.free(rest)
        self._forget_one(process_id)
        return True

    def process_lost(self, process_id: bytes) -> bool:
        """Take back what it had; False if that was nothing."""
        self._sizes.pop(process_id, None)
        mine = [holder for holder in self._slabs if holder.process_id == process_id]
        for holder in mine:
            self.returned(*holder)
        return bool(mine)

    def holders(self) -> list[Holder]:
        """Every slab, to be recalled: the store is full."""
        return list(self._slabs)

    def idle(self) -> list[Holder]:
        """Slabs of which nothing was used since the last call."""
        found = [holder for holder, slab in self._slabs.items() if not slab.used_lately]
        for slab in self._slabs.values():
            slab.used_lately = False
        return found

    def _forget_one(self, process_id: bytes) -> None:
        self._counts[process_id] -= 1
        if not self._counts[process_id]:
            del self._counts[process_id]
