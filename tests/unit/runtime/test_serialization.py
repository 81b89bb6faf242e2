"""Values come back equal and of exactly their type; arrays as read-only views of the bytes."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import enum
import fnmatch
import functools
import io
import math
import re
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.model.errors import RayConnectionError, SerializationError
from nbray.runtime import pickling
from nbray.runtime.layout import BUFFERED, ERROR, PLAIN
from nbray.runtime.serialization import (
    deserialize,
    deserialize_outlined,
    outline_of,
    serialize,
    serialize_args,
    set_reference_hooks,
    value_kind,
)

ROOT = Path(__file__).resolve().parents[3]


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Tagged(np.ndarray[Any, Any]):
    pass


Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024  (untyped is what is tested)


def returned(value: Any) -> Any:
    return deserialize(serialize(value).to_bytes())


# --- exact types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**64, -(10**400),
        1.5, math.inf, 2j, "", "é\u2028\0", "\ud800", b"", b"\0." * 9,
        bytearray(b"ab"), [], [1, "a", None], (), (1, (2, [3])), {1, 2}, frozenset({1}), {"a": {1: (2,)}},
        range(3), slice(1, 2), Ellipsis, NotImplemented, int, dict, type(None), Color.RED, Pair(1, 2),
        Point(1, [2]),
        collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]),
        collections.deque([1, 2], maxlen=3),
        collections.Counter("aab"), re.compile("a+", re.DOTALL), np.float32(1.5), np.int64(3), np.bool_(True),
        np.dtype("f4"), np.datetime64("2020-01-01"),
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    again = returned(value)

    assert type(again) is type(value)
    assert again == value


def test_settings_of_containers_come_back() -> None:
    assert returned(collections.deque([1], maxlen=3)).maxlen == 3
    assert returned(collections.defaultdict(list)).default_factory is list


def test_nan_and_negative_zero_keep_their_bits() -> None:
    assert math.isnan(returned(math.nan))
    assert math.copysign(1, returned(-0.0)) == -1
    assert math.copysign(1, returned([{"a": -0.0}])[0]["a"]) == -1


def test_a_text_stream_keeps_its_position() -> None:
    stream = io.StringIO("one\ntwo\n")
    stream.readline()

    assert returned(stream).readline() == "two\n"


def test_a_value_that_contains_itself_comes_back_with_its_cycle() -> None:
    value: list[Any] = [1]
    value.append({"self": value})

    again = returned(value)

    assert again[1]["self"] is again


def test_lambdas_and_closures_come_back_working() -> None:
    factor = 3

    assert returned(lambda x: x * factor)(5) == 15


def test_code_keeps_the_name_of_its_file_so_that_tracebacks_show_lines() -> None:
    again = returned(lambda: 1)

    assert again.__code__.co_filename == __file__


def test_local_classes_of_one_name_stay_apart() -> None:
    def make(number: int) -> Any:
        class Local:
            n = number

        return Local()

    one, two = returned([make(1), make(2)])

    assert (one.n, two.n) == (1, 2)
    assert type(one) is not type(two)


def test_local_namedtuple_enum_and_dataclass_are_the_same_class_again() -> None:
    local = collections.namedtuple("local", "a b")  # noqa: PYI024
    shade = enum.Enum("shade", "DARK")

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        a: int

    again = returned([local(1, 2), shade.DARK, Frozen(3)])

    assert again == [local(1, 2), shade.DARK, Frozen(3)]
    assert [type(v) for v in again] == [local, shade, Frozen]
    assert again[1] is shade.DARK


def test_an_exception_inside_a_value_comes_back_without_its_constructor() -> None:
    class OddError(ValueError):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")
            self.code = code

    again = returned({"error": OddError(code=7)})["error"]

    assert type(again) is OddError
    assert str(again) == "code 7"
    assert again.code == 7


def test_a_reducer_that_the_user_registered_is_used() -> None:
    class Handle:
        pass

    copyreg.pickle(Handle, lambda handle: (int, ("7",)))  # type: ignore[arg-type, return-value]
    try:
        assert returned([Handle()]) == [7]
    finally:
        del copyreg.dispatch_table[Handle]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values)
def test_any_nest_of_builtins_comes_back(value: Any) -> None:
    assert returned(value) == value


@given(st.lists(values, max_size=4).map(tuple), st.dictionaries(st.text(), values, max_size=4))
def test_arguments_come_back_as_the_pair_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert deserialize(serialize_args(args, kwargs).to_bytes()) == (args, kwargs)


# --- arrays ------------------------------------------------------------------------------------------

ARRAYS = {
    "vector": np.arange(10.0),
    "matrix": np.arange(12).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": np.arange(12)[::2],
    "reversed": np.arange(12)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)),
    "zero-dimensional": np.array(3.5),
    "empty": np.ones((0, 3)),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "records": np.zeros(3, [("a", "i4"), ("b", "f8")]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "times": np.array([[1], [2]], "m8[s]"),
    "strided dates": np.arange(6).astype("M8[D]")[::2],
    "big endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=list(ARRAYS))
def test_an_array_comes_back_equal_read_only_and_uncopied(array: Any) -> None:
    data = serialize([array]).to_bytes()

    (again,) = deserialize(data)

    assert type(again) is np.ndarray
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    np.testing.assert_array_equal(again, array)
    assert not again.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        again.setflags(write=True)
    assert not array.size or np.shares_memory(again, np.frombuffer(data, np.uint8))


def test_fortran_order_is_kept() -> None:
    assert returned(ARRAYS["fortran"]).flags.f_contiguous


def test_arrays_of_objects_and_subclasses_keep_their_type() -> None:
    objects = np.array([1, "a", None, [2]], dtype=object)
    tagged = np.arange(3).view(Tagged)
    masked = np.ma.array([1, 2, 3], mask=[False, True, False])

    again = returned([objects, tagged, masked])

    assert again[0].tolist() == [1, "a", None, [2]]
    assert type(again[1]) is Tagged
    assert again[1].tolist() == [0, 1, 2]
    assert again[2].mask.tolist() == [False, True, False]


class Noted(np.ndarray[Any, Any]):
    """As NumPy's documentation teaches it."""

    note = "of the class"

    def __array_finalize__(self, obj: Any) -> None:
        if obj is not None:
            self.note = getattr(obj, "note", "none")


