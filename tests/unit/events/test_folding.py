"""Rows that are too many become counts; sums stay right, and so does what runs now."""

from __future__ import annotations

from typing import Any

from nbray.events.folding import fold
from nbray.events.log import EventLog
from nbray.events.schema import ID, RAN_US, TASK, Row


def task(number: int, state: str, name: str = "train", detail: dict[str, Any] | None = None) -> Row:
    return (number, TASK, bytes([number]), state, name, "", detail)


def test_few_rows_are_all_kept() -> None:
    rows = [task(n, "submitted") for n in range(5)]

    assert fold(rows, 5) == (rows, [])


def test_newest_rows_are_kept_and_the_others_counted() -> None:
    rows = [task(n, "submitted", "load" if n < 3 else "train") for n in range(8)]

    kept, folded = fold(rows, 2)

    assert kept == rows[-2:]
    assert sorted(folded) == [("load", "submitted", 3), ("train", "submitted", 3)]


def test_task_that_ran_in_one_row_counts_as_run_and_over() -> None:
    rows = [task(n, "failed" if n else "finished", detail={RAN_US: 1}) for n in range(3)]

    assert sorted(fold(rows, 0)[1]) == [
        ("train", "failed", 2), ("train", "finished", 1), ("train", "running", 3)
    ]  # fmt: skip


def test_rows_that_say_what_runs_now_are_never_folded() -> None:
    rows = [task(1, "submitted"), task(1, "running"), task(1, "finished"), task(2, "retried")]

    kept, folded = fold(rows, 0)

    assert [row[ID] for row in kept] == [b"\1", b"\1", b"\2"]
    assert folded == [("train", "submitted", 1)]


def test_sums_are_the_same_folded_or_not() -> None:
    rows = [task(n, "submitted", f"f{n % 3}") for n in range(20)]
    rows += [task(n, "finished", f"f{n % 3}", {RAN_US: n}) for n in range(15)]
    rows += [task(19, "running"), task(18, "running"), task(18, "failed")]
    whole, part = EventLog(), EventLog()

    whole.add(b"p", rows)
    kept, folded = fold(rows, 4)
    part.add(b"p", kept)
    part.add_folded(folded)

    assert part.tasks() == whole.tasks()
    assert part.tasks_by_name() == whole.tasks_by_name()
