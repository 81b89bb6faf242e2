"""Values on their way into the store when it refuses, or is gone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from nbray.model.errors import RayletError
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.serialization import serialize
from nbray.store.mapping import Mapping
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    CreateFailed,
    CreateObject,
    UnpinObjects,
)

_ME = b"m" * 8
_OTHER = b"o" * 8
_OBJECT = b"x" * 20


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(lambda: None, lambda: None, lambda _now_s: None)
    loop.start()
    yield loop
    loop.close()


@pytest.fixture
def said() -> list[Message]:
    return []


@pytest.fixture
def objects(loop: Loop, said: list[Message]) -> Objects:
    objects = Objects(loop, _ME, said.append, said.append, lambda _task: None, lambda _task, _error: None)
    objects.attach(cast("Mapping", SimpleNamespace(capacity_bytes=1 << 30)), b"n" * 16)
    return objects


def test_storing_after_the_session_was_lost_does_not_wait(objects: Objects, loop: Loop) -> None:
    # given a session that was lost while a value was pickled
    with loop.lock:
        objects.fail_all(RayletError(node="", why="gone"))

    # when the value is stored, then there is no descriptor, at once
    assert objects.creating.store(_OBJECT, _ME, serialize(bytes(1000), root="value")) is None


def test_a_refused_promotion_is_tried_again_though_nothing_else_is_due(
    objects: Objects, loop: Loop, said: list[Message]
) -> None:
    with loop.lock:
        # given a shared value, for which the store had no room, twice
        ref = objects.own(_OBJECT)
        objects.deliver(_OBJECT, b"value", False)
        objects.share([_OBJECT])
        for _ in range(2):
            objects.promotions.advance()
            loop._deadline_s = None
            objects.on_create_failed(CreateFailed(_OBJECT, "full", ""))

            # when that was said, then another try is due
            assert loop._deadline_s is not None
            objects.promotions.housekeeping()
        objects.promotions.advance()
    assert [type(m) for m in said] == [CreateObject] * 3
    del ref


def test_a_pin_that_came_too_late_is_given_back(objects: Objects, loop: Loop, said: list[Message]) -> None:
    with loop.lock:
        # given an argument that went while the daemon pinned it
        entry = objects.table.borrow_argument(_OBJECT, _OTHER)
        objects.release_arguments([_OBJECT])

        # when the answer comes
        objects.note_pinned([entry])

    # then the pin goes back
    assert said == [UnpinObjects([_OBJECT])]
