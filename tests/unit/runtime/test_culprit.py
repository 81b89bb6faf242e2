"""What cannot be pickled is named by the path to it, found with bounded effort."""

from __future__ import annotations

import collections
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from nbray.model.errors import SerializationError
from nbray.runtime import culprit
from nbray.runtime.guard import TerminatedExit
from nbray.runtime.serialization import serialize, serialize_args

LOCK = threading.Lock()
Pair = collections.namedtuple("Pair", "left right")  # noqa: PYI024  (untyped is what is tested)


class Model:
    def __init__(self) -> None:
        self.weights = [1, 2]
        self.lock = LOCK

    def fit(self) -> None:
        pass


class Slotted:
    __slots__ = ("lock", "unset")

    def __init__(self) -> None:
        self.lock = LOCK


class Raising:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def generator() -> Iterator[int]:
    yield 1


def with_closure() -> Callable[[], object]:
    inner = {"lock": LOCK}
    return lambda: inner


def local_class() -> type:
    class Local:
        lock = LOCK

    return Local


def raised_by(value: Any) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        serialize(value, root="result")
    return caught.value


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "result"),
        (generator(), "result"),
        ([0, 1, 2, Model()], "result[3].lock"),
        ({"model": (Model(),)}, "result['model'][0].lock"),
        ({LOCK: 1}, "result.<key <_thread.lock>>"),
        ({1, LOCK}, "result.<item _thread.lock>"),
        (Slotted(), "result.lock"),
        (Pair(1, LOCK), "result.right"),
        (collections.deque([1, LOCK]), "result[1]"),
        (collections.defaultdict(with_closure()), "result.default_factory.<closure>.inner['lock']"),
        (functools.partial(print, LOCK), "result.args[0]"),
        (Model().fit, "result.__self__.lock"),
        (with_closure(), "result.<closure>.inner['lock']"),
        (lambda lock=LOCK: lock, "result.<defaults>[0]"),
        (lambda *, lock=LOCK: lock, "result.<defaults>.lock"),
        (local_class(), "result.lock"),
        (local_class()(), "type(result).lock"),
        (np.array([[1, LOCK]], dtype=object), "result[0][1]"),
        (ValueError("no", LOCK), "result.args[1]"),
        ([Raising(ZeroDivisionError("inside"))], "result[0]"),
    ],
)
def test_the_path_leads_to_the_culprit(value: Any, path: str) -> None:
    assert raised_by(value).path == path


def test_arguments_are_named_by_position_or_keyword() -> None:
    with pytest.raises(SerializationError, match=r"args\[1\]\['model'\]\.lock"):
        serialize_args((1, {"model": Model()}), {})

    with pytest.raises(SerializationError, match=r"kwargs\['model'\]\.lock"):
        serialize_args((1,), {"model": Model()})


def test_the_text_has_the_type_the_reason_and_what_to_do() -> None:
    error = raised_by([LOCK])

    assert error.type_name == "_thread.lock"
    assert "cannot pickle '_thread.lock' object" in str(error)
    assert "Leave it out" in str(error)
    assert isinstance(error, TypeError)
    assert isinstance(error.__cause__, TypeError)


def test_one_culprit_among_many_elements_is_found_by_halving(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []
    original = culprit._Tries.error_of

    def counted(self: culprit._Tries, value: object) -> BaseException | None:
        tries.append(None)
        return original(self, value)

    monkeypatch.setattr(culprit._Tries, "error_of", counted)
    value: list[Any] = [0] * 100_000
    value[77_777] = Model()

    error = raised_by(value)

    assert error.path == "result[77777].lock"
    assert len(tries) < 60


def test_a_list_nested_too_deeply_is_named_as_a_whole() -> None:
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]

    error = raised_by(value)

    assert error.path == "result"
    assert "RecursionError" in error.reason


@pytest.mark.parametrize("failure", [SystemExit(3), GeneratorExit(), MemoryError(), ValueError("no")])
def test_whatever_a_reduce_method_raises_becomes_this_error(failure: BaseException) -> None:
    assert type(failure).__name__ in raised_by(Raising(failure)).reason


@pytest.mark.parametrize("ending", [KeyboardInterrupt, TerminatedExit])
def test_what_ends_the_whole_process_goes_through(ending: type[BaseException]) -> None:
    with pytest.raises(ending):
        serialize(Raising(ending()))


def test_what_ends_the_whole_process_while_the_culprit_is_sought_goes_through() -> None:
    class EndsLater:
        def __reduce__(self) -> Any:
            raise ValueError if next(calls) == 0 else TerminatedExit(143)

    calls = itertools.count()

    with pytest.raises(TerminatedExit):
        serialize(EndsLater())


def test_a_culprit_in_a_cycle_is_found_and_the_search_ends() -> None:
    value: dict[str, Any] = {"lock": LOCK}
    value["self"] = value

    assert raised_by(value).path in ("result['lock']", "result['self']['lock']")


def test_a_class_that_cannot_be_looked_into_is_named_itself() -> None:
    class Opaque:
        def __reduce__(self) -> Any:
            raise ValueError("closed")

        def __getattribute__(self, name: str) -> Any:
            if name in ("__reduce__", "__reduce_ex__", "__class__"):
                return object.__getattribute__(self, name)
            raise RuntimeError(name)

    assert raised_by([Opaque()]).path == "result[0]"
