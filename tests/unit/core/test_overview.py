"""What the daemon tells people of the objects in its care."""

from __future__ import annotations

from typing import Any

import pytest

from nbray.core import overview as module
from nbray.core.allocator import Extent
from nbray.core.holds import HoldTable
from nbray.core.object_copies import OnDisk
from nbray.core.object_moves import ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.core.overview import overview
from nbray.wire.memory_messages import StoredFacts

NODE, OWNER, WRITER, READER = b"N" * 16, b"owner", b"writer", b"reader"
X, Y = b"x" * 20, b"y" * 20


class Desk:
    """Both directories of a node."""

    def __init__(self) -> None:
        self.table = ObjectTable(NODE)
        self.holds = HoldTable()
        self.out: list[Any] = []

    def create(self, object_id: bytes, size_bytes: int = 100, generation: int = 1) -> None:
        place = Extent(generation * 4096, 4096, generation, ())
        self.table.created(object_id, OWNER, WRITER, place, size_bytes, self.out)

    def seal(self, object_id: bytes) -> None:
        self.table.seal(object_id, WRITER, self.out)

    def stored(self) -> dict[bytes, StoredFacts]:
        return {facts.object_id: facts for facts in overview(self.table, self.holds)[0]}


def test_what_is_written_and_what_is_whole_are_told_apart() -> None:
    desk = Desk()
    desk.create(X, 100)
    assert (desk.stored()[X].state, desk.stored()[X].place) == ("being written", "store")

    desk.seal(X)

    facts = desk.stored()[X]
    assert (facts.state, facts.place, facts.size_bytes, facts.owner_id) == ("in store", "store", 100, OWNER)
    assert (facts.pins, facts.holders, facts.parcels, facts.containers) == ([], [], 0, [])


def test_who_reads_and_who_holds_an_object_is_told() -> None:
    desk = Desk()
    desk.create(X)
    desk.seal(X)

    desk.table.pin(READER, [X, X])
    desk.holds.hold(READER, [(X, OWNER)])
    desk.holds.send_parcel(OWNER, b"parcel", READER, [(X, OWNER)])

    facts = desk.stored()[X]
    assert (facts.pins, facts.holders, facts.parcels) == ([(READER, 2)], [READER], 1)


def test_an_object_that_was_freed_and_is_still_read_is_told_as_such() -> None:
    desk = Desk()
    desk.create(X)
    desk.seal(X)
    desk.table.pin(READER, [X])

    desk.table.free([X], OWNER, desk.out)

    assert desk.stored()[X].state == "being freed"
    desk.table.unpin(READER, [X], desk.out)
    assert desk.stored() == {}


def test_of_many_the_largest_are_told_and_the_rest_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OBJECTS_MAX", 3)
    desk = Desk()
    for n in range(10):
        desk.create(bytes([n]) * 20, n, generation=n + 1)

    facts, left_out = overview(desk.table, desk.holds)

    assert sorted(each.size_bytes for each in facts) == [7, 8, 9]
    assert left_out == 7


def spilled(desk: Desk) -> ObjectMoves:
    """X, sealed and written to the disk."""
    moves = ObjectMoves(desk.table)
    desk.create(X)
    desk.seal(X)
    desk.table.yielded(OWNER, [X], desk.out)
    move = moves.spill(X, OnDisk(Extent(0, 4096, 1, ()), "/proc/1/fd/9"), desk.out)
    assert move is not None
    moves.written(move, 77, desk.out)
    moves.drop(X, desk.out)
    return moves


def test_where_the_bytes_are_is_told() -> None:
    desk = Desk()
    told: list[tuple[bytes, str, int]] = []
    desk.table.on_moved = lambda *facts: told.append(facts)

    moves = spilled(desk)
    assert (desk.stored()[X].state, desk.stored()[X].place) == ("spilled", "disk")
    desk.table.get([(X, OWNER)], READER, desk.out)
    move = moves.restore(X, Extent(8192, 4096, 2, ()), desk.out)
    assert move is not None
    moves.restored(move, desk.out)

    assert (desk.stored()[X].state, desk.stored()[X].place) == ("in store", "store")
    assert told == [(X, "spilled", 100), (X, "restored", 100)]


def test_bytes_that_are_gone_are_told_with_their_reason() -> None:
    desk = Desk()
    told: list[tuple[bytes, str, int]] = []
    desk.table.on_moved = lambda *facts: told.append(facts)
    desk.create(Y, generation=3)
    desk.seal(Y)
    desk.table.yielded(OWNER, [Y], desk.out)

    moves = spilled(desk)
    moves.evict(Y, desk.out)
    desk.table.get([(X, OWNER)], READER, desk.out)
    move = moves.restore(X, Extent(8192, 4096, 2, ()), desk.out)
    assert move is not None
    moves.damaged(move, desk.out)

    assert (desk.stored()[Y].state, desk.stored()[Y].place) == ("evicted", "")
    assert (desk.stored()[X].state, desk.stored()[X].place) == ("lost", "")
    assert told == [(X, "spilled", 100), (Y, "evicted", 100), (X, "lost", 100)]
