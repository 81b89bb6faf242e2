"""The table of objects: a text that notebooks can be compared by, a page that hostile names cannot break."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest

from nbray.observe import renderer
from nbray.observe.memory import Memory, holder_words

MIB = 1 << 20


def holder(kind: str, name: str = "", count: int = 1, pid: int = 0) -> dict[str, Any]:
    return {"kind": kind, "name": name, "count": count, "pid": pid}


def row(number: int, *holders: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "object": (bytes(12) + number.to_bytes(4, "big") + b"\xff" * 4).hex(), "size_bytes": MIB,
        "state": "in store", "place": "store", "owner": {"process": "driver", "pid": 1},
        "holders": list(holders), "leak": "",
        "origin": {"kind": "put", "name": "", "cell": "", "file": "/home/me/train.py", "line": 14}, **fields,
    }  # fmt: skip


ROWS = [
    row(1, holder("variable", "x"), holder("argument", "train", 2), holder("view", "a", 3),
        holder("worker", "train", 1, 77), size_bytes=40 * MIB),
    row(2, holder("output", "Out[3][0]"), holder("output", "_"), leak="output", state="spilled", place="disk",
        origin={"kind": "task", "name": "load", "cell": "In[3]", "file": "", "line": 0}),
    row(3, holder("unknown", "", 2), leak="unknown", size_bytes=5, state="inline", place="owner",
        origin={"kind": "put", "name": "", "cell": "In[4]", "file": "/tmp/x.py", "line": 2}),
    row(4, holder("traceback", "batch in train()"), leak="output", size_bytes=None, state="pending", place="",
        origin={"kind": "", "name": "", "cell": "", "file": "", "line": 0}),
]  # fmt: skip
SUMMARY = {
    "store": {"used_bytes": 41 * MIB, "capacity_bytes": 200 * MIB}, "silent": 0, "left_out": 0,
    "names_complete": True,
}  # fmt: skip


@pytest.fixture
def _text_mode() -> None:
    renderer.choose("text")


@pytest.mark.usefixtures("_text_mode")
def test_the_table_says_what_is_where_who_holds_it_and_who_made_it() -> None:
    lines = str(Memory(ROWS, SUMMARY)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "nbray: 4 objects, 41 MiB",
        "object size state place held by made by",
        "00000001 40 MiB in store store x, 2 tasks train, 3 arrays (a), 1 more put at train.py:14",
        "00000002 1 MiB spilled disk Out[3][0], _ task load, In[3]",
        "00000003 5 B inline owner 2 unnamed put in In[4], line 2",
        "00000004 pending last traceback: batch in train()",
        "store 41 MiB of 200 MiB used",
        "on disk 1 object, 1 MiB",
        "largest 40 MiB: x, 3 more",
        "notebook 2 objects, 1 MiB held only by Out, _ or the last traceback",
        "suspects 1 object, 5 B held by nobody known",
    ]


@pytest.mark.usefixtures("_text_mode")
def test_columns_stand_below_each_other() -> None:
    lines = str(Memory(ROWS)).splitlines()[1:5]

    at = lines[0].index("held by")
    assert [line[at : at + 2] for line in lines[1:]] == ["x,", "Ou", "2 "]
    assert all(line[at - 2 : at] == "  " for line in lines)


@pytest.mark.usefixtures("_text_mode")
def test_every_holder_has_a_line_when_that_is_asked_for() -> None:
    text = str(Memory(ROWS).holders())

    at = text.splitlines()[1].index("held by")
    assert [line[at:].split("  ")[0] for line in text.splitlines()[2:6]] == [
        "x", "2 tasks train", "3 arrays (a)", "a worker (train)",
    ]  # fmt: skip


@pytest.mark.usefixtures("_text_mode")
def test_leaks_are_listed_with_what_to_do() -> None:
    leaks = Memory(ROWS, SUMMARY).leaks()

    assert [found["object"] for found in leaks.rows] == [found["object"] for found in ROWS[1:]]
    text = str(leaks)
    assert text.startswith("nbray: 3 possible leaks, 1 MiB\n")
    assert "%ray_objects --drop Out[3] _\n" in text
    assert "%ray_objects --drop traceback\n" in text
    assert "gc.collect()" in text
    assert str(Memory(ROWS[:1]).leaks()).startswith("nbray: no possible leaks")


def test_rows_are_plain_data_and_copies() -> None:
    memory = Memory(ROWS, SUMMARY)

    memory.rows[0]["holders"].clear()

    assert memory.rows == ROWS
    assert json.loads(json.dumps(memory.to_dict())) == {"objects": ROWS, **SUMMARY}


def test_processes_are_numbered_only_where_output_is_not_compared() -> None:
    there = holder("worker", "train", 1, 77)
    assert holder_words(there) == "a worker (train) pid=77"

    renderer.choose("text")

    assert holder_words(there) == "a worker (train)"


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (holder("argument", "train"), "task train"),
        (holder("argument", "train", 2, 7), "2 tasks train in a worker"),
        (holder("container", ROWS[2]["object"]), "object 00000003"),
        (holder("pickle"), "a pickle made by hand"),
        (holder("parcel", "", 2), "a value on its way"),
        (holder("driver", "", 1, 5), "the driver"),
        (holder("worker", "", 1, 5), "a worker, idle"),
        (holder("view", "train", 2, 5), "2 arrays in a worker"),
        (holder("view"), "1 array"),
        (holder("unknown"), "unnamed"),
    ],
)
@pytest.mark.usefixtures("_text_mode")
def test_each_kind_of_holder_has_its_words(known: dict[str, Any], words: str) -> None:
    assert holder_words(known) == words


def test_a_long_table_is_cut_and_says_so() -> None:
    many = [row(n, holder("variable", f"refs[{n}]")) for n in range(100)]

    memory = Memory(many, {"left_out": 7})

    assert len(memory.rows) == 100
    assert "not shown  87 objects: see rows" in str(memory)
    assert str(memory).count("refs[") == 20 + 1  # and the largest


def test_what_is_missing_is_said() -> None:
    text = str(Memory(ROWS, {"silent": 2, "names_complete": False}))

    assert "2 processes are busy: what they hold is missing" in text
    assert "not all variables were looked at" in text


def test_without_objects_there_is_no_table() -> None:
    assert str(Memory([])) == "nbray: no objects"


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e$x$"


def test_a_page_tells_what_the_text_tells() -> None:
    page = Page(Memory(ROWS, SUMMARY)._repr_html_() or "")

    for words in (
        "nbray: 4 objects, 41 MiB",
        "held by",
        "Out[3][0], _",
        "task load, In[3]",
        "40 MiB: x, 3 more",
    ):
        assert words in page.words


def test_names_that_users_chose_cannot_break_the_page() -> None:
    hostile = row(
        1, holder("variable", HOSTILE), holder("argument", HOSTILE), holder("view", HOSTILE),
        holder("traceback", HOSTILE), holder("worker", HOSTILE, 1, 5),
        state=HOSTILE, place=HOSTILE,
        origin={"kind": "task", "name": HOSTILE, "cell": HOSTILE, "file": HOSTILE, "line": 1},
    )  # fmt: skip

    for view in (
        Memory([hostile]),
        Memory([hostile]).holders(),
        Memory([{**hostile, "leak": "output"}]).leaks(),
    ):
        page = Page(view._repr_html_() or "")
        assert set(page.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
        assert not any("\x1b" in words or "\u202e" in words for words in page.words)
        assert "\x1b" not in str(view)
        assert "\u202e" not in str(view)


def test_a_name_of_a_megabyte_is_cut() -> None:
    memory = Memory([row(1, holder("variable", "x" * MIB))])

    assert len(str(memory)) < 2_000
    assert len(memory._repr_html_() or "") < 10_000


@pytest.mark.usefixtures("_text_mode")
def test_text_mode_has_no_page() -> None:
    assert Memory(ROWS)._repr_html_() is None
