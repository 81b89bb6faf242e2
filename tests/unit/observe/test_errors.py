"""The errors of a job as text, as a page and as the list that it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbray.observe.errors import SHOWN, ErrorList

TASK = {
    "type": "task",
    "message": 'task f failed (pid 7)\nTraceback (most recent call last):\n  File "x.py", line 3, in f\n'
    "ValueError: <b>three</b>",
    "timestamp": 0.0,
}
DEATH = {
    "type": "worker_died",
    "message": "A worker died or was killed while executing task f 00000003.\n"
    "The worker (pid 7) was killed by SIGSEGV while it ran task f. Look.\nLast lines on its stderr:\n  Fatal",
    "timestamp": 1.0,
}


def test_text_has_a_line_for_each_without_what_differs_from_run_to_run() -> None:
    assert repr(ErrorList([TASK, DEATH])).splitlines() == [
        "nbray: 2 errors",
        "  task         f failed: ValueError: <b>three</b>",
        "  worker_died  The worker (pid 7) was killed by SIGSEGV while it ran task f",
    ]
    assert repr(ErrorList()) == "nbray: no errors"


def test_page_has_the_whole_message_folded_and_escaped() -> None:
    page = ErrorList([TASK])._repr_html_()

    assert page is not None
    assert "<b>" not in page
    assert "<details><summary>f failed: ValueError: &lt;b&gt;three&lt;/b&gt;</summary>" in page
    assert "line 3, in f\nValueError" in page


def test_page_of_a_long_message_keeps_its_end() -> None:
    page = ErrorList([{**TASK, "message": "\n".join(f"line {n}." for n in range(500))}])._repr_html_()

    assert page is not None
    assert "line 499." in page
    assert "line 0." in page
    assert "line 300." not in page
    assert "... 440 lines ..." in page


def test_only_the_last_ones_are_shown_and_the_others_counted() -> None:
    many = ErrorList({**TASK, "message": f"number {n}."} for n in range(SHOWN + 5))

    assert "number 4." not in repr(many)
    assert "number 5." in repr(many)
    assert repr(many).endswith("and 5 before them")
    assert "and 5 before them" in str(many._repr_html_())


def test_it_is_a_list_of_plain_data() -> None:
    errors = ErrorList([TASK, DEATH])

    assert errors == [TASK, DEATH]
    assert json.loads(json.dumps(errors)) == [TASK, DEATH]


def test_text_alone_is_shown_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_RENDERER", "text")
    errors: Any = ErrorList([TASK])

    assert errors._repr_html_() is None
