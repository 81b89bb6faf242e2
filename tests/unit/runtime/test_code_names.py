"""Cells of a notebook are called by their names in texts that other processes wrote."""

from __future__ import annotations

import linecache
from collections.abc import Iterator

import pytest

from nbray.runtime import code_names
from nbray.runtime.code_names import named

CELL = "/tmp/ipykernel_1/2.py"
SOURCE = "def f(a):\n    return 1 / a\n"


@pytest.fixture(autouse=True)
def _notebook() -> Iterator[None]:
    linecache.cache[CELL] = (len(SOURCE), None, SOURCE.splitlines(True), CELL)
    code_names.use({CELL: "Cell In[3]"}.get)  # type: ignore[arg-type]
    yield
    code_names.use(None)
    del linecache.cache[CELL]


def test_a_frame_of_a_cell_has_its_name_and_its_line() -> None:
    text = (
        f'Traceback (most recent call last):\n  File "{CELL}", line 2, in f\n'
        '  File "/usr/lib/x.py", line 7, in g\n    h()\nZeroDivisionError: division by zero'
    )

    assert named(text).splitlines() == [
        "Traceback (most recent call last):",
        "  Cell In[3], line 2, in f",
        "    return 1 / a",
        '  File "/usr/lib/x.py", line 7, in g',
        "    h()",
        "ZeroDivisionError: division by zero",
    ]


def test_a_line_that_is_quoted_already_is_not_quoted_again() -> None:
    text = f'  File "{CELL}", line 2, in f\n    return 1 / a\n           ~~^~~\nZeroDivisionError'

    assert named(text) == text.replace(f'File "{CELL}"', "Cell In[3]")


def test_frames_of_exception_groups_keep_their_margin() -> None:
    assert named(f'  |   File "{CELL}", line 2, in f\n  | ValueError').splitlines() == [
        "  |   Cell In[3], line 2, in f",
        "  |     return 1 / a",
        "  | ValueError",
    ]


def test_of_a_crash_the_newest_frame_is_quoted() -> None:
    frames = [f'  File "{CELL}", line 2 in f'] * 3

    assert named("\n".join(["Fatal Python error: Aborted", *frames])).splitlines() == [
        "Fatal Python error: Aborted",
        "  Cell In[3], line 2 in f",
        "    return 1 / a",
        "  Cell In[3], line 2 in f",
        "  Cell In[3], line 2 in f",
    ]


def test_a_place_in_a_cell_is_said_in_words() -> None:
    assert named(f"task f runs, in f at {CELL}:2") == "task f runs, in f at Cell In[3], line 2"
    assert named("g at x.py:3") == "g at x.py:3"


def test_without_a_notebook_texts_stay_as_they_are() -> None:
    code_names.use(None)

    assert named(f'  File "{CELL}", line 2, in f') == f'  File "{CELL}", line 2, in f'
