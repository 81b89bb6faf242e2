"""Objects between arena and disk: what is said while a thread is at it counts, and space returns once."""

from __future__ import annotations

import pytest

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Fetch, Release, ReleaseDisk, Tell
from nbray.core.object_copies import OnDisk
from nbray.core.object_moves import Move, ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import ObjectGone, ObjectReady, ObjectsLost

NODE = b"N" * 16
X = b"x" * 20
OWNER, WRITER, SECOND, READER = b"owner", b"writer", b"second", b"reader"
PATH = "/proc/1/fd/9"
CHECKSUM = 77


def extent(generation: int) -> Extent:
    return Extent(generation * 4096, 4096, generation, ())


def in_arena(generation: int) -> ObjectReady:
    return ObjectReady(Descriptor(X, NODE, generation * 4096, 100, generation))


def on_disk(generation: int) -> ObjectReady:
    return ObjectReady(Descriptor(X, NODE, generation * 4096, 100, generation, PATH))


class Desk:
    """A table with one object: sealed, and in nobody's hand."""

    def __init__(self) -> None:
        self.table = ObjectTable(NODE)
        self.moves = ObjectMoves(self.table)
        self.out: list[Command] = []
        self.seal(1)
        self.table.yielded(OWNER, [X], self.out)

    def seal(self, generation: int, writer: bytes = WRITER) -> None:
        self.table.created(X, OWNER, writer, extent(generation), 100, self.out)
        self.table.seal(X, writer, self.out)

    def orders(self) -> list[Command]:
        out, self.out = self.out, []
        return out

    def told(self) -> list[tuple[bytes, Message]]:
        return [(order.process_id, order.message) for order in self.orders() if isinstance(order, Tell)]

    def get(self, reader: bytes = READER) -> None:
        self.table.get([(X, OWNER)], reader, self.out)

    def free(self) -> None:
        self.table.free([X], OWNER, self.out)

    def begin_to_spill(self, generation: int = 8) -> Move:
        move = self.moves.spill(X, OnDisk(extent(generation), PATH), self.out)
        assert move is not None
        return move

    def spill(self) -> None:
        self.moves.written(self.begin_to_spill(), CHECKSUM, self.out)
        self.moves.drop(X, self.out)

    def begin_to_restore(self, generation: int = 2) -> Move:
        move = self.moves.restore(X, extent(generation), self.out)
        assert move is not None
        return move

    def state(self) -> str:
        record = self.table.record(X)
        return record.state if record is not None else ""


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    assert desk.orders() == []
    return desk


def test_memory_is_released_when_the_object_is_on_the_disk_and_not_before(desk: Desk) -> None:
    move = desk.begin_to_spill()
    desk.moves.drop(X, desk.out)
    assert desk.orders() == []

    desk.moves.written(move, CHECKSUM, desk.out)
    assert desk.orders() == []
    desk.moves.drop(X, desk.out)

    assert desk.orders() == [Release(extent(1))]
    assert desk.table.counts()["spilled_bytes"] == 100


def test_what_somebody_has_in_hand_is_not_moved(desk: Desk) -> None:
    desk.get()

    assert desk.moves.spill(X, OnDisk(extent(8), PATH), desk.out) is None
    desk.moves.evict(X, desk.out)
    desk.moves.drop(X, desk.out)

    assert desk.told() == [(READER, in_arena(1))]
    assert desk.state() == "sealed"


def test_who_asks_for_an_object_while_it_is_written_reads_it_in_the_arena_where_it_stays(desk: Desk) -> None:
    move = desk.begin_to_spill()
    desk.get()
    desk.moves.written(move, CHECKSUM, desk.out)
    desk.moves.drop(X, desk.out)

    assert desk.told() == [(READER, in_arena(1))]
    assert desk.state() == "sealed"

    # when nobody reads it any more, it can go without being written again
    desk.table.unpin(READER, [X], desk.out)
    desk.moves.drop(X, desk.out)
    assert desk.orders() == [Release(extent(1))]
    assert desk.state() == "spilled"


def test_what_could_not_be_written_stays_where_it_is(desk: Desk) -> None:
    desk.moves.not_written(desk.begin_to_spill(), desk.out)

    assert desk.orders() == [ReleaseDisk(extent(8))]
    desk.get()
    assert desk.told() == [(READER, in_arena(1))]


