"""A store that is larger than the memory there is: what is in it leaves for what comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.store.server import NO_SPILLING, SpillPlan
from nbray.wire.base import Message
from nbray.wire.object_messages import CreateFailed, ObjectCreated, ObjectsYielded, RecallObjects
from tests.support.store_node import MIB, Node, oid


class Poor(Node):
    """A store of 64 MiB on a machine that has 8. Its processes yield all, unless they are ``busy``."""

    busy = False

    @property
    def available(self) -> int:
        return max(0, 8 * MIB - self.memory())

    @available.setter
    def available(self, _value: int) -> None:
        """The machine decides."""

    def wish(self, n: int, size_bytes: int) -> list[Message]:
        """Ask for space, and give what is asked for in return."""
        at = len(self.sent)
        answers: list[Message] = []
        self.create(n, size_bytes)
        for _ in range(40):
            while at < len(self.sent):
                process, message = self.sent[at]
                at += 1
                if not isinstance(message, RecallObjects):
                    answers.append(message)
                elif not self.busy:
                    self.store.handle(process, ObjectsYielded(message.number, message.object_ids))
            self.pass_time(0.05)
        return answers


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Poor]:
    node = Poor(64 * MIB, SpillPlan(tmp_path))
    yield node
    node.store.close()


def test_objects_go_to_the_disk_for_those_that_need_their_memory(node: Poor) -> None:
    for n in range(3):
        node.stored(n, 2 * MIB)

    (created,) = node.wish(3, 4 * MIB)

    assert isinstance(created, ObjectCreated)
    assert node.store.stats()["spilled"] >= 1
    assert node.memory() <= 8 * MIB


def test_without_a_disk_it_is_refused_at_once(tmp_path: Path) -> None:
    node = Poor(64 * MIB, NO_SPILLING)
    for n in range(3):
        node.stored(n, 2 * MIB)

    (refused,) = node.create(3, 4 * MIB)

    assert isinstance(refused, CreateFailed)
    assert refused.reason == "memory"
    node.store.close()


def test_where_all_is_in_use_it_is_refused_soon_for_want_of_memory(node: Poor) -> None:
    for n in range(3):
        node.stored(n, 2 * MIB)
    node.busy = True

    (refused,) = node.wish(3, 4 * MIB)

    assert isinstance(refused, CreateFailed)
    assert (refused.object_id, refused.reason) == (oid(3), "memory")
    assert "no memory" in refused.text
    assert node.store.stats()["creations_waiting"] == 0


def test_more_than_the_machine_has_is_refused_when_all_has_left(node: Poor) -> None:
    node.stored(0, 2 * MIB)

    (refused,) = node.wish(1, 12 * MIB)

    assert isinstance(refused, CreateFailed)
    assert refused.reason == "memory"
    assert node.store.stats()["spilled"] == 1
