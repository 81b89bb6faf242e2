"""Letting go of outputs and tracebacks: all places where the shell keeps them, and no variable besides."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbray.jupyter.kernel import dropping


class Value:
    """Something that a cell returned; it can be seen whether it is gone."""


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int]]:
    """What the session's table says, before and after: tests change it."""
    table: dict[str, dict[str, int]] = {"aa": {"DataSize": 7}, "bb": {"DataSize": 5}}
    monkeypatch.setattr(dropping, "objects", lambda: dict(table))
    monkeypatch.setattr(dropping, "_LOOK_AGAIN_S", 0.0)
    return table


@pytest.fixture
def names(bare_shell: InteractiveShell, stored: Any) -> Iterator[dict[str, Any]]:
    """The shell's variables; what tests leave is forgotten."""
    yield bare_shell.user_ns
    bare_shell.run_cell("0", store_history=True)
    dropping.drop(bare_shell, ("Out", "traceback"))
    bare_shell.user_ns.pop("mine", None)


def show(shell: InteractiveShell, value: Any) -> int:
    """A cell returns this; the number of its output."""
    shell.user_ns["shown"] = [value]
    shell.run_cell("shown.pop()", store_history=True)
    number: int = max(shell.user_ns["_oh"])
    return number


@pytest.mark.parametrize("name", ["Out[{}]", "_{}", "Out"])
def test_an_output_goes_from_everywhere(
    bare_shell: InteractiveShell, names: dict[str, Any], name: str
) -> None:
    value = Value()
    gone = weakref.ref(value)
    number = show(bare_shell, value)
    del value

    dropping.drop(bare_shell, (name.format(number),))

    assert gone() is None
    assert number not in names["_oh"]


def test_other_outputs_stay(bare_shell: InteractiveShell, names: dict[str, Any]) -> None:
    seven, eight = show(bare_shell, "seven"), show(bare_shell, "eight")

    dropping.drop(bare_shell, (f"Out[{seven}]",))

    assert seven not in names["_oh"]
    assert names["_oh"][eight] == names["_"] == names[f"_{eight}"] == "eight"
    assert names["__"] == ""


def test_a_variable_with_the_same_value_stays(bare_shell: InteractiveShell, names: dict[str, Any]) -> None:
    names["mine"] = value = Value()
    show(bare_shell, value)

    dropping.drop(bare_shell, ("Out", "_", "__", "___", "traceback"))

    assert names["mine"] is value


def test_a_variable_goes_if_it_is_named(bare_shell: InteractiveShell, names: dict[str, Any]) -> None:
    names["mine"], names["other"] = 1, 2

    dropping.drop(bare_shell, ("mine",))

    assert "mine" not in names
    assert names["other"] == 2


def test_the_shell_goes_on_showing_outputs(bare_shell: InteractiveShell, names: dict[str, Any]) -> None:
    seven = show(bare_shell, "seven")
    dropping.drop(bare_shell, (f"Out[{seven}]", "_"))

    eight = show(bare_shell, "eight")

    assert names["_"] == names[f"_{eight}"] == names["_oh"][eight] == "eight"


def test_the_last_traceback_goes_from_everywhere(
    bare_shell: InteractiveShell, names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    names["mine"] = [Value()]
    gone = weakref.ref(names["mine"][0])
    bare_shell.run_cell("def failing(value):\n    raise ValueError", store_history=True)
    bare_shell.run_cell("failing(mine.pop())", store_history=True)
    assert gone() is not None

    dropping.drop(bare_shell, ("traceback",))

    assert gone() is None
    assert not hasattr(sys, "last_value")


def test_what_came_back_is_counted(
    bare_shell: InteractiveShell,
    names: dict[str, Any],
    stored: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names["mine"] = 1
    monkeypatch.setattr(gc, "collect", lambda: stored.pop("aa", None))

    dropped = dropping.drop(bare_shell, ("mine",))

    assert (int(dropped), dropped.objects, dropped.names) == (7, 1, ("mine",))
    assert repr(dropped) == "nbray: 7 B came back"


@pytest.mark.parametrize("name", ["missing", "Out[99]", "_99", "refs[3]", "exit", "In", "__name__", ""])
def test_what_is_not_there_is_refused_and_nothing_is_dropped(
    bare_shell: InteractiveShell, names: dict[str, Any], name: str
) -> None:
    names["mine"] = 1

    with pytest.raises(ValueError, match="There is no"):
        dropping.drop(bare_shell, ("mine", name))

    assert names["mine"] == 1
