"""Arguments are held against the signature at the call; what fitted once is not asked again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from nbray.api.parameters import Parameters


def plain(a: Any, b: Any = 2) -> None: ...
def positional_only(a: Any, /, b: Any) -> None: ...
def keyword_only(a: Any, *, b: Any, c: Any = 3) -> None: ...
def any_number(*args: Any) -> None: ...
def anything(a: Any, *args: Any, **kwargs: Any) -> None: ...
def nothing() -> None: ...


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((), {"a": 1}), ((1,), {"a": 1}), ((1,), {"b": 1}),
    ((), {"a": 1, "b": 2}), ((), {"b": 2, "a": 1}), ((1,), {"b": 1, "c": 2}), ((1,), {"c": 2}),
    ((1, 2), {"b": 1}), ((1, 2), {"x": 1}), ((), {"x": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [plain, positional_only, keyword_only, any_number, anything, nothing, functools.partial(plain, 1)],
)  # fmt: skip
@pytest.mark.parametrize("known", ["first time", "again"])
def test_a_call_fits_if_and_only_if_python_would_take_it(function: Callable[..., Any], known: str) -> None:
    parameters = Parameters(function, "f")

    for args, kwargs in CALLS:
        try:
            function(*args, **kwargs)
        except TypeError:
            fits = False
        else:
            fits = True
        for _ in range(1 if known == "first time" else 2):
            kind = (len(args), *kwargs) if kwargs else len(args)
            if kind in parameters.fits:
                assert fits
            elif fits:
                parameters.check(args, kwargs)
            else:
                with pytest.raises(TypeError, match=r"^f"):
                    parameters.check(args, kwargs)
        assert (((len(args), *kwargs) if kwargs else len(args)) in parameters.fits) == fits


def test_a_refusal_names_function_signature_and_parameter() -> None:
    with pytest.raises(TypeError, match=r"^plain\(a: .*, b: .*= 2\).*: missing a required argument: 'a'\.$"):
        Parameters(plain, "plain").check((), {})


def test_a_function_without_a_signature_takes_everything() -> None:
    parameters = Parameters(type, "type")

    parameters.check((1, 2, 3, 4), {"x": 1})

    assert (4, "x") in parameters.fits


def test_what_is_remembered_is_bounded() -> None:
    parameters = Parameters(any_number, "any_number")

    for n in range(10_000):
        if n not in parameters.fits:
            parameters.check((None,) * n, {})

    assert len(parameters.fits) < 1_000