@pytest.mark.parametrize("well", [True, False])
def test_what_is_freed_while_it_is_written_goes_when_the_thread_is_done(desk: Desk, well: bool) -> None:
    move = desk.begin_to_spill()
    desk.free()
    assert desk.orders() == []

    if well:
        desk.moves.written(move, CHECKSUM, desk.out)
    else:
        desk.moves.not_written(move, desk.out)

    assert desk.orders() == [Release(extent(1)), ReleaseDisk(extent(8))]
    assert desk.table.counts()["objects"] == 0


@pytest.mark.parametrize("reader_first", [True, False])
def test_what_is_freed_while_it_is_written_and_read_goes_when_both_are_done(
    desk: Desk, reader_first: bool
) -> None:
    move = desk.begin_to_spill()
    desk.get()
    desk.free()
    desk.orders()

    if reader_first:
        desk.table.unpin(READER, [X], desk.out)
        assert desk.orders() == []
        desk.moves.written(move, CHECKSUM, desk.out)
    else:
        desk.moves.written(move, CHECKSUM, desk.out)
        assert desk.orders() == []
        desk.table.unpin(READER, [X], desk.out)

    assert desk.orders() == [Release(extent(1)), ReleaseDisk(extent(8))]
    assert desk.table.counts()["objects"] == 0


def test_a_spilled_object_comes_back_for_who_asks_and_keeps_its_place_on_the_disk(desk: Desk) -> None:
    desk.spill()
    desk.orders()
    desk.get()
    assert desk.orders() == [Fetch(X)]

    desk.moves.restored(desk.begin_to_restore(), desk.out)

    assert desk.told() == [(READER, in_arena(2))]
    desk.free()
    desk.table.unpin(READER, [X], desk.out)
    assert desk.orders() == [Release(extent(2)), ReleaseDisk(extent(8))]


def test_nothing_is_restored_for_readers_that_are_gone(desk: Desk) -> None:
    desk.spill()
    desk.get()
    desk.table.process_lost(READER, desk.out)

    assert desk.moves.restore(X, extent(2), desk.out) is None
    assert desk.moves.check(X) is None


def test_an_object_for_which_there_is_no_memory_stays_on_the_disk(desk: Desk) -> None:
    desk.spill()
    desk.get()
    desk.orders()

    desk.moves.not_restored(desk.begin_to_restore(), desk.out)

    assert desk.orders() == [Release(extent(2))]
    assert desk.moves.wanted(X) is not None


@pytest.mark.parametrize("end", ["free", "newer copy"])
def test_what_is_discarded_while_it_is_read_back_goes_when_the_thread_is_done(desk: Desk, end: str) -> None:
    desk.spill()
    desk.get()
    move = desk.begin_to_restore()
    desk.orders()

    if end == "free":
        desk.free()
        assert desk.told() == [(READER, ObjectGone(X, "freed"))]
    else:
        desk.seal(3, SECOND)
        assert desk.told() == [(READER, in_arena(3))]

    desk.moves.restored(move, desk.out)
    if end == "newer copy":
        assert desk.orders() == []  # the reader, and the owner, may have any copy in hand
        desk.table.unpin(READER, [X], desk.out)
        desk.table.yielded(OWNER, [X], desk.out)
    assert desk.orders() == [Release(extent(2)), ReleaseDisk(extent(8))]


def test_readers_wait_and_the_owner_hears_of_it_once_when_the_disk_has_other_bytes(desk: Desk) -> None:
    desk.spill()
    desk.get()
    move = desk.begin_to_restore()
    desk.orders()

    desk.moves.damaged(move, desk.out)
    desk.get(SECOND)

    assert desk.orders() == [
        Release(extent(2)),
        ReleaseDisk(extent(8)),
        Tell(OWNER, ObjectsLost([X])),
    ]
    desk.seal(3)  # by the same writer
    assert desk.told() == [(READER, in_arena(3)), (SECOND, in_arena(3))]


def test_the_owner_that_waits_for_damaged_bytes_is_told(desk: Desk) -> None:
    desk.spill()
    desk.get(OWNER)
    move = desk.begin_to_restore()
    desk.orders()

    desk.moves.damaged(move, desk.out)

    assert desk.told() == [(OWNER, ObjectGone(X, "lost"))]
    desk.get(OWNER)
    assert desk.told() == [(OWNER, ObjectGone(X, "lost"))]


def test_an_evicted_object_is_made_again_for_who_asks(desk: Desk) -> None:
    desk.moves.evict(X, desk.out)
    assert desk.orders() == [Release(extent(1))]

    desk.get(OWNER)
    assert desk.told() == [(OWNER, ObjectGone(X, "evicted"))]
    desk.get()
    assert desk.told() == [(OWNER, ObjectsLost([X]))]
    desk.get()
    assert desk.told() == []

    desk.seal(2, SECOND)
    assert desk.told() == [(READER, in_arena(2))]


