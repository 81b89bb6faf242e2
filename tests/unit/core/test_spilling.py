"""Who makes room: the idle before the busy, the old before the new, and nobody who has just said no."""

from __future__ import annotations

import pytest

from nbray.core.allocator import Extent
from nbray.core.object_copies import OnDisk
from nbray.core.object_moves import ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.core.spilling import (
    ANSWER_S,
    DISK_REST_S,
    REFUSED_S,
    Command,
    Drop,
    Evict,
    Recall,
    RoomMaker,
    Write,
)
from nbray.wire.object_messages import RecallObjects

MIB = 1024 * 1024
OWNER, SECOND, READER = b"owner", b"second", b"reader"
NOW_S = 1000.0


def oid(n: int) -> bytes:
    return bytes([n]) * 20


class Desk:
    """Objects of one MiB each, named by numbers; the higher, the later sealed."""

    def __init__(self, *, spills: bool = True, evicts: bool = False, batch_bytes: int = 0) -> None:
        self.table = ObjectTable(b"N" * 16)
        self.moves = ObjectMoves(self.table)
        self.maker = RoomMaker(self.table, spills=spills, evicts=evicts, batch_bytes=batch_bytes)

    def seal(self, *numbers: int, owner: bytes = OWNER, weak: bool = False, size: int = MIB) -> None:
        for n in numbers:
            extent = Extent(n * 64 * MIB, size, n, ())
            self.table.created(oid(n), owner, owner, extent, size, [], weak=weak)
            self.table.seal(oid(n), owner, [])

    def idle(self, *numbers: int, weak: bool = False) -> None:
        self.seal(*numbers, weak=weak)
        self.table.yielded(OWNER, map(oid, numbers), [])

    def get(self, n: int, reader: bytes = READER) -> None:
        self.table.get([(oid(n), OWNER)], reader, [])

    def write(self, *numbers: int) -> None:
        for n in numbers:
            move = self.moves.spill(oid(n), OnDisk(Extent(n * MIB, MIB, n, ()), "f"), [])
            assert move is not None
            self.moves.written(move, 0, [])

    def work_ahead(self, wanted_bytes: int) -> list[Command]:
        out: list[Command] = []
        self.maker.work_ahead(wanted_bytes, NOW_S, out)
        return out

    def make_room(self, missing_bytes: int, now_s: float = NOW_S) -> list[Command]:
        out: list[Command] = []
        self.maker.make_room(missing_bytes, now_s, out)
        return out


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_nothing_is_done_when_nothing_is_missing(desk: Desk) -> None:
    desk.idle(1)

    assert desk.make_room(0) == []


def test_the_objects_longest_unused_are_written_until_there_is_enough(desk: Desk) -> None:
    desk.idle(1, 2, 3, 4)
    desk.get(1)
    desk.table.unpin(READER, [oid(1)], [])

    assert desk.make_room(2 * MIB) == [Write((oid(2), oid(3)))]


def test_what_is_being_written_counts_as_gone(desk: Desk) -> None:
    desk.idle(1, 2)
    desk.moves.spill(oid(1), OnDisk(Extent(0, MIB, 1, ()), "f"), [])

    assert desk.make_room(MIB) == []
    assert desk.make_room(2 * MIB) == [Write((oid(2),))]


def test_weak_objects_are_evicted_and_those_on_the_disk_are_dropped(desk: Desk) -> None:
    desk.idle(1, weak=True)
    desk.idle(2, 3)
    desk.write(2)

    assert desk.make_room(3 * MIB) == [Evict(oid(1)), Drop(oid(2)), Write((oid(3),))]


def test_where_everything_may_be_evicted_nothing_is_written() -> None:
    desk = Desk(evicts=True)
    desk.idle(1, 2)

    assert desk.maker.can_make_room
    assert desk.make_room(2 * MIB) == [Evict(oid(1)), Evict(oid(2))]


def test_where_nothing_may_be_written_only_weak_objects_go() -> None:
    desk = Desk(spills=False)
    desk.idle(1)
    desk.idle(2, weak=True)
    desk.seal(3)
    desk.seal(4, weak=True)

    assert not desk.maker.can_make_room
    assert desk.make_room(3 * MIB) == [Evict(oid(2)), Recall(OWNER, RecallObjects(1, [oid(4)]))]


def test_after_the_disk_refused_it_has_a_rest(desk: Desk) -> None:
    desk.idle(1)
    desk.maker.disk_refused(NOW_S)

    assert desk.make_room(MIB, NOW_S + DISK_REST_S / 2) == []
    assert desk.make_room(MIB, NOW_S + DISK_REST_S) == [Write((oid(1),))]


def test_what_is_in_hand_is_asked_for_when_the_idle_do_not_suffice(desk: Desk) -> None:
    desk.idle(1)
    desk.seal(2, 3, 4, 5)

    assert desk.make_room(2 * MIB) == [
        Write((oid(1),)),
        Recall(OWNER, RecallObjects(1, [oid(2), oid(3)])),
    ]


def test_everybody_who_has_it_in_hand_is_asked_in_one_message_each(desk: Desk) -> None:
    desk.seal(1, 2)
    desk.seal(3, owner=SECOND)
    desk.get(1)
    desk.table.yielded(OWNER, [oid(1)], [])
    desk.get(2)

    assert desk.make_room(8 * MIB) == [
        Recall(SECOND, RecallObjects(1, [oid(3)])),
        Recall(READER, RecallObjects(2, [oid(1), oid(2)])),
        Recall(OWNER, RecallObjects(3, [oid(2)])),
    ]


def test_large_objects_are_asked_for_before_small_ones(desk: Desk) -> None:
    desk.seal(1, size=4096)
    desk.seal(2, 3)

    assert desk.make_room(MIB) == [Recall(OWNER, RecallObjects(1, [oid(2), oid(3)]))]


