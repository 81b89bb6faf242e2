"""Rows: what counts as one, and how people read it."""

from __future__ import annotations

from typing import Any

import pytest

from nbray.events.schema import (
    CELL,
    DETAIL,
    ID,
    KIND,
    KINDS,
    NAME,
    ROW_FIELDS,
    STATE,
    T_US,
    TASK,
    describe,
    is_row,
)

NOON_US = 12 * 3600 * 1_000_000
ROW = (NOON_US + 123, TASK, bytes(12) + b"\x00\x00\x00\x07", "running", "train", "In[3]", {"attempt": 1})


def changed(field: int, value: Any) -> list[Any]:
    row: list[Any] = list(ROW)
    row[field] = value
    return row


def test_the_fields_are_numbered_in_the_order_of_the_row() -> None:
    assert tuple(range(ROW_FIELDS)) == (T_US, KIND, ID, STATE, NAME, CELL, DETAIL)
    assert KINDS == ("task", "actor", "worker", "object", "node")


def test_a_row_reads_as_one_line() -> None:
    assert describe(ROW) == "12:00:00.000123 task 00000007 running: train In[3] (attempt=1)"


def test_a_row_without_name_cell_and_detail_ends_after_its_state() -> None:
    row = (0, "worker", b"\x01\x02\x03\x04\x05\x06\x07\x08", "idle", "", "", None)

    assert describe(row) == "00:00:00.000000 worker 01020304 idle"


def test_terminal_commands_in_a_name_are_shown_not_obeyed() -> None:
    line = describe(changed(NAME, "\x1b[2Jgone\n"))

    assert r"\x1b[2Jgone\n" in line
    assert line.isprintable()


def test_tuples_and_lists_are_rows_alike() -> None:
    assert is_row(ROW)
    assert is_row(list(ROW))
    assert is_row(changed(DETAIL, None))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "task",
        [],
        ROW[:-1],
        (*ROW, 1),
        changed(T_US, "now"),
        changed(T_US, -1),
        changed(T_US, True),
        changed(T_US, 1 << 60),
        changed(KIND, "actress"),
        changed(KIND, []),
        changed(ID, "0a0b"),
        changed(ID, bytes(65)),
        changed(STATE, None),
        changed(NAME, b"train"),
        changed(CELL, 3),
        changed(DETAIL, [1]),
    ],
)
def test_what_is_not_a_row_is_recognized(bad: object) -> None:
    assert not is_row(bad)
