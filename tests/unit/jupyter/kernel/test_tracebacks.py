"""What a notebook shows of an error: frames of cells, none of nbray's."""

from __future__ import annotations

import re

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbray.jupyter import kernel
from nbray.model.errors import NbrayError, RayTaskError
from nbray.runtime.code_names import named

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def shown(shell: InteractiveShell, source: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a cell prints when it fails."""
    shell.run_cell(source)
    return _ANSI.sub("", capsys.readouterr().out)


def test_frames_of_nbray_are_left_out(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(shell, "import nbray\ndef ask():\n    nbray.errors()\nask()", capsys)

    assert "RayConnectionError" in text
    assert "----> 4 ask()" in text
    assert "----> 3     nbray.errors()" in text
    assert "nbray/api" not in text


def test_the_cause_of_a_tasks_error_is_not_told_twice_and_stays_as_it_is(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"cause_class_name": "ValueError", "traceback_text": "ValueError: five"}
    error = RayTaskError(**facts, task_name="f", pid=1)
    cause = ValueError("five")
    error.__cause__ = cause
    shell.push({"error": error})

    text = shown(shell, "raise error", capsys)

    assert text.count("ValueError: five") == 1
    assert "direct cause" not in text
    assert error.__cause__ is cause
    assert error.__suppress_context__


def test_cells_are_called_by_their_names_until_the_extension_is_unloaded(shell: InteractiveShell) -> None:
    shell.run_cell("def f():\n    return 5", store_history=True)
    file = shell.user_ns["f"].__code__.co_filename
    text = f'  File "{file}", line 2, in f'

    assert re.fullmatch(r"  Cell In ?\[\d+\], line 2, in f\n    return 5", named(text))
    kernel.unload(shell)
    assert named(text) == text
    assert not hasattr(NbrayError, "_render_traceback_")
