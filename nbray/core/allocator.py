"""Which bytes of the arena an object gets, and which pages must be backed first.

Called by:  store.{space,spill_file}, its hosts; core.slabs.
Imports:    nbray.model.limits.
Never:      touches memory. It keeps the books; the arena follows them.

Every byte is *used* (in a live extent), *free*, or *withheld* (see below), and every page is
*backed*, *cold* or *pending*::

    cold --allocate--> pending --backing_done----> backed
      ^                   |                          |
      +---backing_failed--+<--------- cool ----------+   (to cold; whole free pages only)

Free bytes of backed pages are *warm*: writing to them costs a copy and no page fault, which is
5 to 10 times faster. Hence warm space goes first, and what was freed last goes first of all (it may
still lie in the cache). But an extent always lies at an edge of free space, warm and cold taken
together, and never in the midst of it: else a full arena would be in pieces that nobody can use. What is
small or short-lived goes to the other edge than the large, so that it never comes to lie between two
of these. An extent whose backing is pending withholds the rest of its last page, so that nobody writes
to, or depends on, a page that may yet turn out not to be there.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

from nbray.model.limits import STORE_ALIGNMENT_BYTES

#: Objects from here on take whole pages, so that their memory can be given back later.
LARGE_BYTES = 1024 * 1024

#: Half-open range of byte offsets.
Range = tuple[int, int]


class Extent(NamedTuple):
    """Space for one object.

    ``size_bytes`` is rounded up, ``generation`` is the number of the allocation, never reused.
    ``cold`` are the page-rounded ranges that must be backed before anyone writes to the extent; the
    last one may reach beyond its end.
    """

    offset: int
    size_bytes: int
    generation: int
    cold: tuple[Range, ...]

    @property
    def end(self) -> int:
        return self.offset + self.size_bytes

    @property
    def cold_bytes(self) -> int:
        return sum(end - start for start, end in self.cold)


class Allocator:
    """Hands out extents of an arena of ``capacity_bytes``, rounded down to whole pages.

    Source: best fit with immediate coalescing by boundary lookup, as in Knuth, The Art of Computer
    Programming 1, section 2.5; the split into warm and cold runs, and the edges, are ours.

    Raises:
        ValueError: the capacity is less than a page.
    """

    def __init__(self, capacity_bytes: int, page_bytes: int = 4096) -> None:
        if capacity_bytes < page_bytes:
            raise ValueError(f"An arena needs at least one page of {page_bytes} bytes, not {capacity_bytes}.")
        self._page = page_bytes
        self.capacity_bytes = capacity_bytes // page_bytes * page_bytes
        self._free = _FreeRuns()
        self._free.add(0, self.capacity_bytes, False, 0)
        self._live: dict[int, Extent] = {}  # by offset
        self._pending: set[int] = set()  # generations that wait for their backing
        self._generation = 0
        self._frees = 0
        self._used_bytes = 0
        self._backed_bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes in live extents, rounding included."""
        return self._used_bytes

    @property
    def backed_bytes(self) -> int:
        """Bytes of pages whose backing is done and which were not given back: what the arena costs."""
        return self._backed_bytes

    def __len__(self) -> int:
        """Number of live extents."""
        return len(self._live)

    def largest_free(self) -> int:
        """Bytes of the longest contiguous free run, warm and cold together."""
        return max((end - start for start, end in self._free.unions()), default=0)

    def allocate(self, size_bytes: int, *, at_end: bool = False) -> Extent | None:
        """Reserve space, or None if no free run is long enough. Size 0 takes the smallest extent.

        Follow up with ``backing_done`` or ``backing_failed`` if, and only if, ``cold`` is not empty.

        Args:
            size_bytes: what is needed.
            at_end: it lies at the end of free space, towards the end of the arena; else at the start.

        Raises:
            ValueError: negative size.
        """
        if size_bytes < 0:
            raise ValueError(f"An object cannot have a size of {size_bytes} bytes.")
        alignment = self._page if size_bytes >= LARGE_BYTES else STORE_ALIGNMENT_BYTES
        size = _up(max(size_bytes, 1), alignment)
        if at_end:
            start = self._free.end_place(size, alignment, self._page)
        else:
            start = self._free.start_place(size, alignment)
        if start is None:
            return None
        self._generation += 1
        extent = Extent(start, size, self._generation, self._take(start, start + size))
        self._live[start] = extent
        self._used_bytes += size
        if extent.cold:
            self._pending.add(extent.generation)
        return extent

    def backing_done(self, extent: Extent) -> None:
        """The cold ranges of this extent have memory now.

        Raises:
            ValueError: this extent does not wait for its backing.
        """
        self._check_pending(extent)
        self._pending.remove(extent.generation)
        self._backed_bytes += extent.cold_bytes
        if extent.cold[-1][1] > extent.end:
            self._frees += 1
            self._free.add(extent.end, extent.cold[-1][1], True, self._frees)

    def backing_failed(self, extent: Extent) -> None:
        """Take the extent back: its cold ranges are cold as before. The caller undid partial backing.

        Raises:
            ValueError: this extent does not wait for its backing.
        """
        self._check_pending(extent)
        self._pending.remove(extent.generation)
        del self._live[extent.offset]
        self._used_bytes -= extent.size_bytes
        self._frees += 1
        at = extent.offset
        for start, end in extent.cold:
            if at < start:
                self._free.add(at, start, True, self._frees)
            self._free.add(start, end, False, 0)
            at = end
        if at < extent.end:
            self._free.add(at, extent.end, True, self._frees)

    def free(self, extent: Extent) -> None:
        """Give an extent back; its pages stay warm.

        Raises:
            ValueError: freed before, never allocated, or still waiting for its backing.
        """
        if self._live.get(extent.offset) != extent:
            raise ValueError(f"{extent} is not allocated; was it freed twice?")
        if extent.generation in self._pending:
            raise ValueError(f"{extent} waits for its backing; free it when that is done.")
        del self._live[extent.offset]
        self._used_bytes -= extent.size_bytes
        self._frees += 1
        self._free.add(extent.offset, extent.end, True, self._frees)

    def carve(self, extent: Extent, start: int, end: int) -> tuple[Extent, list[Extent]]:
        """Cut [start, end) out of an extent, which becomes several: that piece, and what is left of it.

        All have its generation and are freed one by one.

        Raises:
            ValueError: the extent is not allocated or waits for its backing, or the piece is not in it.
        """
        if self._live.get(extent.offset) != extent or extent.generation in self._pending:
            raise ValueError(f"{extent} is not there to be cut.")
        if not extent.offset <= start < end <= extent.end or (start | end) % STORE_ALIGNMENT_BYTES:
            raise ValueError(f"Bytes {start} to {end} cannot be cut out of {extent}.")
        del self._live[extent.offset]
        parts = ((start, end), (extent.offset, start), (end, extent.end))
        piece, *rests = [Extent(a, b - a, extent.generation, ()) for a, b in parts if a < b]
        for part in (piece, *rests):
            self._live[part.offset] = part
        return piece, rests

    def cool(self, max_bytes: int) -> list[Range]:
        """Turn up to ``max_bytes`` of free warm pages cold, those longest free first.

        The caller punches the returned ranges at once: before it performs any later allocation.
        """
        page = self._page
        left = max_bytes // page * page
        ranges: list[Range] = []
        for start, end, freed in self._free.warm_oldest_first():
            first, last = _up(start, page), end // page * page
            if left <= 0:
                break
            if first >= last:
                continue
            first = max(first, last - left)
            self._free.take(start)
            if start < first:
                self._free.add(start, first, True, freed)
            self._free.add(first, last, False, 0)
            if last < end:
                self._free.add(last, end, True, freed)
            ranges.append((first, last))
            left -= last - first
        self._backed_bytes -= sum(end - start for start, end in ranges)
        return sorted(ranges)

    def _take(self, start: int, end: int) -> tuple[Range, ...]:
        """Cut [start, end) out of the free runs; return its cold parts, rounded up to whole pages."""
        cold: list[Range] = []
        at = self._free.run_at(start)
        while at < end:
            run_end, warm, freed = self._free.take(at)
            first, last = max(at, start), min(run_end, end)
            if not warm:
                last = _up(last, self._page)
                cold.append((first, last))
            if at < first:
                self._free.add(at, first, warm, freed)
            if last < run_end:
                self._free.add(last, run_end, warm, freed)
            at = run_end
        return tuple(cold)

    def _check_pending(self, extent: Extent) -> None:
        if extent.generation not in self._pending or self._live.get(extent.offset) != extent:
            raise ValueError(f"{extent} does not wait for its backing.")


