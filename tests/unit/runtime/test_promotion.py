"""Small values go to the store without anybody waiting, and whoever takes them hears how it went.

Called by:  pytest.
Imports:    nbray.runtime.promotion.
Never:      maps memory: a bytearray stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from nbray.core.references import Entry
from nbray.runtime.promotion import Promotions
from nbray.store.mapping import Mapping
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.object_messages import (
    CreateFailed,
    CreateObject,
    FreeObjects,
    ObjectCreated,
    SealObject,
)

X = b"x" * 20
PLACE = Descriptor(X, b"n" * 16, 64, 5, 1)


class Memory:
    def __init__(self) -> None:
        self.held = bytearray(5)

    @contextmanager
    def writable(self, descriptor: Descriptor) -> Iterator[memoryview]:
        yield memoryview(self.held)


class Desk:
    """Promotions, and what they said to whom."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.ready: list[Any] = []
        self.refused: list[Any] = []
        self.armed: list[float] = []
        self.memory = Memory()
        self.promotions = Promotions(
            b"me",
            self.said.append,
            self.armed.append,
            self.ready.append,
            lambda *what: self.refused.append(what),
        )
        self.entry = Entry(X, None, 1, value=b"value")

    def created(self) -> bool:
        return self.promotions.created(ObjectCreated(PLACE), cast("Mapping", self.memory))


def test_value_is_copied_and_its_entry_then_says_where_it_lies() -> None:
    desk = Desk()
    desk.promotions.promote(desk.entry, "task")

    assert desk.created()

    assert desk.said == [CreateObject(X, b"me", 5), SealObject(X)]
    assert desk.memory.held == b"value"
    assert desk.entry.value == PLACE
    assert desk.ready == ["task"]


def test_two_tasks_that_take_one_value_wait_for_one_copy() -> None:
    desk = Desk()

    desk.promotions.promote(desk.entry, "one")
    desk.promotions.promote(desk.entry, "two")
    desk.created()

    assert desk.ready == ["one", "two"]
    assert len([m for m in desk.said if isinstance(m, CreateObject)]) == 1


def test_value_that_nobody_holds_any_more_is_freed_again() -> None:
    desk = Desk()
    desk.promotions.promote(desk.entry)
    desk.entry.handles = 0

    desk.created()

    assert desk.said[-1] == FreeObjects([X])


def test_task_hears_that_there_is_no_room() -> None:
    desk = Desk()
    desk.promotions.promote(desk.entry, "task")
    failure = CreateFailed(X, "full", "no room")

    assert desk.promotions.failed(failure)

    assert desk.refused == [("task", failure, 5)]
    assert desk.armed == []


def test_escaped_value_is_offered_again_until_there_is_room() -> None:
    desk = Desk()
    desk.entry.escaped = True
    desk.promotions.promote(desk.entry)

    desk.promotions.failed(CreateFailed(X, "full", ""))
    assert len(desk.armed) == 1
    desk.promotions.housekeeping()

    assert len(desk.said) == 2
    assert desk.created()
    assert desk.entry.value == PLACE


def test_answers_to_others_are_not_taken() -> None:
    desk = Desk()

    assert not desk.created()
    assert not desk.promotions.failed(CreateFailed(X, "full", ""))
