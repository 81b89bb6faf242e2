"""References inside values of every kind, and every way that such a value can go.

Called by:  integration tests of references.
Imports:    nbray; pandas when its column is made.
Never:      keeps a reference.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import nbray


@dataclasses.dataclass
class Point:
    x: Any

    def look(self) -> Any:
        return self.x


class Slotted:
    __slots__ = ("ref",)
    ref: Any


class RefError(Exception):
    def __init__(self, ref: Any) -> None:
        super().__init__("no")
        self.ref = ref


class Guarded:
    """Cannot be pickled without its serializer."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref
        self.lock = threading.Lock()


def slotted(ref: Any) -> Slotted:
    value = Slotted()
    value.ref = ref
    return value


def list_in_itself(ref: Any) -> list[Any]:
    value = [ref]
    value.append(value)
    return value


def object_in_itself(ref: Any) -> Point:
    value = Point([ref])
    value.x.append(value)
    return value


def with_default(ref: Any) -> Callable[[], Any]:
    def function(ref: Any = ref) -> Any:
        return ref

    return function


def local_class(ref: Any) -> type:
    class Local:
        kept = ref

    return Local


def array_of_objects(ref: Any) -> Any:
    array = np.empty(2, dtype=object)
    array[0] = ref
    return array


def column_of_objects(ref: Any) -> Any:
    import pandas as pd

    return pd.DataFrame({"numbers": np.arange(2.0), "refs": pd.Series([ref, None], dtype=object)})


class Kind(NamedTuple):
    """How to make a value around a reference, and how to find it in there."""

    make: Callable[[Any], Any]
    find: Callable[[Any], Any]


KINDS = {
    "list": Kind(lambda ref: [ref], lambda value: value[0]),
    "key of a dict": Kind(lambda ref: {ref: 1}, lambda value: next(iter(value))),
    "set": Kind(lambda ref: {ref}, lambda value: next(iter(value))),
    "deque": Kind(lambda ref: collections.deque([ref]), lambda value: value[0]),
    "default factory": Kind(lambda ref: collections.defaultdict(lambda: ref), lambda value: value["missing"]),
    "dataclass": Kind(Point, lambda value: value.x),
    "slot": Kind(slotted, lambda value: value.ref),
    "default argument": Kind(with_default, lambda value: value()),
    "closure": Kind(lambda ref: lambda: ref, lambda value: value()),
    "remote function": Kind(
        lambda ref: nbray.remote(with_default(ref)), lambda value: value._calls.definition.function()
    ),
    "partial": Kind(lambda ref: functools.partial(Point, ref), lambda value: value().x),
    "bound method": Kind(lambda ref: Point(ref).look, lambda value: value()),
    "attribute of a class": Kind(local_class, lambda value: value.kept),
    "attribute of an exception": Kind(RefError, lambda value: value.ref),
    "argument of an exception": Kind(ValueError, lambda value: value.args[0]),
    "custom serializer": Kind(Guarded, lambda value: value.ref),
    "list in itself": Kind(list_in_itself, lambda value: value[1][0]),
    "object in itself": Kind(object_in_itself, lambda value: value.x[1].x[0]),
    "array of objects": Kind(array_of_objects, lambda value: value[0]),
    "masked array of objects": Kind(
        lambda ref: np.ma.array(array_of_objects(ref), mask=[False, True]), lambda value: value[0]
    ),
    "column of a frame": Kind(column_of_objects, lambda value: value["refs"].iloc[0]),
}
LAST = 29_999


def new_object() -> Any:
    return nbray.put(np.arange(LAST + 1))


def last_of(ref: Any) -> int:
    return int(nbray.get(ref, timeout=10)[-1])


@nbray.remote
def same(value: Any) -> Any:
    return value


@nbray.remote
def make_around(make: Callable[[Any], Any]) -> Any:
    return make(new_object())


@nbray.remote
def read_through(find: Callable[[Any], Any], value: Any) -> int:
    return last_of(find(value))


@nbray.remote
def through_another(value: Any) -> Any:
    return nbray.get(same.remote(value))


WAYS: dict[str, Callable[[Kind], int]] = {
    "put": lambda kind: last_of(kind.find(nbray.get(nbray.put(kind.make(new_object()))))),
    "argument": lambda kind: nbray.get(read_through.remote(kind.find, kind.make(new_object()))),
    "argument that was put": lambda kind: nbray.get(
        read_through.remote(kind.find, nbray.put(kind.make(new_object())))
    ),
    "result": lambda kind: last_of(kind.find(nbray.get(same.remote(kind.make(new_object()))))),
    "made by a worker": lambda kind: last_of(kind.find(nbray.get(make_around.remote(kind.make)))),
    "through a task of a task": lambda kind: last_of(
        kind.find(nbray.get(through_another.remote(kind.make(new_object()))))
    ),
    "from worker to worker": lambda kind: nbray.get(
        read_through.remote(kind.find, same.remote(make_around.remote(kind.make)))
    ),
}


def go_all_ways(name: str) -> None:
    """A value of this kind goes every way, and its reference leads to the object at each end."""
    nbray.register_custom_serializer(
        Guarded, serializer=lambda g: [g.ref], deserializer=lambda r: Guarded(*r)
    )
    for way, go in WAYS.items():
        assert go(KINDS[name]) == LAST, f"{name}, {way}"
