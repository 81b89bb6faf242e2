"""Decorating functions, before any session: what is refused, and what a remote function shows of itself."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import nbray


@nbray.remote
def area(width: float, height: float = 1.0) -> float:
    """Of a rectangle."""
    return width * height


def test_it_is_called_by_remote_only_and_says_so() -> None:
    with pytest.raises(TypeError, match=r"Remote function area .* area\.remote\("):
        area(1)


def test_it_keeps_name_docstring_and_signature_and_so_does_remote() -> None:
    for shown in (area, area.remote, area.options(num_cpus=2), area.options(num_cpus=2).remote):
        assert getattr(shown, "__name__", "") == "area"
        assert shown.__doc__ == "Of a rectangle."
        assert list(inspect.signature(shown).parameters) == ["width", "height"]
    assert repr(area) == "<remote function area>"


@pytest.mark.parametrize("call", [
    lambda: area.remote(1), lambda: area.options(num_cpus=2).remote(1), lambda: area._remote(args=[1]),
    lambda: area._submit(args=[1]), lambda: area._submit([1], {}, num_cpus=2),
])  # fmt: skip
def test_a_call_before_init_is_a_connection_error_and_a_definition_is_not(call: Callable[[], Any]) -> None:
    with pytest.raises(nbray.RayConnectionError, match=r"nbray\.init"):
        call()


@pytest.mark.parametrize("thing", [5, "f", None, [area], object(), area])
def test_what_is_neither_function_nor_class_is_a_type_error(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"applies to functions, not to"):
        nbray.remote(thing)
    with pytest.raises(TypeError, match=r"applies to functions, not to"):
        nbray.remote(num_cpus=1)(thing)


@pytest.mark.parametrize("function", [
    lambda: 1, len, [].append, str.upper, functools.partial(max, 1), area.__call__,
], ids=["lambda", "builtin", "bound builtin", "method of a type", "partial", "bound method"])  # fmt: skip
def test_whatever_python_calls_a_function_can_be_remote(function: Any) -> None:
    assert isinstance(nbray.remote(function), nbray.RemoteFunction)
    assert isinstance(nbray.remote(num_cpus=1)(function), nbray.RemoteFunction)


def test_brackets_without_options_unknown_options_and_a_function_beside_options_are_refused() -> None:
    for wrong in (
        nbray.remote,
        lambda: nbray.remote(cpus=1),
        lambda: nbray.remote(len, num_cpus=1),  # type: ignore[call-overload]
    ):
        for kind in (AssertionError, TypeError, nbray.NbrayError):
            with pytest.raises(kind):
                wrong()


def test_an_unknown_option_of_one_call_is_refused() -> None:
    with pytest.raises(TypeError, match="cpus"):
        area.options(cpus=1)
    with pytest.raises(TypeError, match="cpus"):
        area._remote(args=[1], cpus=1)


def test_options_leave_the_function_as_it_was() -> None:
    many = area.options(num_returns=5)

    assert many._calls.options.num_returns == 5
    assert many.options(num_cpus=1)._calls.options.num_returns == 5
    assert area._calls.options.num_returns == 1


def test_names_of_odd_functions_are_short_and_hold_no_address() -> None:
    def inner() -> None: ...

    assert repr(nbray.remote(inner)) == "<remote function inner>"
    assert repr(nbray.remote(functools.partial(functools.partial(inner)))) == "<remote function inner>"
    assert repr(nbray.remote(lambda: 1)) == "<remote function <lambda>>"


def test_a_pickled_remote_function_is_one_again_with_its_options() -> None:
    again = pickle.loads(pickle.dumps(nbray.remote(num_cpus=2, num_returns=0)(len)))

    assert isinstance(again, nbray.RemoteFunction)
    assert again._calls.options.given == {"num_cpus": 2, "num_returns": 0}
