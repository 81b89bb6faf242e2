"""The chain of causes as text, as a page and as data."""

from __future__ import annotations

import json

from nbray.core.wait_chain import Link
from nbray.observe.why import Why

LINKS = [
    Link("object", "0" * 40, "00000001", "pending", "object 00000001 is a result of task f"),
    Link(
        "resources", "", "1 GPU", "busy", "it waits for 1 GPU.", 75.0,
        facts={"holders": [{"task": "g", "pid": 9, "shape": {}, "blocked": False, "running_s": 7300.0}]},
    ),
    Link("task", "00", "<b>g</b>", "running", "task <b>g</b> runs", 0.5, "Wait.", {"stack": ["g at x.py:3"]}),
]  # fmt: skip


def test_text_numbers_the_causes_and_says_for_how_long() -> None:
    assert str(Why(LINKS)).splitlines() == [
        "1. object 00000001 is a result of task f",
        "2. it waits for 1 GPU (for 75 s)",
        "     held by g, pid 9, which has run for 2.0 h",
        "3. task <b>g</b> runs (for 0.5 s)",
        "   Wait.",
        "     g at x.py:3",
    ]


def test_page_escapes_what_users_name() -> None:
    page = Why(LINKS)._repr_html_()

    assert page is not None
    assert "<b>" not in page
    assert "&lt;b&gt;g&lt;/b&gt; runs" in page
    assert "g at x.py:3" in page


def test_frame_that_the_text_names_is_not_named_again() -> None:
    stack = {"stack": ["f at x.py:9", "g at x.py:3"]}
    why = Why([Link("task", "00", "g", "running", "task g runs, in g at x.py:3", 0.5, "", stack)])

    assert str(why).splitlines() == ["1. task g runs, in g at x.py:3 (for 0.5 s)", "     f at x.py:9"]
    page = why._repr_html_()
    assert page is not None
    assert page.count("g at x.py:3") == 1


def test_links_are_plain_data_of_their_own() -> None:
    why = Why(LINKS)

    why.links[2]["facts"].clear()

    assert json.loads(json.dumps(why.links))[2]["facts"] == {"stack": ["g at x.py:3"]}
    assert why.links[1]["since_s"] == 75.0
