"""What travels, and as what it arrives: through the store, as an argument and as a result."""

from __future__ import annotations

import collections
import dataclasses
import io
import pickle
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.drivers import driver
from tests.support.sessions import session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@dataclasses.dataclass
class Point:
    x: int
    y: Any = None


@dataclasses.dataclass(frozen=True)
class Fixed:
    x: int


class Named(typing.NamedTuple):
    left: int
    right: str


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024  (untyped is what is tested)


class Tagged(np.ndarray[Any, Any]):
    pass


class StubbornError(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{why} ({code})")
        self.code = code

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StubbornError) and (other.code, str(other)) == (self.code, str(self))

    __hash__ = None  # type: ignore[assignment]


@nbray.remote
def same(value: Any) -> Any:
    return value


ROWS: list[Any] = [
    0, -1, 2**31, -(2**63), 2**64, -(10**400), True, 0.1, float("inf"), 1j, None,
    "", "é\0🚀", "\ud800", b"", b"\0\xff", bytearray(b"ab"),
    [], (), {}, set(), frozenset(), {1, "a"}, frozenset({(1, 2)}), {"a": {1: (2, [3])}}, [[[[]]]],
    Pair(1, "b"), Named(1, "b"), Point(1, [Point(2)]), Fixed(3),
    collections.OrderedDict(b=1, a=2), collections.defaultdict(list, a=[1]),
    collections.deque([1, 2], maxlen=3), collections.Counter("aab"),
    re.compile(r"(\d+)é", re.IGNORECASE), StubbornError(7, why="full"),
    int, dict, type(None), Point, len, re.compile, collections.OrderedDict,
    np.float32(1.5), np.int64(-3), np.bool_(True), np.complex64(1j), np.str_("x"),
    np.datetime64("2020-01-01"),
    np.dtype([("a", "i4"), ("b", "f8")]), range(1, 9, 2), slice(1, None), Ellipsis,
]  # fmt: skip


@pytest.mark.parametrize("value", ROWS, ids=lambda value: f"{type(value).__name__} {value!r}"[:40])
def test_value_arrives_equal_and_of_exactly_its_type(value: Any) -> None:
    stored = nbray.put(value)

    for arrived in nbray.get([stored, same.remote(value), same.remote(stored)]):
        assert type(arrived) is type(value)
        assert arrived == value


def test_settings_of_containers_and_streams_survive() -> None:
    stream = io.StringIO("one\ntwo\n")
    stream.readline()

    counts, queue, text = nbray.get(
        same.remote((collections.defaultdict(list), collections.deque([1], maxlen=3), stream))
    )

    assert counts["new"] == []
    assert queue.maxlen == 3
    assert text.read() == "two\n"


def test_value_that_contains_itself_survives() -> None:
    value: dict[str, Any] = {"list": [1]}
    value["list"].append(value)
    point = Point(1)
    point.y = [point]

    looped, again = nbray.get([same.remote(value), same.remote(point)])

    assert looped["list"][1] is looped
    assert again.y[0] is again


def test_lambdas_closures_and_local_classes_of_one_name_survive() -> None:
    def make(number: int) -> Any:
        class Local:
            n = number

            def squared(self) -> int:
                return number * self.n

        return Local

    one, two = make(1), make(2)

    answers = nbray.get([same.remote((cls, cls())) for cls in (one, two)])
    doubled = nbray.get(same.remote(lambda x: make(3)().squared() * x))

    assert [(cls.n, instance.squared()) for cls, instance in answers] == [(1, 1), (2, 4)]
    assert [cls for cls, _ in answers] == [one, two]
    assert all(type(instance) is cls for cls, instance in answers)
    assert doubled(2) == 18


