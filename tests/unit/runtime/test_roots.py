"""Where names begin: a notebook's variables and outputs, running functions, tracebacks."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from nbray.runtime import roots
from nbray.runtime.roots import OUTPUT, TRACEBACK, VARIABLE, Root, locals_of


def texts(found: Any) -> list[str]:
    return [root.text + root.suffix for root in found]


def test_in_a_notebook_variables_are_what_the_user_named() -> None:
    names = dict.fromkeys(
        ["x", "_x", "_private_3", "In", "Out", "_", "__", "___", "_3", "_i", "_ii", "_i3", "_oh", "_ih",
         "_dh", "get_ipython", "exit", "quit", "__builtins__"], 0,
    )  # fmt: skip

    assert texts(roots.variables(names, is_notebook=True)) == ["x", "_x", "_private_3"]
    assert "_3" in texts(roots.variables(names, is_notebook=False))


def test_outputs_are_named_as_the_notebook_names_them() -> None:
    shell = SimpleNamespace(
        displayhook=SimpleNamespace(_="c", __="b", ___="a"), last_execution_result=SimpleNamespace(result="c")
    )

    found = list(roots.outputs({"_oh": {3: "a", 5: "c"}, "_": "c"}, shell))

    assert Root(OUTPUT, "Out[3]", "a") in found
    assert Root(OUTPUT, "Out[5]", "c") in found
    assert {root.value for root in found if root.text == "_"} == {"c", None}
    assert Root(OUTPUT, "___", "a") in found


def test_without_a_notebook_the_interpreters_underscore_is_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__builtins__, "_", [1])  # type: ignore[arg-type]  # a dict, here

    assert list(roots.outputs({}, None)) == [Root(OUTPUT, "_", [1])]


def failing(batch: list[int]) -> None:
    local = batch
    try:
        raise KeyError("inner")
    except KeyError:
        raise ValueError(local) from None


def test_the_last_traceback_names_the_variables_of_all_functions_it_went_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = [1]
    try:
        failing(batch)
    except ValueError as exc:
        monkeypatch.setattr(sys, "last_value", exc, raising=False)
        monkeypatch.setattr(sys, "last_traceback", exc.__traceback__, raising=False)

    found = [root for root in roots.tracebacks(None) if root.kind == TRACEBACK]

    assert {"batch in failing()", "local in failing()", "args of ValueError"} <= set(texts(found))
    assert len(texts(found)) == len(set(texts(found)))


def test_a_traceback_that_only_the_shell_has_is_looked_at() -> None:
    try:
        failing([2])
    except ValueError as exc:
        error = exc
    shell = SimpleNamespace(
        InteractiveTB=SimpleNamespace(tb=error.__traceback__),
        last_execution_result=SimpleNamespace(error_in_exec=error, error_before_exec=None),
    )

    assert "local in failing()" in texts(roots.tracebacks(shell))


def test_the_variables_of_running_functions_are_roots() -> None:
    def working() -> list[str]:
        batch = [3]
        assert batch
        return texts(root for root in roots.roots() if root.kind == VARIABLE)

    assert "batch in working()" in working()


class Value:
    pass


def test_looking_at_a_running_function_does_not_keep_its_variables_alive() -> None:
    if sys.gettrace() is not None:
        pytest.skip("a debugger or a coverage tool looks on: then the variables stay")
    value = Value()
    gone = weakref.ref(value)

    assert "value" in locals_of(sys._getframe())
    del value
    gc.collect()

    assert gone() is None


def test_a_dict_that_somebody_got_from_locals_stays_as_it_is() -> None:
    value = Value()
    mine = locals()

    locals_of(sys._getframe())

    assert mine["value"] is value


def test_a_function_that_a_debugger_looks_at_keeps_its_variables() -> None:
    value = Value()
    frame = sys._getframe()
    if frame.f_trace is not None:
        pytest.skip("somebody else looks on")
    frame.f_trace = lambda *_: None
    try:
        assert locals_of(frame)["value"] is value
        assert locals_of(frame)["value"] is value
    finally:
        frame.f_trace = None


def test_modules_of_the_user_are_roots_and_installed_ones_are_not() -> None:
    found = texts(roots.roots())

    assert any(text.startswith(("tests.", f"{__name__}.")) for text in found)
    assert not any(text.startswith(("numpy.", "os.", "nbray.", "pytest.")) for text in found)
