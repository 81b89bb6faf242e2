"""A writer's slabs: when it asks for one, what it carves, and when it gives it back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from nbray.runtime.slabs import Piece, SlabWriter, map_in
from nbray.store.arena import Arena
from nbray.store.mapping import Mapping
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    RecallSlab,
    RequestSlab,
    ReturnSlab,
    SlabGranted,
)

MIB = 1024 * 1024
SIZE = 4 * MIB
OBJECT = 500_000


class Desk:
    """A writer, and what it told its daemon."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.slabs = SlabWriter(self.said.append)

    def with_slab(self, generation: int = 1) -> None:
        """Two objects went by, a slab was asked for and granted."""
        while not self.said:
            assert self.slabs.carve(OBJECT) is None
        self.grant(generation)
        self.said.clear()

    def grant(self, generation: int) -> None:
        self.slabs.granted(SlabGranted(generation * SIZE, SIZE, generation))

    def carve(self, size_bytes: int = OBJECT) -> Piece:
        piece = self.slabs.carve(size_bytes)
        assert piece is not None
        return piece


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_slab_is_asked_for_once_and_not_for_a_single_object(desk: Desk) -> None:
    assert desk.slabs.carve(OBJECT) is None
    assert desk.said == []

    assert desk.slabs.carve(OBJECT) is None
    assert desk.slabs.carve(OBJECT) is None
    assert desk.said == [RequestSlab(OBJECT)]


def test_pieces_lie_apart_aligned_and_inside(desk: Desk) -> None:
    desk.with_slab()

    pieces = [desk.carve(OBJECT + n) for n in range(8)]

    assert [piece.offset % 64 for piece in pieces] == [0] * 8
    assert pieces[0].offset == SIZE
    for first, second in itertools.pairwise(pieces):
        assert first.offset + first.size_bytes <= second.offset
    assert pieces[-1].offset + pieces[-1].size_bytes <= 2 * SIZE
    assert desk.slabs.carve(OBJECT) is None


def test_the_next_slab_is_asked_for_in_time_and_the_full_one_goes_back_when_nobody_writes_to_it(
    desk: Desk,
) -> None:
    # given a slab of which half is used
    desk.with_slab()
    written = [desk.carve(MIB) for _ in range(3)]
    assert desk.said == [RequestSlab(MIB)]
    desk.grant(2)
    desk.said.clear()

    # when an object no longer fits
    last = desk.carve(2 * MIB)

    # then it is the next one's, and the first goes back with the last of its writers
    assert last.generation == 2
    assert desk.said == []
    for piece in written[:-1]:
        desk.slabs.finished(piece)
    assert desk.said == []
    desk.slabs.finished(written[-1])
    assert desk.said == [ReturnSlab(1)]


def test_a_recalled_slab_goes_back_at_once_or_when_its_writer_is_done(desk: Desk) -> None:
    desk.with_slab()
    piece = desk.carve()

    desk.slabs.recalled(RecallSlab(1))
    assert desk.said == []
    assert desk.slabs.carve(OBJECT) is None

    desk.slabs.finished(piece)
    assert desk.said == [ReturnSlab(1)]
    desk.slabs.recalled(RecallSlab(1))
    assert desk.said == [ReturnSlab(1)]


def test_after_a_refusal_many_objects_go_by_before_it_asks_again(desk: Desk) -> None:
    while not desk.said:
        desk.slabs.carve(OBJECT)
    desk.said.clear()

    desk.slabs.granted(SlabGranted(0, 0, 0))

    for _ in range(64):
        assert desk.slabs.carve(OBJECT) is None
    assert desk.said == []
    desk.slabs.carve(OBJECT)
    assert desk.said == [RequestSlab(OBJECT)]


def test_only_objects_of_middling_size_lie_in_slabs() -> None:
    store = 4 << 30

    assert SlabWriter.takes(MIB, store)
    assert SlabWriter.takes(2 * MIB, store)
    assert not SlabWriter.takes(2 * MIB + 1, store)
    assert not SlabWriter.takes(MIB, 75 * MIB)


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    arena = Arena.create(3 * SIZE)
    arena.back(0, 3 * SIZE)
    mapping = Mapping(arena.fd, 3 * SIZE)
    arena.close()
    yield mapping
    mapping.close()


def test_pages_of_a_slab_are_mapped_ahead_and_no_further_than_its_end(desk: Desk, mapping: Mapping) -> None:
    desk.with_slab()

    map_in(desk.carve(1000), mapping)
    assert mapping.is_touched(SIZE, MIB)
    assert not mapping.is_touched(SIZE, 2 * MIB)

    for _ in range(2):
        map_in(desk.carve(2 * MIB - 1000), mapping)
    assert mapping.is_touched(SIZE, SIZE)
    assert not mapping.is_touched(2 * SIZE, SIZE)
