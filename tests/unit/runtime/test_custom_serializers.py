"""Custom serializers without a cluster: two processes are played by forgetting in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nbray.model.errors import SerializationError
from nbray.runtime import custom_serializers
from nbray.runtime.serialization import deserialize, serialize


class Door:
    """Cannot be pickled."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()


class Labelled(np.ndarray[Any, Any]):
    label = ""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    custom_serializers.forget_all()


def returned(value: Any) -> Any:
    return deserialize(serialize(value).to_bytes())


def register_door() -> None:
    custom_serializers.register(Door, lambda door: door.number, Door)


def test_a_value_anywhere_inside_another_is_written_and_read_by_the_users_functions() -> None:
    register_door()

    again = returned({"doors": [Door(1), Door(2)]})["doors"]

    assert [type(door) for door in again] == [Door, Door]
    assert [door.number for door in again] == [1, 2]


def test_a_value_carries_what_its_reader_needs() -> None:
    register_door()
    data = serialize([Door(1), Door(2)]).to_bytes()

    custom_serializers.forget_all()

    assert [door.number for door in deserialize(data)] == [1, 2]


def test_it_wins_over_what_the_pickler_knows_of_arrays() -> None:
    custom_serializers.register(
        Labelled,
        lambda array: (array.view(np.ndarray), array.label),
        lambda parts: label(parts[0].view(Labelled), parts[1]),
    )
    array = label(np.arange(5).view(Labelled), "five")

    again = returned([array])[0]

    assert type(again) is Labelled
    assert again.label == "five"
    assert again.tolist() == [0, 1, 2, 3, 4]
    assert not again.flags.writeable


def label(array: Any, text: str) -> Any:
    array.label = text
    return array


def test_subclasses_travel_in_their_own_way() -> None:
    class Gate(Door):
        def __reduce__(self) -> Any:
            return Gate, (self.number + 100,)

    register_door()

    assert returned(Gate(1)).number == 101


def test_the_default_comes_back_and_is_not_registered_in_vain() -> None:
    custom_serializers.register(Door, None, None)
    assert custom_serializers.records() == ()

    register_door()
    custom_serializers.register(Door, None, None)

    with pytest.raises(SerializationError, match="lock"):
        serialize(Door(1))


def test_a_registration_that_travelled_is_used_to_write() -> None:
    register_door()
    records = custom_serializers.records()
    custom_serializers.forget_all()
    with pytest.raises(SerializationError):
        serialize(Door(1))

    for record in records:
        custom_serializers.learn(tuple(record))

    assert returned(Door(7)).number == 7
    assert custom_serializers.records() == records


def test_an_older_registration_that_comes_late_undoes_nothing() -> None:
    custom_serializers.register(Door, lambda door: door.number, lambda _: "old")
    old = custom_serializers.records()
    custom_serializers.register(Door, lambda door: door.number, lambda _: "new")
    new = custom_serializers.records()
    custom_serializers.forget_all()

    for record in (*new, *old):
        custom_serializers.learn(record)

    assert returned(Door(1)) == "new"


def test_values_written_before_a_new_registration_are_read_by_the_old_one() -> None:
    custom_serializers.register(Door, lambda door: door.number, lambda _: "old", class_id="Door")
    data = serialize(Door(1)).to_bytes()
    custom_serializers.register(Door, lambda door: door.number, lambda _: "new", class_id="Door")

    assert deserialize(data) == "old"
    assert returned(Door(1)) == "new"


def test_who_depends_on_registrations_hears_of_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    monkeypatch.setattr(custom_serializers, "on_change", [lambda: heard.append(1)])

    register_door()
    custom_serializers.learn(custom_serializers.records()[0])

    assert heard == [1]


def test_a_serializer_that_fails_is_a_typed_error_in_both_directions() -> None:
    def refuse(_: Any) -> Any:
        raise ValueError("this one is locked")

    custom_serializers.register(Door, refuse, Door)
    with pytest.raises(SerializationError, match="this one is locked"):
        serialize([Door(1)], root="args[0]")

    custom_serializers.register(Door, lambda door: door.number, refuse)
    with pytest.raises(SerializationError, match="this one is locked"):
        returned(Door(1))