class _FreeRuns:
    """Free ranges by offset, warm ones also by size. Neighbours of one warmth are one run.

    Sorted lists, not trees: an insertion moves 8 bytes per run, which for 10 000 runs costs less
    than one step of a tree in Python. Cold runs always begin and end at page boundaries, because a
    page with a used byte is backed.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._runs: dict[int, tuple[int, bool, int]] = {}  # start -> end, warm, when it was freed
        self._warm: list[tuple[int, int, int]] = []  # size, -freed, start
        self._cold: list[int] = []  # starts

    def add(self, start: int, end: int, warm: bool, freed: int) -> None:
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == end and self._runs[end][1] is warm:
            end, _, other = self.take(end)
            freed = max(freed, other)
        if at > 0:
            before = self._starts[at - 1]
            if self._runs[before][:2] == (start, warm):
                start, other = before, self.take(before)[2]
                freed = max(freed, other)
        insort(self._starts, start)
        self._runs[start] = (end, warm, freed)
        if warm:
            insort(self._warm, (end - start, -freed, start))
        else:
            insort(self._cold, start)

    def take(self, start: int) -> tuple[int, bool, int]:
        """Remove the run that begins here; return its end, warmth and time of freeing."""
        run = self._runs.pop(start)
        end, warm, freed = run
        del self._starts[bisect_left(self._starts, start)]
        if warm:
            del self._warm[bisect_left(self._warm, (end - start, -freed, start))]
        else:
            del self._cold[bisect_left(self._cold, start)]
        return run

    def run_at(self, offset: int) -> int:
        """Start of the free run that contains ``offset``."""
        at = bisect_left(self._starts, offset + 1) - 1
        return self._starts[at]

    def start_place(self, size: int, alignment: int) -> int | None:
        """Where an extent begins that lies at the start of a free range; the tightest warm one first."""
        # Only runs less than one alignment longer than the size, and those behind a cold one, can fail
        # here, so the loop is short.
        for i in range(bisect_left(self._warm, (size,)), len(self._warm)):
            length, _, start = self._warm[i]
            aligned = _up(start, alignment)
            if aligned + size <= start + length and not self._begins_behind_free(start):
                return aligned
        for cold in self._cold:
            first, last = self._union_of(cold)
            aligned = _up(first, alignment)
            if aligned + size <= last:
                return aligned
        return None

    def end_place(self, size: int, alignment: int, page: int) -> int | None:
        """Where one begins that lies at the end of a free range: of a tight warm one, or the last.

        What is much longer than needed is not tight: it is left to the large.
        """
        tight = 2 * max(size, LARGE_BYTES)
        last_place = None
        for i in range(bisect_left(self._warm, (size,)), len(self._warm)):
            length, _, start = self._warm[i]
            place = _down(start + length - size, alignment)
            if place >= start and start + length not in self._runs:
                if length < tight:
                    return place
                last_place = max(place, last_place or 0)
        for cold in reversed(self._cold):
            first, last = self._union_of(cold)
            place = _down(last - size, alignment)
            if place >= first and not self._runs[self.run_at(place)][1]:
                place = _down(place, page)  # cold runs begin at a page
            if place >= first:
                return max(place, last_place or 0)
        return last_place

    def _begins_behind_free(self, start: int) -> bool:
        at = bisect_left(self._starts, start)
        return at > 0 and self._runs[self._starts[at - 1]][0] == start

    def _union_of(self, start: int) -> Range:
        """The maximal free range, whatever its warmth, that the run at ``start`` belongs to."""
        at = bisect_left(self._starts, start)
        end = self._runs[start][0]
        while at > 0 and self._runs[self._starts[at - 1]][0] == start:
            at -= 1
            start = self._starts[at]
        while end in self._runs:
            end = self._runs[end][0]
        return start, end

    def unions(self) -> list[Range]:
        """Maximal free ranges, whatever their warmth, by offset."""
        joined: list[Range] = []
        for start in self._starts:
            touches = joined and joined[-1][1] == start
            first = joined.pop()[0] if touches else start
            joined.append((first, self._runs[start][0]))
        return joined

    def warm_oldest_first(self) -> list[tuple[int, int, int]]:
        """(start, end, freed) of each warm run, the one that was freed first leading."""
        return [(s, s + size, -neg) for size, neg, s in sorted(self._warm, key=lambda run: (-run[1], run[2]))]


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _down(value: int, multiple: int) -> int:
    return value // multiple * multiple