def test_an_evicted_object_can_be_freed_and_dies_with_its_owner(desk: Desk) -> None:
    desk.moves.evict(X, desk.out)
    desk.get()
    desk.orders()

    desk.table.process_lost(OWNER, desk.out)

    assert desk.told() == [(READER, ObjectGone(X, "owner_died"))]
    assert desk.table.counts()["objects"] == 0
    other = Desk()
    other.moves.evict(X, other.out)
    other.free()
    assert other.table.counts()["objects"] == 0


def test_who_waits_for_a_spilled_object_goes_on_waiting_when_its_owner_dies(desk: Desk) -> None:
    desk.spill()
    desk.get()
    desk.orders()

    assert list(desk.table.process_lost(OWNER, desk.out)) == [X]
    assert desk.orders() == []

    desk.moves.restored(desk.begin_to_restore(), desk.out)
    assert desk.told() == [(READER, in_arena(2))]


@pytest.mark.parametrize("end", ["abandoned", "damaged"])
def test_who_waits_for_the_object_of_a_dead_owner_hears_when_it_is_gone(desk: Desk, end: str) -> None:
    desk.spill()
    desk.get()
    desk.table.process_lost(OWNER, desk.out)
    desk.orders()

    if end == "abandoned":
        desk.table.abandon(X, desk.out)
    else:
        desk.moves.damaged(desk.begin_to_restore(), desk.out)

    assert desk.told() == [(READER, ObjectGone(X, "owner_died"))]


def test_an_object_is_read_on_the_disk_as_long_as_anybody_does(desk: Desk) -> None:
    desk.spill()
    desk.get()
    desk.orders()
    move = desk.moves.check(X)
    assert move is not None

    desk.moves.show_in_place(move, desk.out)
    desk.get(SECOND)

    assert desk.told() == [(READER, on_disk(8)), (SECOND, on_disk(8))]
    desk.free()
    desk.table.unpin(READER, [X], desk.out)
    assert desk.orders() == []
    desk.table.unpin(SECOND, [X], desk.out)
    assert desk.orders() == [ReleaseDisk(extent(8))]


def test_an_object_that_was_read_on_the_disk_comes_back_for_the_next(desk: Desk) -> None:
    desk.spill()
    desk.get()
    move = desk.moves.check(X)
    assert move is not None
    desk.moves.show_in_place(move, desk.out)
    desk.table.unpin(READER, [X], desk.out)
    desk.orders()

    desk.get()

    assert desk.orders() == [Fetch(X)]


def test_a_place_on_the_disk_can_be_given_up_while_the_arena_has_the_bytes(desk: Desk) -> None:
    desk.moves.forget_disk([X], desk.out)
    desk.spill()
    desk.moves.forget_disk([X], desk.out)
    assert desk.orders() == [Release(extent(1))]
    desk.get()
    desk.moves.restored(desk.begin_to_restore(), desk.out)
    desk.orders()

    desk.moves.forget_disk([X], desk.out)

    assert desk.orders() == [ReleaseDisk(extent(8))]


def test_an_object_larger_than_the_arena_lies_on_the_disk_from_the_beginning(desk: Desk) -> None:
    big = b"b" * 20
    desk.table.created(big, OWNER, WRITER, None, 100, desk.out, disk=OnDisk(extent(8), PATH))
    place = desk.table.descriptor(big, WRITER)
    assert place == Descriptor(big, NODE, 8 * 4096, 100, 8, PATH)
    desk.table.seal(big, WRITER, desk.out)

    desk.table.get([(big, OWNER)], READER, desk.out)
    assert desk.told() == [(READER, ObjectReady(place))]
    assert [record.object_id for record in desk.table.recency.busy()] == []
    desk.table.free([big], OWNER, desk.out)
    desk.table.unpin(READER, [big], desk.out)

    assert desk.orders() == [ReleaseDisk(extent(8))]


def test_a_pin_that_comes_too_late_neither_harms_nor_stays(desk: Desk) -> None:
    """Of a worker that is about to be ended: its task's owner, which had the object in hand, is dead."""
    desk.moves.evict(X, desk.out)
    desk.table.pin(READER, [X])
    desk.free()
    assert desk.table.counts()["objects"] == 1

    desk.table.process_lost(READER, desk.out)

    assert desk.orders() == [Release(extent(1))]
    assert desk.table.counts()["objects"] == 0
