"""Slabs in the books: who gets how much, and that every byte comes back once."""

from __future__ import annotations

import pytest

from nbray.core.allocator import Allocator, Extent
from nbray.core.slabs import FIRST_BYTES, LARGEST_BYTES, Holder, Slabs, object_max_bytes, slab_max_bytes

MIB = 1024 * 1024
GIB = 1024 * MIB
ME, OTHER = b"me", b"other"


class Desk:
    def __init__(self, capacity_bytes: int = 2 * GIB) -> None:
        self.allocator = Allocator(capacity_bytes)
        self.slabs = Slabs(self.allocator)

    def take(self, size_bytes: int) -> Extent:
        extent = self.allocator.allocate(size_bytes)
        assert extent is not None
        if extent.cold:
            self.allocator.backing_done(extent)
        return extent

    def grant(self, process: bytes = ME, object_bytes: int = 1000) -> Extent:
        size = self.slabs.promise(process, object_bytes)
        extent = self.take(size)
        self.slabs.granted(process, size, extent)
        return extent


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_slabs_grow_with_use_and_never_beyond_the_largest(desk: Desk) -> None:
    sizes = []
    for _ in range(4):
        extent = desk.grant()
        sizes.append(extent.size_bytes)
        desk.slabs.returned(ME, extent.generation)

    assert sizes == [FIRST_BYTES, 2 * FIRST_BYTES, LARGEST_BYTES, LARGEST_BYTES]


def test_a_slab_holds_several_of_the_objects_that_it_is_for(desk: Desk) -> None:
    assert desk.slabs.promise(ME, MIB) == 8 * MIB
    assert desk.slabs.promise(OTHER, object_max_bytes(2 * GIB) + 1) == 0


def test_a_small_store_gives_small_ones(desk: Desk) -> None:
    small = Desk(75 * MIB)

    assert small.slabs.promise(ME, 1000) == slab_max_bytes(75 * MIB) < 2 * MIB
    assert small.slabs.promise(ME, MIB // 4) == 0


def test_a_process_has_two_at_most(desk: Desk) -> None:
    first = desk.grant()
    assert desk.slabs.promise(ME, 1000)
    assert desk.slabs.promise(ME, 1000) == 0
    assert desk.slabs.promise(OTHER, 1000)

    desk.slabs.returned(ME, first.generation)
    assert desk.slabs.promise(ME, 1000)


def test_a_store_that_is_half_full_gives_none(desk: Desk) -> None:
    desk.take(GIB)

    assert desk.slabs.promise(ME, 1000) == 0


def test_all_slabs_together_take_a_small_part_of_the_store(desk: Desk) -> None:
    in_all = sum(desk.slabs.promise(bytes([n]), object_max_bytes(2 * GIB)) for n in range(100))

    assert 2 * GIB // 8 - LARGEST_BYTES < in_all <= 2 * GIB // 8


def test_an_adopted_object_is_freed_like_any_other_and_the_rest_goes_back(desk: Desk) -> None:
    # given a slab of which two objects in the middle were told of, the later one first
    slab = desk.grant()
    later = desk.slabs.adopt(ME, slab.generation, slab.offset + 64_000, 100_000)
    first = desk.slabs.adopt(ME, slab.generation, slab.offset + 6_400, 1_000)
    assert later is not None
    assert first is not None
    assert desk.slabs.unused_bytes == slab.size_bytes - later.size_bytes - first.size_bytes

    # when it is returned, only those are in use
    assert desk.slabs.returned(ME, slab.generation)
    assert desk.slabs.unused_bytes == 0
    assert desk.allocator.used_bytes == later.size_bytes + first.size_bytes

    # and nothing is when they are freed
    desk.allocator.free(later)
    desk.allocator.free(first)
    assert desk.allocator.used_bytes == 0
    assert desk.allocator.largest_free() == 2 * GIB


@pytest.mark.parametrize(
    ("process", "generation", "offset", "size_bytes"),
    [
        (OTHER, 0, 0, 64),
        (ME, 1, 0, 64),
        (ME, 0, -64, 64),
        (ME, 0, 1, 64),
        (ME, 0, 0, 0),
        (ME, 0, 64, FIRST_BYTES),
    ],
)
def test_nothing_is_adopted_that_is_not_in_a_slab_of_the_process(
    desk: Desk, process: bytes, generation: int, offset: int, size_bytes: int
) -> None:
    slab = desk.grant()

    assert desk.slabs.adopt(process, slab.generation + generation, slab.offset + offset, size_bytes) is None
    assert desk.slabs.unused_bytes == slab.size_bytes


def test_an_object_is_adopted_once(desk: Desk) -> None:
    slab = desk.grant()

    assert desk.slabs.adopt(ME, slab.generation, slab.offset, 1000)
    assert desk.slabs.adopt(ME, slab.generation, slab.offset, 1000) is None


def test_a_lost_process_leaves_its_objects_only(desk: Desk) -> None:
    slab = desk.grant()
    piece = desk.slabs.adopt(ME, slab.generation, slab.offset, 1000)
    assert piece is not None

    assert desk.slabs.process_lost(ME)

    assert desk.allocator.used_bytes == piece.size_bytes
    assert not desk.slabs.process_lost(ME)


def test_a_slab_idles_when_nothing_of_it_was_used_between_two_looks(desk: Desk) -> None:
    slab = desk.grant()
    assert desk.slabs.idle() == []
    desk.slabs.adopt(ME, slab.generation, slab.offset, 1000)
    assert desk.slabs.idle() == []

    assert desk.slabs.idle() == [Holder(ME, slab.generation)] == desk.slabs.holders()
