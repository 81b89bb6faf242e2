"""The directory: only sealed bytes are seen, pinned space stays, and all space returns once."""

from __future__ import annotations

import pytest

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Release, Tell
from nbray.core.object_copies import TABLE, Copy, Do, E, S
from nbray.core.objects import ObjectTable
from nbray.wire.base import Descriptor
from nbray.wire.object_messages import (
    ObjectGone,
    ObjectReady,
)

NODE = b"N" * 16
X, Y = b"x" * 20, b"y" * 20
OWNER, WRITER, SECOND, READER = b"owner", b"writer", b"second", b"reader"


def extent(generation: int, size_bytes: int = 128) -> Extent:
    return Extent(generation * 4096, size_bytes, generation, ())


def ready(reader: bytes, generation: int, object_id: bytes = X) -> Tell:
    return Tell(reader, ObjectReady(Descriptor(object_id, NODE, generation * 4096, 100, generation)))


def gone(reader: bytes, reason: str, object_id: bytes = X) -> Tell:
    return Tell(reader, ObjectGone(object_id, reason))


class Desk:
    """A table, and what it ordered in answer to the last fact."""

    def __init__(self) -> None:
        self.table = ObjectTable(NODE)
        self.seen = False  # by readers, from the last seal on
        self.orphans: list[bytes] = []  # of the process that was lost last

    def create(
        self, generation: int, writer: bytes = WRITER, object_id: bytes = X, owner: bytes = OWNER
    ) -> list[Command]:
        out: list[Command] = []
        self.table.created(object_id, owner, writer, extent(generation), 100, out)
        return out

    def seal(self, writer: bytes = WRITER, object_id: bytes = X) -> list[Command]:
        out: list[Command] = []
        self.seen = self.table.seal(object_id, writer, out)
        return out

    def abort(self, writer: bytes = WRITER) -> list[Command]:
        out: list[Command] = []
        self.table.abort(X, writer, out)
        return out

    def get(self, reader: bytes = READER, object_id: bytes = X, owner: bytes = OWNER) -> list[Command]:
        out: list[Command] = []
        self.table.get([(object_id, owner)], reader, out)
        return out

    def unpin(self, process: bytes = READER) -> list[Command]:
        out: list[Command] = []
        self.table.unpin(process, [X], out)
        return out

    def yield_it(self, process: bytes = OWNER) -> list[Command]:
        out: list[Command] = []
        self.table.yielded(process, [X], out)
        return out

    def free(self, owner: bytes = OWNER, object_id: bytes = X) -> list[Command]:
        out: list[Command] = []
        self.table.free([object_id], owner, out)
        return out

    def lose(self, process: bytes) -> list[Command]:
        out: list[Command] = []
        self.orphans = self.table.process_lost(process, out)
        return out

    def abandon(self, object_id: bytes = X) -> list[Command]:
        out: list[Command] = []
        self.table.abandon(object_id, out)
        return out


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_sealed_object_is_served_at_once(desk: Desk) -> None:
    desk.create(1)
    desk.seal()

    assert desk.get() == [ready(READER, 1)]


def test_a_reader_hears_nothing_before_the_seal(desk: Desk) -> None:
    assert desk.get() == []
    assert desk.create(1) == []
    assert desk.get() == []

    assert desk.seal() == [ready(READER, 1)]


def test_every_waiter_is_told_once(desk: Desk) -> None:
    for reader in (b"a", b"b", b"a"):
        desk.get(reader)
    desk.create(1)

    assert desk.seal() == [ready(b"a", 1), ready(b"b", 1)]
    assert desk.seal() == []


def test_only_the_writer_can_seal(desk: Desk) -> None:
    desk.create(1)

    assert desk.seal(SECOND) == []
    assert desk.get() == []


def test_a_freed_object_releases_its_space(desk: Desk) -> None:
    desk.create(1)
    desk.seal()

    assert desk.free() == [Release(extent(1))]
    assert desk.free() == []
    assert desk.get() == [gone(READER, "freed")]


def test_only_the_owner_can_free(desk: Desk) -> None:
    desk.create(1)
    desk.seal()

    assert desk.free(SECOND) == []
    assert desk.get() == [ready(READER, 1)]


