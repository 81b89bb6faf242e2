"""Small values go to the store without anybody waiting, and whoever takes them hears how it went.

Called by:  pytest.
Imports:    nbray.runtime.promotion.
Never:      maps memory: a bytearray stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest

from nbray.core.references import Entry
from nbray.runtime.promotion import Promotions
from nbray.runtime.refs import Home
from nbray.runtime.slabs import SlabWriter
from nbray.store.mapping import Mapping
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    ObjectCreated,
    RequestSlab,
    SealObject,
    SlabGranted,
)

X = b"x" * 20
PLACE = Descriptor(X, b"n" * 16, 64, 5, 1)


class Memory:
    capacity_bytes = 1 << 30

    def __init__(self) -> None:
        self.held = bytearray(5)

    @contextmanager
    def writable(self, descriptor: Descriptor) -> Iterator[memoryview]:
        yield memoryview(self.held)

    def is_touched(self, offset: int, size_bytes: int) -> bool:
        return True


class Desk:
    """Promotions, and what they said to whom."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.ready: list[Any] = []
        self.refused: list[Any] = []
        self.armed: list[float] = []
        self.memory = Memory()
        self.slabs = SlabWriter(self.said.append)
        self.home = Home(b"me", lambda: None)
        self.promotions = Promotions(
            self,
            self.said.append,
            self.slabs,
            self.armed.append,
            self.ready.append,
            lambda *what: self.refused.append(what),
        )
        self.promotions.mapping = cast("Mapping", self.memory)
        self.promotions.node_id = b"n" * 16
        self.entry = Entry(X, None, 1, value=b"value")

    def is_alive(self, entry: Entry) -> bool:
        return entry.held

    def inner_of(self, entry: Entry) -> Sequence[tuple[bytes, bytes]]:
        return [(inner, b"other") for inner in entry.inner]

    def promote(self, entry: Entry, task: str | None = None) -> None:
        self.promotions.promote(entry, task)
        self.promotions.advance()

    def created(self) -> bool:
        return self.promotions.created(ObjectCreated(PLACE))


def test_value_is_copied_and_its_entry_then_says_where_it_lies() -> None:
    desk = Desk()
    desk.promote(desk.entry, "task")

    assert desk.created()

    assert desk.said == [CreateObject(X, b"me", 5), SealObject(X)]
    assert desk.memory.held == b"value"
    assert desk.entry.value == PLACE
    assert desk.ready == ["task"]


def test_two_tasks_that_take_one_value_wait_for_one_copy() -> None:
    desk = Desk()

    desk.promote(desk.entry, "one")
    desk.promote(desk.entry, "two")
    desk.created()

    assert desk.ready == ["one", "two"]
    assert len([m for m in desk.said if isinstance(m, CreateObject)]) == 1


def test_value_that_nobody_holds_any_more_is_freed_again() -> None:
    desk = Desk()
    desk.promote(desk.entry)
    desk.entry.handles = 0

    desk.created()

    assert desk.said[-1] == FreeObjects([X])


@pytest.mark.parametrize("when", ["before it is asked for", "while space is asked for", "after a refusal"])
def test_value_that_was_freed_by_force_does_not_move(when: str) -> None:
    desk = Desk()
    desk.promotions.promote(desk.entry, "task")
    if when != "before it is asked for":
        desk.promotions.advance()
    if when == "after a refusal":
        desk.promotions.failed(CreateFailed(X, "full", "no room"))

    desk.promotions.withdraw(desk.entry)
    desk.entry.value = b"an error, which is longer than that"
    desk.promotions.advance()
    desk.promotions.housekeeping()
    if when == "while space is asked for":
        assert desk.created()

    said = {"before it is asked for": [], "after a refusal": [CreateObject(X, b"me", 5)]}
    assert desk.said == said.get(when, [CreateObject(X, b"me", 5), AbortObject(X)])
    assert desk.entry.value == b"an error, which is longer than that"


def test_task_hears_that_there_is_no_room() -> None:
    desk = Desk()
    desk.promote(desk.entry, "task")
    failure = CreateFailed(X, "full", "no room")

    assert desk.promotions.failed(failure)

    assert desk.refused == [("task", failure, 5)]
    assert desk.armed == []


def test_shared_value_is_offered_again_until_there_is_room() -> None:
    desk = Desk()
    desk.entry.shared = True
    desk.promote(desk.entry)

    desk.promotions.failed(CreateFailed(X, "full", ""))
    assert len(desk.armed) == 1
    desk.promotions.housekeeping()
    desk.promotions.advance()

    assert len(desk.said) == 2
    assert desk.created()
    assert desk.entry.value == PLACE


def test_the_references_in_a_value_go_with_it() -> None:
    desk = Desk()
    desk.entry.inner = (b"i" * 20,)
    desk.promote(desk.entry)

    desk.created()

    assert desk.said[-1] == SealObject(X, ((b"i" * 20, b"other"),))


def test_many_that_come_together_wait_for_a_slab_and_go_into_it() -> None:
    desk = Desk()
    entries = [Entry(bytes([n]) * 20, None, 1, value=b"value") for n in range(5)]
    for entry in entries:
        desk.promotions.promote(entry)

    # the first goes by itself, since a slab is not asked for one; the second has one asked for
    desk.promotions.advance()
    assert [type(m) for m in desk.said] == [CreateObject, RequestSlab]

    desk.slabs.granted(SlabGranted(4096, 1 << 20, 7))
    desk.promotions.advance()
    told = [m for m in desk.said if isinstance(m, AdoptObject)]
    assert [m.object_id for m in told] == [entry.object_id for entry in entries[1:]]
    assert all(isinstance(entry.value, Descriptor) and entry.value.generation == 7 for entry in entries[1:])
    assert not desk.promotions.is_due


def test_answers_to_others_are_not_taken() -> None:
    desk = Desk()

    assert not desk.created()
    assert not desk.promotions.failed(CreateFailed(X, "full", ""))
