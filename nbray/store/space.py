"""The arena's space and its memory: extents, and the pages that they need before anybody writes to them.

Called by:  store.{server,creating,slab_requests,disk_jobs,pressure}.
Imports:    nbray.core.allocator, nbray.store.arena.
Never:      knows of objects.

While its pages are being backed an extent cannot go back to the allocator: if it is released meanwhile, it
goes back when that is done. A writer backs the pages of a large object faster than anybody else could,
since it touches them anyway. What it may take is set aside until it seals; what it took goes back if it
does not.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core.allocator import LARGE_BYTES, Allocator, Extent
from nbray.store.arena import Arena


class Space:
    """Hosts the allocator. All methods run on one thread, but for what ``grow`` does.

    Args:
        arena: belongs to it from now on.
        available: bytes of memory that the arena may still take (``MemoryBudget.available``); called
            from worker threads too.
    """

    def __init__(self, arena: Arena, available: Callable[[], int]) -> None:
        self.arena = arena
        self.books = Allocator(arena.capacity_bytes, arena.page_bytes)
        self.set_aside_bytes = 0  # for writers that back their extents
        self._available = available
        self._backing: dict[int, bool] = {}  # generation -> released meanwhile
        self._unbacked: dict[int, Extent] = {}  # by generation: their writers back them

    @property
    def backing(self) -> int:
        """How many extents wait for their pages."""
        return len(self._backing)

    def room(self) -> int:
        """Bytes of memory that may be taken, what writers are about to take left out."""
        return max(0, self._available() - self.set_aside_bytes)

    def reserve(self, size_bytes: int, *, is_slab: bool = False) -> Extent | None:
        """An extent, or None. If it has cold ranges, ``backed`` or ``not_backed`` must follow.

        Slabs and small objects keep to the end of the arena, so that they are not between large ones.
        """
        extent = self.books.allocate(size_bytes, at_end=is_slab or size_bytes < LARGE_BYTES)
        if extent is not None and extent.cold:
            self._backing[extent.generation] = False
        return extent

    def find_memory(self, extent: Extent) -> int:
        """Let free pages that lie elsewhere be memory for this one; returns how much of it is missing."""
        page = self.arena.page_bytes
        left = self.room()
        while left < extent.cold_bytes and self.cool(-(-(extent.cold_bytes - left) // page) * page):
            left = self.room()
        return max(0, extent.cold_bytes - left)

    def grow(self, extent: Extent) -> None:
        """Back its cold ranges; for a thread.

        Raises:
            OSError: there is no memory; nothing is backed.
        """
        self.arena.grow(extent.cold, self.room)

    def back_now(self, extent: Extent) -> None:
        """The same, for a few pages.

        Raises:
            OSError: there is no memory; nothing is backed.
        """
        try:
            for start, end in extent.cold:
                self.arena.back(start, end)
        except OSError:
            for start, end in extent.cold:
                self.arena.punch(start, end)
            raise

    def backed(self, extent: Extent) -> bool:
        """Its pages are there; False if it was released meanwhile, and is free now."""
        if not extent.cold:
            return True
        released = self._backing.pop(extent.generation)
        self.books.backing_done(extent)
        if released:
            self.books.free(extent)
        return not released

    def not_backed(self, extent: Extent) -> None:
        """They are not: it is free again. Release it first, or it was released meanwhile."""
        del self._backing[extent.generation]
        self.books.backing_failed(extent)

    def is_wanted(self, extent: Extent) -> bool:
        """Whether an extent that is being backed was not released meanwhile."""
        return not self._backing[extent.generation]

    def leave_to_writer(self, extent: Extent) -> bool:
        """Its writer backs its pages; False if it was released meanwhile, and is free now."""
        released = self._backing.pop(extent.generation)
        self._unbacked[extent.generation] = extent
        self.set_aside_bytes += extent.cold_bytes
        if released:
            self.release(extent)
        return not released

    def written(self, generation: int) -> None:
        """An extent was sealed by its writer; all of it has memory now."""
        extent = self._unbacked.pop(generation, None)
        if extent is not None:
            self.set_aside_bytes -= extent.cold_bytes
            self.books.backing_done(extent)

    def is_told(self, generation: int) -> bool:
        """Whether the writer was told where to write."""
        return generation not in self._backing

    def release(self, extent: Extent) -> bool:
        """Nobody needs it any more; False if it is being backed and goes back later."""
        if extent.generation in self._backing:
            self._backing[extent.generation] = True
            return False
        if self._unbacked.pop(extent.generation, None) is None:
            self.books.free(extent)
            return True
        self.set_aside_bytes -= extent.cold_bytes
        for start, end in extent.cold:  # its writer may have backed some of it
            self.arena.punch(start, end)
        self.books.backing_failed(extent)
        return True

    def cool(self, max_bytes: int) -> int:
        """Give up to ``max_bytes`` of free memory back to the machine; return how many it were."""
        ranges = self.books.cool(max_bytes)
        for start, end in ranges:
            self.arena.punch(start, end)
        return sum(end - start for start, end in ranges)