def test_a_freed_object_keeps_its_space_until_the_last_pin_goes(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get(b"a")
    desk.get(b"a")
    desk.get(b"b")

    assert desk.free() == []
    assert desk.unpin(b"a") == []
    assert desk.unpin(b"b") == []
    assert desk.unpin(b"a") == [Release(extent(1))]
    assert desk.table.counts()["objects"] == 0


def test_an_unpin_too_many_is_ignored(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get(b"a")
    desk.get(b"b")
    desk.unpin(b"a")
    desk.free()

    assert desk.unpin(b"a") == []
    assert desk.unpin(b"stranger") == []
    assert desk.unpin(b"b") == [Release(extent(1))]


def test_a_pin_by_request_holds_the_space_too(desk: Desk) -> None:
    desk.create(1)
    desk.seal()

    assert desk.table.pin(READER, [X]) == []
    assert desk.free() == []
    assert desk.unpin() == [Release(extent(1))]


def test_what_was_freed_cannot_be_pinned(desk: Desk) -> None:
    desk.free()

    assert desk.table.pin(READER, [X]) == [X]


def test_a_pin_that_overtakes_the_seal_holds_the_space(desk: Desk) -> None:
    # given a writer that has sealed, and told a reader, whose pin we hear first, and then the free
    desk.create(1)
    assert desk.table.pin(READER, [X]) == []
    assert desk.free() == []

    # when we hear that it was sealed, then it stays until the reader lets go
    assert desk.seal() == []
    assert desk.unpin() == [Release(extent(1))]


def test_an_early_pin_that_is_given_back_holds_nothing(desk: Desk) -> None:
    desk.table.pin(READER, [X])
    desk.unpin()
    desk.create(1)
    desk.seal()

    assert desk.free() == [Release(extent(1))]


def test_an_adopted_object_is_sealed_at_once(desk: Desk) -> None:
    desk.get()
    out: list[Command] = []

    desk.table.adopted(X, OWNER, WRITER, extent(1), 100, out)

    assert [type(command.message) for command in out if isinstance(command, Tell)] == [ObjectReady]
    assert desk.table.counts()["sealed"] == 1


def test_an_object_that_was_freed_before_it_was_adopted_goes_at_once(desk: Desk) -> None:
    desk.free()
    out: list[Command] = []

    desk.table.adopted(X, OWNER, WRITER, extent(1), 100, out)

    assert out == [Release(extent(1))]
    assert desk.table.counts()["objects"] == 0


def test_a_free_that_overtakes_the_seal_takes_effect_at_the_seal(desk: Desk) -> None:
    desk.get()
    desk.create(1)

    assert desk.free() == [gone(READER, "freed")]
    assert desk.table.descriptor(X, WRITER) is not None
    assert desk.seal() == [Release(extent(1))]


def test_an_aborted_write_returns_its_space_and_waiters_wait_for_the_next(desk: Desk) -> None:
    desk.get()
    desk.create(1)

    assert desk.abort() == [Release(extent(1))]
    assert desk.abort() == []
    desk.create(2, SECOND)
    assert desk.seal(SECOND) == [ready(READER, 2)]


def test_a_dead_writer_leaves_no_trace_and_waiters_wait_for_the_retry(desk: Desk) -> None:
    desk.get()
    desk.create(1)

    assert desk.lose(WRITER) == [Release(extent(1))]
    assert desk.seal() == []
    desk.create(2, SECOND)
    assert desk.seal(SECOND) == [ready(READER, 2)]


def test_a_dead_reader_lets_go_of_its_pins(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get()
    desk.get()
    desk.free()

    assert desk.lose(READER) == [Release(extent(1))]
    assert desk.lose(READER) == []


def test_a_dead_waiter_is_not_told(desk: Desk) -> None:
    desk.get()
    desk.lose(READER)
    desk.create(1)

    assert desk.seal() == []
    assert desk.free() == [Release(extent(1))]


def test_waiters_learn_that_the_owner_died(desk: Desk) -> None:
    desk.get()
    desk.get(object_id=Y, owner=SECOND)

    assert desk.lose(OWNER) == [gone(READER, "owner_died")]
    assert desk.get() == [gone(READER, "owner_died")]


def test_sealed_objects_of_a_dead_owner_stay_until_they_are_abandoned(desk: Desk) -> None:
    desk.create(1)
    desk.create(2, object_id=Y)
    desk.seal()
    desk.seal(object_id=Y)

    assert desk.lose(OWNER) == []
    assert desk.orphans == [X, Y]
    assert desk.get() == [ready(READER, 1)]
    assert desk.unpin() == []
    assert desk.table.counts()["orphaned_bytes"] == 256

    assert desk.abandon() == [Release(extent(1))]
    assert desk.abandon() == []
    assert desk.get() == [gone(READER, "owner_died")]
    assert desk.table.counts()["orphaned_bytes"] == 128


def test_an_abandoned_object_goes_with_its_last_pin(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get()
    desk.lose(OWNER)

    assert desk.abandon() == []
    assert desk.table.counts()["orphaned_bytes"] == 128
    assert desk.unpin() == [Release(extent(1))]
    assert not any(desk.table.counts().values())


def test_a_dead_owner_leaves_no_orphan_that_nobody_can_read(desk: Desk) -> None:
    """One is freed, though pinned, one still written."""
    desk.create(1)
    desk.seal()
    desk.get()
    desk.free()
    desk.create(2, object_id=Y)

    assert desk.lose(OWNER) == []
    assert desk.orphans == []
    assert desk.lose(OWNER) == []
    assert desk.orphans == []


def test_a_seal_says_whether_anybody_will_see_the_object(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    assert desk.seen
    desk.seal()
    assert not desk.seen, "it was sealed before"

    desk.create(2, object_id=Y)
    desk.free(object_id=Y)
    desk.seal(object_id=Y)
    assert not desk.seen, "it was freed"


def test_a_free_takes_what_is_the_owners(desk: Desk) -> None:
    desk.create(1)
    desk.create(2, object_id=Y, owner=SECOND)

    assert desk.table.free([X, Y], OWNER, []) == [X]
    assert desk.table.free([b"z" * 20], OWNER, []) == [b"z" * 20], "who knows: it may be under way"
    desk.lose(SECOND)
    assert desk.table.free([Y], SECOND, []) == []


def test_an_object_still_written_when_its_owner_dies_goes_at_the_seal(desk: Desk) -> None:
    desk.create(1)

    assert desk.lose(OWNER) == []
    assert desk.seal() == [Release(extent(1))]
    assert not desk.seen
    assert desk.table.counts()["orphaned_bytes"] == 0


def test_an_object_begun_after_its_owner_died_goes_at_the_seal(desk: Desk) -> None:
    desk.lose(OWNER)

    desk.create(1)

    assert desk.get() == [gone(READER, "owner_died")]
    assert desk.seal() == [Release(extent(1))]


def test_space_allocated_for_a_writer_that_died_goes_back_at_once(desk: Desk) -> None:
    desk.lose(WRITER)

    assert desk.create(1) == [Release(extent(1))]


def test_a_late_message_of_a_dead_process_changes_nothing(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    for process in (OWNER, READER):
        desk.lose(process)
    before = desk.table.counts()

    assert desk.free() == []
    assert desk.get() == []
    assert desk.table.pin(READER, [X]) == []
    assert desk.unpin() == []
    assert desk.table.counts() == before


def test_a_writer_makes_an_object_once_at_a_time(desk: Desk) -> None:
    assert desk.table.admits(X, OWNER, WRITER)
    desk.create(1)
    assert not desk.table.admits(X, OWNER, WRITER)
    desk.seal()

    assert desk.table.admits(X, OWNER, WRITER)  # its task runs again, since another result was lost
    assert not desk.table.admits(X, SECOND, SECOND)
    assert desk.table.admits(X, OWNER, SECOND)


def test_a_retried_task_seals_while_its_first_worker_is_not_known_to_be_dead(desk: Desk) -> None:
    desk.create(1)
    desk.create(2, SECOND)

    assert desk.seal(SECOND) == []
    assert desk.lose(WRITER) == [Release(extent(1))]
    assert desk.get() == [ready(READER, 2)]


def test_the_copy_sealed_last_replaces_one_that_nobody_has_in_hand(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.yield_it()
    desk.create(2, SECOND)

    assert desk.seal(SECOND) == [Release(extent(1))]
    assert desk.get() == [ready(READER, 2)]


def test_a_replaced_copy_stays_while_the_owner_may_read_it(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.create(2, SECOND)

    assert desk.seal(SECOND) == []
    assert desk.yield_it(SECOND) == []
    assert desk.yield_it() == [Release(extent(1))]
    assert desk.get() == [ready(READER, 2)]


@pytest.mark.parametrize("end", ["free", "death"])
def test_what_the_owner_has_in_hand_goes_when_it_frees_it_or_dies(desk: Desk, end: str) -> None:
    desk.create(1)
    desk.seal()
    desk.create(2, SECOND)
    desk.seal(SECOND)

    if end == "free":
        assert desk.free() == [Release(extent(2)), Release(extent(1))]
    else:
        assert desk.lose(OWNER) == [Release(extent(1))]


def test_a_yield_gives_all_pins_of_a_process_back(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get()
    desk.get()
    desk.get(SECOND)
    desk.free()

    assert desk.yield_it(READER) == []
    assert desk.unpin() == []
    assert desk.yield_it(SECOND) == [Release(extent(1))]
    assert desk.table.counts()["pinned"] == 0


def test_a_yield_of_what_is_not_there_or_by_the_dead_changes_nothing(desk: Desk) -> None:
    assert desk.yield_it() == []
    desk.create(1)
    desk.seal()
    desk.get()
    desk.lose(READER)
    desk.get(SECOND)

    assert desk.yield_it(READER) == []
    assert desk.table.counts()["pinned"] == 1


def test_objects_are_used_in_the_order_in_which_they_were_sealed_or_read(desk: Desk) -> None:
    for object_id in (X, Y):
        desk.create(1, object_id=object_id)
        desk.seal(object_id=object_id)
        desk.table.yielded(OWNER, [object_id], [])
    assert [record.object_id for record in desk.table.recency.idle()] == [X, Y]

    desk.get()
    assert [record.object_id for record in desk.table.recency.idle()] == [Y]
    assert [record.object_id for record in desk.table.recency.busy()] == [X]
    desk.unpin()

    assert [record.object_id for record in desk.table.recency.idle()] == [Y, X]


def test_a_replaced_copy_stays_while_anybody_reads_the_object(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.yield_it()
    desk.get()
    desk.create(2, SECOND)
    assert desk.seal(SECOND) == []
    desk.get()

    assert desk.yield_it() == []
    assert desk.unpin() == []
    assert desk.unpin() == [Release(extent(1))]
    assert desk.free() == [Release(extent(2))]


def test_a_freed_object_can_be_made_again(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.free()
    desk.create(2, SECOND)

    assert desk.get() == []
    assert desk.seal(SECOND) == [ready(READER, 2)]


def test_the_largest_objects_are_named_first(desk: Desk) -> None:
    out: list[Command] = []
    for n, size in enumerate((64, 640, 128)):
        desk.table.created(bytes([n]) * 20, OWNER, WRITER, extent(n + 1, size), size, out)

    assert [h.size_bytes for h in desk.table.largest(2)] == [640, 128]
    assert desk.table.largest(1)[0].owner_id == OWNER


def test_counts_name_states_and_pins(desk: Desk) -> None:
    desk.create(1)
    desk.seal()
    desk.get()
    desk.free()
    desk.create(2, object_id=Y)
    desk.get(object_id=b"z" * 20)

    counts = desk.table.counts()
    assert {name: number for name, number in counts.items() if number} == {
        "objects": 2,
        "creating": 1,
        "lingering": 1,
        "pinned": 1,
        "waited_for": 1,
    }
    assert counts.keys() >= {state.value for state in S if state is not S.GONE}


def test_an_event_outside_the_table_names_what_was_allowed() -> None:
    copy = Copy(WRITER, extent(1), 100)

    with pytest.raises(
        ValueError, match=r"creating copy cannot meet 'last unpin'; allowed: seal, seal while pinned, abort"
    ):
        copy.step(E.LAST_UNPIN)


def test_every_state_without_a_thread_at_work_can_end_and_every_end_releases_what_is_there() -> None:
    ends = {state for (state, _), (following, _) in TABLE.items() if following is S.GONE}
    without_bytes = {S.EVICTED, S.LOST}

    assert ends == set(S) - {S.SPILLING, S.RESTORING, S.GONE}
    for (state, _), (following, do) in TABLE.items():
        if following is S.GONE:
            assert do is (Do.NOTHING if state in without_bytes else Do.RELEASE)
    assert all(state is not S.GONE for state, _ in TABLE)
