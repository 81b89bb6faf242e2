"""The allocator against a model that knows the state of every page and every 64 bytes (OB4)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from nbray.core.allocator import LARGE_BYTES, Allocator, Extent, Range

PAGE = 4096
LINE = 64
CAPACITY = 3 * LARGE_BYTES
SIZES = st.one_of(
    st.integers(0, 3 * PAGE),
    st.integers(0, 300 * 1024),
    st.integers(LARGE_BYTES - 100, LARGE_BYTES + 5000),
)


class AllocatorMachine(RuleBasedStateMachine):
    """Allocate, back, fail, free, cool, in any order."""

    live = Bundle("live")
    pending = Bundle("pending")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(CAPACITY)
        self.extents: dict[int, Extent] = {}  # by offset
        self.waiting: dict[int, Extent] = {}
        self.pages = bytearray(CAPACITY // PAGE)  # 0 cold, 1 pending, 2 backed
        self.lines = bytearray(CAPACITY // LINE)  # 1 used
        self.generation = 0

    def set_pages(self, ranges: Iterable[Range], before: int, after: int) -> None:
        for start, end in ranges:
            assert start % PAGE == end % PAGE == 0
            span = slice(start // PAGE, end // PAGE)
            assert set(self.pages[span]) == {before}
            self.pages[span] = bytes([after]) * (span.stop - span.start)

    def set_lines(self, extent: Extent, before: int, after: int) -> None:
        span = slice(extent.offset // LINE, extent.end // LINE)
        assert set(self.lines[span]) == {before}
        self.lines[span] = bytes([after]) * (span.stop - span.start)

    @rule(target=pending, size=SIZES, at_end=st.booleans())
    def allocate(self, size: int, at_end: bool) -> object:
        extent = self.allocator.allocate(size, at_end=at_end)
        if extent is None:
            assert size + PAGE > self.longest_unused()
            return multiple()
        beside = range(extent.end, extent.end + PAGE, LINE)
        if not at_end:
            beside = range(extent.offset - PAGE, extent.offset, LINE)
        assert not all(self.is_unused(offset) for offset in beside), "it lies in the midst of free space"
        self.generation += 1
        assert extent.generation == self.generation
        assert extent.size_bytes >= size
        assert extent.end <= CAPACITY
        assert extent.offset % (PAGE if size >= LARGE_BYTES else LINE) == 0
        self.set_lines(extent, 0, 1)
        self.set_pages(extent.cold, 0, 1)
        for page in range(extent.offset // PAGE, -(-extent.end // PAGE)):
            inside = any(start <= page * PAGE < end for start, end in extent.cold)
            assert self.pages[page] == (1 if inside else 2)
        self.extents[extent.offset] = extent
        if extent.cold:
            self.waiting[extent.generation] = extent
        return extent

    @rule(target=live, extent=consumes(pending))
    def back(self, extent: Extent) -> Extent:
        if extent.cold:
            self.allocator.backing_done(extent)
            del self.waiting[extent.generation]
            self.set_pages(extent.cold, 1, 2)
        return extent

    @rule(extent=consumes(pending))
    def fail(self, extent: Extent) -> None:
        if extent.cold:
            self.allocator.backing_failed(extent)
            del self.waiting[extent.generation]
            self.set_pages(extent.cold, 1, 0)
        else:
            self.allocator.free(extent)
        del self.extents[extent.offset]
        self.set_lines(extent, 1, 0)

    @rule(extent=consumes(live))
    def free(self, extent: Extent) -> None:
        self.allocator.free(extent)
        del self.extents[extent.offset]
        self.set_lines(extent, 1, 0)
        with pytest.raises(ValueError, match="freed twice"):
            self.allocator.free(extent)

    @rule(target=live, extent=consumes(live), picks=st.tuples(st.integers(0, 99), st.integers(0, 99)))
    def carve(self, extent: Extent, picks: tuple[int, int]) -> object:
        """Cut a piece out of an extent at two of its lines."""
        lines = extent.size_bytes // LINE
        first, last = sorted(extent.offset + pick * lines // 100 * LINE for pick in picks)
        last += LINE
        piece, rests = self.allocator.carve(extent, first, last)
        assert (piece.offset, piece.end) == (first, last)
        parts = sorted((piece, *rests))
        assert [part.offset for part in parts[1:]] == [part.end for part in parts[:-1]]
        assert (parts[0].offset, parts[-1].end) == (extent.offset, extent.end)
        assert {part.generation for part in parts} == {extent.generation}
        del self.extents[extent.offset]
        self.extents.update({part.offset: part for part in parts})
        return multiple(*parts)

    @rule(size=st.integers(0, CAPACITY))
    def cool(self, size: int) -> None:
        ranges = self.allocator.cool(size)
        assert sum(end - start for start, end in ranges) <= size
        for start, end in ranges:
            assert not any(self.lines[start // LINE : end // LINE])
        self.set_pages(ranges, 2, 0)

    def is_unused(self, offset: int) -> bool:
        """Whether a line is free, and not in a pending page."""
        is_inside = 0 <= offset < CAPACITY
        return is_inside and not self.lines[offset // LINE] and self.pages[offset // PAGE] != 1

    def longest_unused(self) -> int:
        """Free lines in a row, those of pending pages left out."""
        longest = run = 0
        for line in range(len(self.lines)):
            run = run + 1 if self.is_unused(line * LINE) else 0
            longest = max(longest, run)
        return longest * LINE

    @invariant()
    def books_are_exact(self) -> None:
        assert len(self.allocator) == len(self.extents)
        assert self.allocator.used_bytes == sum(e.size_bytes for e in self.extents.values())
        assert self.allocator.used_bytes == self.lines.count(1) * LINE
        assert self.allocator.backed_bytes == self.pages.count(2) * PAGE

    def teardown(self) -> None:
        for extent in list(self.waiting.values()):
            self.back(extent)
        for extent in list(self.extents.values()):
            self.free(extent)
        self.books_are_exact()
        assert self.allocator.largest_free() == CAPACITY == self.longest_unused()
        self.cool(CAPACITY)
        assert self.allocator.backed_bytes == 0


TestAllocatorMachine = pytest.mark.stateful(AllocatorMachine.TestCase)
TestAllocatorMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