@pytest.mark.parametrize("length", [3, 50_000], ids=["inline", "in the store"])
@pytest.mark.parametrize("wrap", [
    lambda a: a, lambda a: [a], lambda a: {"deep": [({"er": a},)]}, lambda a: Point(1, Point(2, a)),
], ids=["bare", "list", "nest", "object"])  # fmt: skip
@pytest.mark.parametrize("kind", [np.ndarray, Tagged], ids=["array", "subclass"])
def test_arrays_at_any_depth_are_read_only_everywhere(
    length: int, wrap: Callable[[Any], Any], kind: Any
) -> None:
    value = wrap(np.arange(length).view(kind))

    @nbray.remote
    def try_to_write(value: Any) -> str:
        try:
            array_in(value)[0] = 1
        except ValueError as exc:
            return str(exc)
        return "written"

    for arrived in (nbray.get(nbray.put(value)), nbray.get(same.remote(value))):
        array = array_in(arrived)
        assert type(array) is kind
        assert array.tolist() == list(range(length))
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    for argument in (value, nbray.put(value)):
        assert "read-only" in nbray.get(try_to_write.remote(argument))


def array_in(value: Any) -> Any:
    while not isinstance(value, np.ndarray):
        if isinstance(value, Point):
            value = value.y
        else:
            value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


def test_arrays_of_objects_arrive_with_their_objects() -> None:
    array = np.array([1, "a", None, [2], Point(3)], dtype=object)

    assert nbray.get(same.remote(array)).tolist() == array.tolist()


class OwnBuffer:
    """Hands its memory out of band, as pyarrow's buffers do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OwnBuffer, (pickle.PickleBuffer(self.data),)


def test_buffers_of_other_libraries_are_read_where_they_lie() -> None:
    ref = nbray.put(OwnBuffer(bytearray(b"abc" * 100_000)))

    views = [memoryview(nbray.get(ref).data) for _ in range(2)]

    assert bytes(views[0][:6]) == b"abcabc"
    assert views[0].readonly
    assert np.shares_memory(np.asarray(views[0]), np.asarray(views[1]))


def test_columns_of_a_pandas_frame_are_read_where_they_lie() -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": np.arange(100_000.0), "b": np.arange(100_000), "c": ["x"] * 100_000})

    @nbray.remote
    def means(frame: Any) -> Any:
        return frame.groupby("c")[["a", "b"]].mean()

    ref = nbray.put(frame)
    one, other = nbray.get(ref), nbray.get(ref)

    pd.testing.assert_frame_equal(one, frame)
    assert np.shares_memory(one["a"].to_numpy(), other["a"].to_numpy())
    assert not one["a"].to_numpy().flags.writeable
    assert nbray.get(means.remote(ref)).loc["x", "b"] == 49_999.5


def test_classes_of_the_drivers_script_come_back_as_its_own() -> None:
    with driver("""
        import dataclasses, enum
        nbray.init(num_cpus=1)
        @dataclasses.dataclass
        class Point:
            x: int
            shared = []
        class Color(enum.Enum):
            RED = 1
        class Slotted:
            __slots__ = ("x", "__hidden")
            def __init__(self, x):
                self.x = self.__hidden = x
            def both(self):
                return self.x, self.__hidden
        class Failure(Exception):
            pass
        @nbray.remote
        def work(point):
            Point.shared.append(1)     # the worker's own
            return Point(point.x + 1), Color.RED, Point
        @nbray.remote
        def same(value):
            return value, hasattr(value, "__dict__")
        @nbray.remote
        def fail():
            raise Failure("no")
        point, red, cls = nbray.get(work.remote(Point(1)))
        try:
            nbray.get(fail.remote())
        except Failure as exc:
            tell([isinstance(exc, Failure), str(exc.__cause__)])
        slotted, has_dict = nbray.get(same.remote(Slotted(3)))
        tell([type(slotted) is Slotted, slotted.both(), has_dict])
        @dataclasses.dataclass
        class Two:
            __slots__ = "x"
            x: int
        two, has_dict = nbray.get(same.remote(Two(4)))
        tell([two == Two(4), has_dict])
        tell([type(point) is Point, point == Point(2), red is Color.RED, cls is Point, Point.shared])
    """) as running:
        assert running.told() == [True, "no"]
        assert running.told() == [True, [3, 3], False]
        assert running.told() == [True, False]
        assert running.told() == [True, True, True, True, []]
        assert running.ended() == 0