class WithOwnWay(np.ndarray[Any, Any]):
    def __reduce__(self) -> Any:
        return WithOwnWay.remade, (self.tolist(),)

    @staticmethod
    def remade(items: list[int]) -> Any:
        return np.array([10 * item for item in items]).view(WithOwnWay)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4)[::2].view(Noted),
        np.array(["2020-01-01"], dtype="M8[D]").view(Tagged),
        np.rec.array([(1, 2.5), (2, 3.5)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
    ids=["finalized", "dates", "records"],
)
def test_a_subclass_of_array_without_a_way_of_its_own_comes_back_read_only_and_uncopied(array: Any) -> None:
    data = serialize([array]).to_bytes()

    again = deserialize(data)[0]

    assert type(again) is type(array)
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    assert not again.flags.writeable
    assert np.shares_memory(again, np.frombuffer(data, np.uint8))


def test_a_memory_map_comes_back_as_an_array_of_its_class(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "file", dtype=np.int16, mode="w+", shape=(5,))
    mapped[:] = 7

    again = returned(mapped)

    assert type(again) is np.memmap
    assert again.tolist() == [7] * 5
    assert not again.flags.writeable


def test_a_subclass_of_array_keeps_its_own_way() -> None:
    again = returned(np.array([1, 2]).view(WithOwnWay))

    assert type(again) is WithOwnWay
    assert again.tolist() == [10, 20]


def test_in_band_arrays_can_be_written_to() -> None:
    again = deserialize(serialize(np.arange(3), in_band=True).to_bytes())

    again[0] = 7

    assert again.tolist() == [7, 1, 2]


def test_the_memory_of_a_value_is_not_copied_before_it_is_written() -> None:
    array = np.zeros(1000)

    value = serialize({"a": array})
    array[:] = 1
    target = bytearray(value.size_bytes)
    value.write_into(memoryview(target))

    assert deserialize(bytes(target))["a"].tolist() == [1] * 1000
    assert array.nbytes < value.size_bytes < array.nbytes + 500


def test_one_array_that_is_met_twice_is_written_once() -> None:
    array = np.zeros(1000)

    value = serialize([array, array])

    again = deserialize(value.to_bytes())
    assert value.size_bytes < 2 * array.nbytes
    assert again[0] is again[1]


def test_a_memoryview_comes_back_with_its_shape_and_read_only() -> None:
    grid = memoryview(bytes(range(24))).cast("i", (2, 3))

    again = returned(grid)

    assert type(again) is memoryview
    assert again.readonly
    assert (again.format, again.shape) == ("i", (2, 3))
    assert again.tolist() == grid.tolist()
    assert returned(memoryview(b"abcdef")[::2]).tobytes() == b"ace"


def test_a_store_wraps_all_buffers_at_once_with_what_keeps_it_alive() -> None:
    value = serialize([np.arange(4), np.arange(3.0)])
    arena = np.frombuffer(value.to_bytes(), np.uint8)
    wrapped: list[list[tuple[int, int]]] = []

    def wrap(extents: list[tuple[int, int]]) -> list[Any]:
        wrapped.append(extents)
        return [arena[offset : offset + length] for offset, length in extents]

    again = deserialize(arena, wrap_buffers=wrap)

    assert [[length for _, length in extents] for extents in wrapped] == [[32, 24]]
    assert again[0].tolist() == [0, 1, 2, 3]
    assert np.shares_memory(again[1], arena)
    assert not again[1].flags.writeable


@pytest.mark.parametrize("value", [1, "text", [1, 2], {"a": (1,)}], ids=repr)
def test_a_value_without_buffers_needs_no_wrapping_in_a_store(value: Any) -> None:
    arena = memoryview(serialize(value).to_bytes())

    assert deserialize(arena, wrap_buffers=pytest.fail) == value  # type: ignore[arg-type]


# --- kinds, references, failures -----------------------------------------------------------------------


def test_the_last_byte_tells_values_from_errors() -> None:
    assert serialize([1]).to_bytes()[-1] == PLAIN
    assert serialize(np.arange(3)).to_bytes()[-1] == BUFFERED
    assert value_kind(b"N.") == "value"
    assert value_kind(serialize(np.arange(3)).to_bytes()) == "value"
    assert value_kind(b"..." + bytes([ERROR])) == "error"


class Reference:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickling, "_reference_type", None)
    monkeypatch.setattr(pickling, "_reduce_reference", None)
    set_reference_hooks(Reference, lambda ref: (Reference, (ref.number,)))


