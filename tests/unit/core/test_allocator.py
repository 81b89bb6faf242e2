"""Which space an object gets: warm before cold, aligned, counted to the byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.core.allocator import LARGE_BYTES, Allocator, Extent

PAGE = 4096
MIB = 1024 * 1024


def backed(allocator: Allocator, size_bytes: int, *, at_end: bool = False) -> Extent:
    """Allocate and report the backing as done."""
    extent = allocator.allocate(size_bytes, at_end=at_end)
    assert extent is not None
    if extent.cold:
        allocator.backing_done(extent)
    return extent


def test_the_first_object_lies_at_the_start_and_its_pages_are_cold() -> None:
    allocator = Allocator(MIB)

    extent = allocator.allocate(5000)

    assert extent == Extent(offset=0, size_bytes=5056, generation=1, cold=((0, 2 * PAGE),))
    assert allocator.used_bytes == 5056
    assert allocator.backed_bytes == 0


def test_sizes_are_rounded_to_cache_lines_and_large_ones_to_pages() -> None:
    allocator = Allocator(8 * MIB)

    small = backed(allocator, 100)
    large = backed(allocator, LARGE_BYTES + 1)

    assert small.size_bytes == 128
    assert large.size_bytes == LARGE_BYTES + PAGE
    assert large.offset % PAGE == 0


def test_an_object_of_no_bytes_has_a_place_of_its_own() -> None:
    allocator = Allocator(PAGE)

    first, second = backed(allocator, 0), backed(allocator, 0)

    assert first.offset != second.offset


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size of -1"):
        Allocator(PAGE).allocate(-1)


def test_an_arena_smaller_than_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one page"):
        Allocator(PAGE - 1)


def test_the_rest_of_a_backed_page_is_warm() -> None:
    allocator = Allocator(MIB)
    first = backed(allocator, 1000)

    second = backed(allocator, 1000)

    assert second.offset == first.end
    assert second.cold == ()
    assert allocator.backed_bytes == PAGE


def test_nobody_gets_the_rest_of_a_page_whose_backing_is_pending() -> None:
    allocator = Allocator(MIB)
    pending = allocator.allocate(1000)
    assert pending is not None

    other = allocator.allocate(1000)

    assert other is not None
    assert other.offset == PAGE
    assert other.cold == ((PAGE, 2 * PAGE),)


def test_freed_space_is_handed_out_again_before_cold_space() -> None:
    allocator = Allocator(MIB)
    extent = backed(allocator, 10 * PAGE)
    allocator.free(extent)

    again = allocator.allocate(10 * PAGE)

    assert again is not None
    assert again.offset == extent.offset
    assert again.cold == ()
    assert again.generation == extent.generation + 1


def test_the_tightest_warm_run_is_taken() -> None:
    allocator = Allocator(MIB)
    extents = [backed(allocator, pages * PAGE) for pages in (8, 1, 4, 1, 6, 1)]
    for extent in extents[::2]:
        allocator.free(extent)

    chosen = allocator.allocate(4 * PAGE)

    assert chosen is not None
    assert chosen.offset == extents[2].offset


def test_among_equals_the_one_freed_last_is_taken() -> None:
    allocator = Allocator(MIB)
    extents = [backed(allocator, 2 * PAGE) for _ in range(6)]
    for index in (0, 4, 2):
        allocator.free(extents[index])

    chosen = allocator.allocate(2 * PAGE)

    assert chosen is not None
    assert chosen.offset == extents[2].offset


def test_a_large_object_passes_over_warm_space_that_no_page_boundary_fits() -> None:
    allocator = Allocator(4 * MIB)
    backed(allocator, 64)
    hole = backed(allocator, LARGE_BYTES - 64)
    backed(allocator, 64)
    allocator.free(hole)

    large = allocator.allocate(LARGE_BYTES)

    assert large is not None
    assert large.cold != ()


def test_cold_space_is_taken_from_the_lowest_offset() -> None:
    allocator = Allocator(MIB)
    first = backed(allocator, 4 * PAGE)
    backed(allocator, PAGE)
    allocator.free(first)
    allocator.cool(4 * PAGE)

    extent = allocator.allocate(2 * PAGE)

    assert extent is not None
    assert extent.offset == 0
    assert extent.cold == ((0, 2 * PAGE),)


def test_warm_and_cold_neighbours_are_joined_when_neither_is_enough() -> None:
    allocator = Allocator(8 * PAGE)
    first = backed(allocator, 3 * PAGE)
    middle = backed(allocator, 2 * PAGE)
    allocator.free(first)
    allocator.cool(PAGE)
    allocator.free(middle)

    extent = allocator.allocate(8 * PAGE)

    assert extent is not None
    assert extent.offset == 0
    assert extent.cold == ((2 * PAGE, 3 * PAGE), (5 * PAGE, 8 * PAGE))


def test_large_objects_do_not_leave_a_hole_where_warm_space_ends() -> None:
    # given an empty arena, of which a part is warm that is no multiple of what comes
    allocator = Allocator(160 * MIB)
    allocator.free(backed(allocator, 38 * MIB))

    # when as many come as there is room for
    extents = [backed(allocator, 20 * MIB) for _ in range(8)]

    # then they lie side by side
    assert [extent.offset for extent in extents] == [n * 20 * MIB for n in range(8)]


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("new"), st.integers(1, 6 * LARGE_BYTES), st.booleans()),
            st.tuples(st.just("free"), st.integers(0, 99), st.just(False)),
            st.tuples(st.just("cool"), st.integers(0, 4 * LARGE_BYTES), st.just(False)),
        ),
        max_size=30,
    )
)
def test_empty_arena_takes_all_that_fits_whichever_of_its_pages_are_warm(
    steps: list[tuple[str, int, bool]],
) -> None:
    # given an arena with a past, in which nothing is left
    allocator = Allocator(16 * LARGE_BYTES)
    live: list[Extent] = []
    for what, number, at_end in steps:
        if what == "cool":
            allocator.cool(number)
        elif what == "free" and live:
            allocator.free(live.pop(number % len(live)))
        elif what == "new" and number < allocator.largest_free() - PAGE:
            live.append(backed(allocator, number, at_end=at_end))
    for extent in live:
        allocator.free(extent)

    # when large objects come, and small ones between them
    for _ in range(5):
        backed(allocator, LARGE_BYTES // 8, at_end=True)
        backed(allocator, 3 * LARGE_BYTES)

    # then all of them found room: what is left is in one piece, but for less than a page with each
    assert allocator.largest_free() > LARGE_BYTES - 5 * LARGE_BYTES // 8 - 10 * PAGE


def test_small_objects_at_the_end_fill_the_holes_between_them_first() -> None:
    allocator = Allocator(8 * MIB)
    large = backed(allocator, 4 * MIB)
    small = [backed(allocator, 3 * PAGE, at_end=True) for _ in range(3)]
    allocator.free(large)
    allocator.free(small[1])

    again = backed(allocator, 2 * PAGE, at_end=True)

    assert small[0].end == 8 * MIB
    assert (again.end, again.cold) == (small[1].end, ())


def test_small_objects_leave_warm_space_of_large_ones_alone_while_there_is_other() -> None:
    allocator = Allocator(8 * MIB)
    large = [backed(allocator, 2 * MIB) for _ in range(3)]
    allocator.free(large[1])

    extents = [backed(allocator, MIB // 2, at_end=True) for _ in range(4)]

    assert all(extent.offset >= large[2].end for extent in extents)
    assert backed(allocator, 2 * MIB).offset == large[1].offset


def test_free_neighbours_become_one_run() -> None:
    allocator = Allocator(8 * PAGE)
    extents = [backed(allocator, 2 * PAGE) for _ in range(4)]
    for index in (0, 2, 1, 3):
        allocator.free(extents[index])

    whole = allocator.allocate(8 * PAGE)

    assert whole is not None
    assert whole.cold == ()


def test_a_full_arena_says_none_and_names_its_longest_free_run() -> None:
    allocator = Allocator(8 * PAGE)
    extents = [backed(allocator, 2 * PAGE) for _ in range(4)]
    allocator.free(extents[0])
    allocator.free(extents[2])

    assert allocator.allocate(3 * PAGE) is None
    assert allocator.largest_free() == 2 * PAGE
    assert allocator.used_bytes == 4 * PAGE


def test_failed_backing_leaves_everything_as_it_was() -> None:
    allocator = Allocator(8 * PAGE)
    first = backed(allocator, PAGE + 64)
    allocator.free(first)

    extent = allocator.allocate(4 * PAGE)
    assert extent is not None
    allocator.backing_failed(extent)

    assert allocator.used_bytes == 0
    assert allocator.backed_bytes == 2 * PAGE
    assert allocator.largest_free() == 8 * PAGE
    again = allocator.allocate(4 * PAGE)
    assert again is not None
    assert again._replace(generation=extent.generation) == extent


def test_failed_backing_of_a_joined_run_returns_its_warm_part_as_warm() -> None:
    allocator = Allocator(4 * PAGE)
    allocator.free(backed(allocator, 2 * PAGE))
    joined = allocator.allocate(4 * PAGE)
    assert joined is not None
    assert joined.cold == ((2 * PAGE, 4 * PAGE),)

    allocator.backing_failed(joined)

    warm = allocator.allocate(2 * PAGE)
    assert warm is not None
    assert warm.cold == ()


def test_cooling_takes_whole_pages_that_were_free_longest() -> None:
    allocator = Allocator(MIB)
    old = backed(allocator, 3 * PAGE + 64)
    fence = backed(allocator, 64)
    new = backed(allocator, 3 * PAGE)
    allocator.free(old)
    allocator.free(new)

    ranges = allocator.cool(2 * PAGE + 100)

    assert fence.offset == old.end
    assert ranges == [(PAGE, 3 * PAGE)]
    assert allocator.backed_bytes == 5 * PAGE


def test_cooling_everything_leaves_only_pages_in_use_backed() -> None:
    allocator = Allocator(MIB)
    extents = [backed(allocator, PAGE) for _ in range(6)]
    for extent in extents[1:]:
        allocator.free(extent)

    ranges = allocator.cool(MIB)

    assert ranges == [(PAGE, 6 * PAGE)]
    assert allocator.backed_bytes == PAGE
    assert allocator.cool(MIB) == []


def test_freeing_twice_is_an_error_and_changes_nothing() -> None:
    allocator = Allocator(MIB)
    extent = backed(allocator, PAGE)
    allocator.free(extent)

    with pytest.raises(ValueError, match="freed twice"):
        allocator.free(extent)

    assert allocator.used_bytes == 0


def test_an_extent_cannot_be_freed_while_its_backing_is_pending() -> None:
    allocator = Allocator(MIB)
    extent = allocator.allocate(PAGE)
    assert extent is not None

    with pytest.raises(ValueError, match="waits for its backing"):
        allocator.free(extent)


def test_backing_is_reported_once() -> None:
    allocator = Allocator(MIB)
    extent = backed(allocator, PAGE)

    with pytest.raises(ValueError, match="does not wait"):
        allocator.backing_done(extent)
    with pytest.raises(ValueError, match="does not wait"):
        allocator.backing_failed(extent)


def test_ten_thousand_objects_come_and_go_and_leave_one_run() -> None:
    allocator = Allocator(1024 * MIB)

    extents = [backed(allocator, 64 * (1 + n % 500)) for n in range(10_000)]
    for extent in extents[::2] + extents[1::2]:
        allocator.free(extent)

    assert len(allocator) == 0
    assert allocator.used_bytes == 0
    assert allocator.largest_free() == allocator.capacity_bytes
