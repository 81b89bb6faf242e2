"""``register_custom_serializer`` reaches every worker that needs it, in time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.drivers import driver
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


class Door:
    """Cannot be pickled: it holds a lock."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()


class Labelled(np.ndarray[Any, Any]):
    label = ""


def register_door() -> None:
    nbray.register_custom_serializer(Door, serializer=lambda door: door.number, deserializer=Door)


@nbray.remote
def make(number: int) -> Door:
    return Door(number)


@nbray.remote
def number_of(door: Door) -> int:
    return door.number


def test_values_go_everywhere_once_their_class_is_registered() -> None:
    with pytest.raises(nbray.SerializationError, match="lock"):
        nbray.put(Door(1))

    register_door()

    door = nbray.get(make.remote(1))
    assert (type(door), door.number) == (Door, 1)
    assert nbray.get(number_of.remote(make.remote(2))) == 2
    assert nbray.get(number_of.remote(Door(3))) == 3
    assert [d.number for d in nbray.get(nbray.put({"doors": [Door(4), Door(5)]}))["doors"]] == [4, 5]


def test_workers_that_run_and_workers_that_come_know_it(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @nbray.remote
    def meet(number: int) -> tuple[int, Door]:
        (tmp_path / f"here {number}").touch()
        while not go_on.exists():
            time.sleep(0.002)
        return os.getpid(), Door(number)

    def all_at_once() -> dict[int, Door]:
        go_on.unlink(missing_ok=True)
        for path in tmp_path.glob("here *"):
            path.unlink()
        refs = [meet.options(num_cpus=0).remote(number) for number in range(4)]
        until(lambda: len(list(tmp_path.glob("here *"))) == 4, "four workers run")
        go_on.touch()
        return dict(nbray.get(refs))

    go_on.touch()
    with pytest.raises(nbray.SerializationError):  # a worker exists, and cannot do it yet
        nbray.get(meet.remote(0))

    register_door()

    doors = all_at_once()
    assert len(doors) == 4
    assert sorted(door.number for door in doors.values()) == [0, 1, 2, 3]


def test_tasks_of_tasks_know_it_too() -> None:
    @nbray.remote
    def outer() -> list[Door]:
        @nbray.remote
        def inner(door: Door) -> Door:
            return Door(door.number + 1)

        return nbray.get([inner.remote(Door(1)), make.remote(5)])

    register_door()

    assert [door.number for door in nbray.get(outer.remote())] == [2, 5]


def test_task_may_register_for_itself_and_its_children() -> None:
    @nbray.remote
    def outer() -> int:
        nbray.register_custom_serializer(Door, serializer=lambda door: door.number, deserializer=Door)
        door: Door = nbray.get(make.remote(6))
        return door.number

    assert nbray.get(outer.remote()) == 6


def test_it_wins_over_the_default_for_subclasses_of_array_and_keeps_views() -> None:
    nbray.register_custom_serializer(
        Labelled,
        serializer=lambda array: (array.view(np.ndarray), array.label),
        deserializer=lambda parts: labelled(*parts),
        class_id="labelled",
    )

    @nbray.remote
    def turned(array: Labelled) -> Labelled:
        return labelled(array[::-1].view(np.ndarray), array.label.upper())

    array = labelled(np.arange(50_000), "name")
    ref = nbray.put(array)
    stored = nbray.get(ref)
    answer = nbray.get(turned.remote(ref))

    assert (type(stored), stored.label, int(stored[-1])) == (Labelled, "name", 49_999)
    assert (type(answer), answer.label, int(answer[0])) == (Labelled, "NAME", 49_999)
    assert np.shares_memory(stored, nbray.get(ref))
    assert not stored.flags.writeable


def labelled(array: Any, label: str) -> Labelled:
    view: Labelled = array.view(Labelled)
    view.label = label
    return view


def test_later_registration_counts_for_later_tasks_and_the_default_comes_back() -> None:
    class Plain:
        def __init__(self, text: str) -> None:
            self.text = text

    @nbray.remote
    def make_plain() -> Any:
        return Plain("from a task")

    def texts() -> list[str]:
        return [value.text for value in nbray.get([make_plain.remote(), nbray.put(Plain("put"))])]

    assert texts() == ["from a task", "put"]
    for way in ("one", "two"):
        nbray.register_custom_serializer(
            Plain,
            serializer=lambda plain: plain.text,
            deserializer=lambda text, way=way: Plain(f"{text}, {way}"),  # type: ignore[misc]
        )
        assert texts() == [f"from a task, {way}", f"put, {way}"]
    nbray.register_custom_serializer(Plain, use_pickle=True)
    assert texts() == ["from a task", "put"]
    nbray.register_custom_serializer(Plain, use_dict=True)
    assert texts() == ["from a task", "put"]


def test_earlier_global_is_still_the_one_that_was_pickled_at_the_first_call() -> None:
    with driver("""
        import threading
        class Door:
            def __init__(self, number):
                self.number, self.lock = number, threading.Lock()
        FACTOR = 1
        @nbray.remote
        def make(number):
            return Door(FACTOR * number)
        nbray.init(num_cpus=1)
        nbray.get(make.options(num_returns=0).remote(1) or [])
        FACTOR = 100
        nbray.register_custom_serializer(Door, serializer=lambda d: d.number, deserializer=lambda n: Door(n))
        door = nbray.get(make.remote(2))
        tell([type(door) is Door, door.number])
    """) as running:
        assert running.told() == [True, 2]
        assert running.ended() == 0


def test_it_is_forgotten_with_the_session() -> None:
    register_door()
    assert nbray.get(make.remote(1)).number == 1

    nbray.shutdown()
    nbray.init(num_cpus=1)

    with pytest.raises(nbray.SerializationError, match="lock"):
        nbray.get(make.remote(1))
    with pytest.raises(nbray.SerializationError, match="lock"):
        nbray.put(Door(1))


@pytest.mark.parametrize(("arguments", "error"), [
    ({}, ValueError), ({"use_pickle": True, "use_dict": True}, ValueError),
    ({"serializer": len}, ValueError), ({"deserializer": len}, ValueError),
    ({"serializer": len, "deserializer": len, "use_pickle": True}, ValueError),
    ({"serializer": 1, "deserializer": len}, TypeError),
    ({"cls": Door(1), "use_dict": True}, TypeError), ({"cls": list, "use_dict": True}, TypeError),
    ({"serializer": threading.Lock().acquire, "deserializer": len}, nbray.SerializationError),
])  # fmt: skip
def test_wrong_registrations_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        nbray.register_custom_serializer(**{"cls": Door, **arguments})

    with pytest.raises(nbray.SerializationError, match="lock"):  # and change nothing
        nbray.put(Door(1))