@pytest.mark.usefixtures("hooked")
def test_references_inside_are_listed_in_order_and_come_back() -> None:
    one, two = Reference(1), Reference(2)

    value = serialize({"a": [two], "b": (one, two)})

    assert value.refs == [two, one]
    assert deserialize(value.to_bytes()) == {"a": [two], "b": (one, two)}
    assert serialize_args((one,), {"k": [two]}).refs == [one, two]
    assert serialize([1]).refs == []


@pytest.mark.usefixtures("hooked")
def test_a_reference_that_cannot_leave_says_so_itself() -> None:
    def refuse(ref: Reference) -> Any:
        raise RayConnectionError

    set_reference_hooks(Reference, refuse)

    with pytest.raises(RayConnectionError):
        serialize([Reference(1)])


def test_a_missing_module_is_named_when_a_value_is_read() -> None:
    data = b"cno_such_module\nThing\n."

    with pytest.raises(SerializationError, match="No module named 'no_such_module'") as caught:
        deserialize(data)

    assert caught.value.reading


@pytest.mark.parametrize("data", [b"", b"B", b"\xff" * 40 + b"B", b"garbage.", b"N" + b"E"])
def test_damaged_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(SerializationError):
        deserialize(data)


def test_importing_serialization_does_not_import_numpy() -> None:
    code = "import sys, nbray.runtime.serialization, nbray.runtime.task_errors; print('numpy' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)

    assert shown.stdout == "False\n"