def test_what_was_asked_for_is_not_asked_for_again_but_after_a_moment_others_are(desk: Desk) -> None:
    desk.seal(1, 2)
    desk.seal(3, owner=SECOND)
    desk.make_room(MIB)

    assert desk.make_room(MIB, NOW_S + ANSWER_S / 2) == []
    assert desk.make_room(MIB, NOW_S + 2 * ANSWER_S) == [Recall(SECOND, RecallObjects(2, [oid(3)]))]


def test_what_was_refused_is_left_alone_for_a_while(desk: Desk) -> None:
    desk.seal(1, 2, 3)
    assert desk.make_room(MIB) == [Recall(OWNER, RecallObjects(1, [oid(1), oid(2)]))]
    desk.maker.answered(SECOND, 1, [], NOW_S)
    desk.maker.answered(OWNER, 1, [oid(2)], NOW_S)

    assert desk.make_room(MIB, NOW_S) == [Recall(OWNER, RecallObjects(2, [oid(2), oid(3)]))]
    desk.maker.answered(OWNER, 2, [], NOW_S + REFUSED_S / 2)
    assert desk.make_room(MIB, NOW_S + 1.2 * REFUSED_S) == [Recall(OWNER, RecallObjects(3, [oid(1)]))]


def test_the_dead_are_not_waited_for(desk: Desk) -> None:
    desk.seal(1)
    desk.get(1)
    desk.make_room(MIB)
    desk.maker.process_lost(OWNER)
    desk.table.process_lost(OWNER, [])
    desk.maker.answered(READER, 2, [], NOW_S)

    assert desk.make_room(MIB, NOW_S + REFUSED_S) == [Recall(READER, RecallObjects(3, [oid(1)]))]


def test_older_copies_that_somebody_may_still_read_are_worth_asking_for() -> None:
    desk = Desk(spills=False)
    desk.seal(1)
    desk.table.created(oid(1), OWNER, SECOND, Extent(0, MIB, 9, ()), MIB, [])
    desk.table.seal(oid(1), SECOND, [])

    assert desk.make_room(MIB) == [Recall(OWNER, RecallObjects(1, [oid(1)]))]


def test_what_was_written_keeps_its_place_in_the_order(desk: Desk) -> None:
    desk.idle(1, 2, 3)
    desk.write(2, 1)

    assert desk.make_room(3 * MIB) == [Drop(oid(1)), Drop(oid(2)), Write((oid(3),))]


def test_the_next_ones_are_written_ahead_until_enough_can_leave_at_once(desk: Desk) -> None:
    desk.idle(1, 2, 3, 4)
    desk.write(3)
    move = desk.moves.spill(oid(1), OnDisk(Extent(0, MIB, 1, ()), "f"), [])

    assert desk.work_ahead(2 * MIB) == []
    assert desk.work_ahead(4 * MIB) == [Write((oid(2), oid(4)))]
    assert move is not None


def test_what_is_in_hand_is_asked_for_ahead_too(desk: Desk) -> None:
    desk.idle(1)
    desk.seal(2, 3, 4)

    assert desk.work_ahead(2 * MIB) == [
        Write((oid(1),)),
        Recall(OWNER, RecallObjects(1, [oid(2), oid(3)])),
    ]


def test_nothing_is_done_ahead_where_nothing_may_be_written(desk: Desk) -> None:
    desk.idle(1)
    desk.maker.disk_refused(NOW_S)

    assert desk.work_ahead(MIB) == []


def test_small_objects_are_written_and_asked_for_together() -> None:
    desk = Desk(batch_bytes=3 * MIB)
    desk.idle(1, 2, 3, 4)
    desk.write(1)

    assert desk.make_room(MIB) == [Drop(oid(1))]
    assert desk.make_room(2 * MIB) == [Drop(oid(1)), Write((oid(2), oid(3), oid(4)))]
    other = Desk(batch_bytes=3 * MIB)
    other.seal(1, 2, 3, 4)
    assert other.make_room(1) == [Recall(OWNER, RecallObjects(1, [oid(1), oid(2), oid(3)]))]


def test_nothing_is_written_ahead_while_more_than_half_of_it_can_leave(desk: Desk) -> None:
    desk.idle(1, 2, 3, 4, 5)
    desk.write(1, 2)

    assert desk.work_ahead(3 * MIB) == []
    assert desk.work_ahead(4 * MIB) == [Write((oid(3), oid(4)))]


def test_what_came_back_for_a_reader_is_left_to_it_for_a_moment(desk: Desk) -> None:
    desk.seal(1, 2)
    desk.maker.restored(oid(1), NOW_S)

    assert desk.make_room(MIB, NOW_S) == [Recall(OWNER, RecallObjects(1, [oid(2)]))]
    assert desk.make_room(MIB, NOW_S + 1) == [Recall(OWNER, RecallObjects(2, [oid(1)]))]


def test_who_reads_one_after_the_other_is_asked_for_what_it_has_just_read(desk: Desk) -> None:
    # given nothing but what came back one after the other, a moment ago
    desk.seal(1, 2, 3, 4)
    for n in range(4):
        desk.maker.restored(oid(1 + n), NOW_S + n * 0.04)

    # when the next one needs room, then it need not wait until all that is long ago
    assert desk.make_room(MIB, NOW_S + 0.16) == [Recall(OWNER, RecallObjects(1, [oid(1)]))]
    # ... but what came back just now is left alone
    assert desk.make_room(9 * MIB, NOW_S + 0.16) == [Recall(OWNER, RecallObjects(2, [oid(2), oid(3)]))]