# --- a driver's own classes -------------------------------------------------------------------------------

WORKER = """
import sys
from nbray.runtime.serialization import deserialize, serialize
from nbray.runtime.task_errors import serialize_error
function = deserialize(sys.stdin.buffer.read())
try:
    data = serialize(function()).to_bytes()
except Exception as error:
    data = serialize_error(error, task_name="f", pid=1)
sys.stdout.buffer.write(data)
"""

DRIVER = """
import dataclasses, subprocess, sys
from nbray.runtime.serialization import deserialize, serialize, value_kind
from nbray.runtime.task_errors import deserialize_error

GREETING = "hello"

@dataclasses.dataclass
class Point:
    x: int
    seen = 0
    def greet(self):
        return GREETING

class Failure(Exception):
    def __init__(self, code, *, why):
        super().__init__(f"{why} ({code})")
        self.code = code

def call(function):
    sent = serialize(function).to_bytes()
    worker = [sys.executable, "-c", WORKER]
    data = subprocess.run(worker, input=sent, stdout=subprocess.PIPE, check=True).stdout
    return deserialize(data) if value_kind(data) == "value" else deserialize_error(data)
"""


def in_a_driver(story: str, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(f"WORKER = {WORKER!r}\n{DRIVER}\n{textwrap.dedent(story)}\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_instance_of_a_main_class_comes_back_as_the_drivers_own_class(tmp_path: Path) -> None:
    in_a_driver(
        """
        point = call(lambda: Point(3))
        assert type(point) is Point and point == Point(3)
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_a_result_leaves_the_drivers_class_as_it_was(tmp_path: Path) -> None:
    in_a_driver(
        """
        def work():
            Point.seen = 99
            return Point(1)
        greet = Point.greet
        point = call(work)
        assert Point.greet is greet and Point.seen == 0
        GREETING = "changed"
        assert point.greet() == "changed"
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_a_main_exception_is_caught_in_the_driver_by_its_own_class(tmp_path: Path) -> None:
    in_a_driver(
        """
        def fail():
            raise Failure(7, why="disk")
        try:
            raise call(fail)
        except Failure as error:
            assert type(error).__name__ == "RayTaskError(Failure)" and error.code == 7
            assert str(error.__cause__) == "disk (7)"
        """,
        tmp_path,
    )


def test_a_class_that_came_in_a_pickle_takes_the_state_of_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Local:
        level = 1

    monkeypatch.setattr(pickling, "_received", {Local})
    make: Callable[[], Any] = Local
    data = serialize(make()).to_bytes()
    Local.level = 2

    assert deserialize(data).level == 1


# --- outlines ---------------------------------------------------------------------------------------------


def test_value_is_read_by_its_outline_as_without_it() -> None:
    value: dict[str, Any] = {"a": np.arange(1_000.0), "b": [np.ones(3, np.uint8), "text"]}
    packed = serialize(value)
    whole = packed.to_bytes()

    outline = packed.outline()
    assert outline is not None
    assert outline_of(whole) == outline
    buffers = [memoryview(whole)[at : at + length] for at, length in outline.extents]
    found = deserialize_outlined(outline.pickled, buffers)

    assert found["b"][1] == "text"
    assert np.array_equal(found["a"], value["a"])
    assert np.array_equal(found["b"][0], value["b"][0])


def test_value_without_buffers_and_one_with_a_long_pickle_have_no_outline() -> None:
    assert serialize([1, 2]).outline() is None
    assert outline_of(serialize([1, 2]).to_bytes()) is None

    long = serialize(("x" * 10_000, np.arange(1_000.0)))
    assert long.outline() is None
    assert outline_of(long.to_bytes()) is None


# --- what NumPy and the standard library would copy or refuse --------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [[("a", "i4"), ("t", "M8[s]")], [("t", "m8[D]", (2,))], [("deep", [("t", "M8[us]")])]],
    ids=["field", "array in a field", "deep"],
)
def test_records_with_dates_come_back_uncopied(dtype: Any) -> None:
    array = np.zeros(3, dtype)
    data = serialize([array]).to_bytes()

    again = deserialize(data)[0]

    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)
    assert not again.flags.writeable
    assert np.shares_memory(again, np.frombuffer(data, np.uint8))


class OwnMasked(np.ma.MaskedArray):
    pass


@pytest.mark.parametrize(
    "array",
    [
        np.ma.array([1.0, 2.0, 3.0], mask=[True, False, False], fill_value=-1.0),
        np.ma.array([1, 2], hard_mask=True),
        np.ma.array(["2020-01-01", "NaT"], dtype="M8[D]", mask=[False, True]),
        np.ma.array(
            np.zeros(2, [("a", "i4"), ("b", "f8")]), mask=np.array([(1, 0), (0, 1)], [("a", "?"), ("b", "?")])
        ),
        np.ma.array(np.ones((2, 3)), mask=False)[:, ::2],
        np.ma.array([1, 2], mask=[False, True]).view(OwnMasked),
    ],
    ids=["filled", "hard, without a mask", "dates", "records", "strided", "own class"],
)
def test_a_masked_array_comes_back_uncopied_with_all_that_it_is(array: Any) -> None:
    data = serialize([array]).to_bytes()

    again = deserialize(data)[0]

    assert type(again) is type(array)
    assert again.dtype == array.dtype
    assert again.tolist() == array.tolist()
    assert (again.mask is np.ma.nomask) == (array.mask is np.ma.nomask)
    assert repr(again.fill_value) == repr(array.fill_value)  # NaT is unequal to itself
    assert (again.hardmask, again.baseclass) == (array.hardmask, array.baseclass)
    assert np.shares_memory(again.data, np.frombuffer(data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        again[0] = array[1]
    again.fill_value = array.fill_value


def test_masked_arrays_of_objects_and_the_masked_constant_come_back() -> None:
    objects: Any = np.ma.array([1, [2]], dtype=object, mask=[True, False])
    row = np.ma.array(np.zeros(2, [("a", "i4")]), mask=np.array([(1,), (0,)], [("a", "?")]))[0]

    again = returned([objects, np.ma.masked, row])

    assert again[0].tolist() == [None, [2]]
    assert again[1] is np.ma.masked
    assert type(again[2]) is type(row)
    assert again[2].mask == row.mask


def test_a_weak_dictionary_comes_back_with_what_is_in_it() -> None:
    weak, key = returned((weakref.WeakKeyDictionary({Color: 5}), Color))

    assert dict(weak) == {key: 5}


def test_a_cached_function_that_can_be_imported_goes_by_its_name() -> None:
    cached = fnmatch._compile_pattern  # type: ignore[attr-defined]

    assert returned(cached) is cached


def test_a_local_function_with_a_cache_comes_back_with_an_empty_one() -> None:
    @functools.lru_cache(maxsize=5)
    def doubled(number: int) -> int:
        return 2 * number

    doubled(1)
    again = returned(doubled)

    assert again(4) == 8
    assert again.cache_info().maxsize == 5
    assert again.cache_info().currsize == 1
