"""The daemon's memory of events: bounded, and right in whatever order batches come."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nbray.events.log import NAMES_MAX, OTHER_NAMES, EventLog, Running
from nbray.events.schema import NAME, ONCE, PROCESS, RAN_US, TASK, WORKER, Row

OWNER, RUNNER = b"owner", b"runner"


def task(number: int, state: str, name: str = "train", detail: dict[str, Any] | None = None) -> Row:
    return (number, TASK, bytes([number]), state, name, "In[1]", detail)


def test_tasks_are_counted_per_state() -> None:
    log = EventLog()

    log.add(OWNER, [task(1, "submitted"), task(2, "submitted"), task(3, "submitted")])
    log.add(RUNNER, [task(1, "running"), task(1, "finished"), task(2, "running")])

    assert log.tasks() == {
        "submitted": 3,
        "running": 1,
        "finished": 1,
        "failed": 0,
        "retried": 0,
        "cancelled": 0,
    }


def test_tasks_are_counted_per_function() -> None:
    log = EventLog()

    log.add(
        OWNER, [task(1, "submitted", "load"), task(2, "submitted", "train"), task(3, "submitted", "train")]
    )
    log.add(RUNNER, [task(2, "running", "train"), task(2, "failed", "train")])

    assert log.tasks_by_name() == {
        "load": {"submitted": 1, "running": 0, "finished": 0, "failed": 0, "retried": 0, "cancelled": 0},
        "train": {"submitted": 2, "running": 1, "finished": 0, "failed": 1, "retried": 0, "cancelled": 0},
    }


def test_counts_do_not_depend_on_the_order_in_which_processes_report() -> None:
    batches = [
        (OWNER, [task(1, "submitted"), task(2, "submitted")]),
        (RUNNER, [task(1, "running"), task(1, "finished")]),
        (b"third", [task(2, "running")]),
    ]

    outcomes = []
    for order in itertools.permutations(batches):
        log = EventLog()
        for process_id, rows in order:
            log.add(process_id, rows)
        outcomes.append(log.tasks())

    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_task_that_was_over_in_a_moment_counts_as_run_by_its_last_row_alone() -> None:
    log = EventLog()

    log.add(RUNNER, [task(1, "finished", detail={RAN_US: 12}), task(2, "failed", detail={RAN_US: 3})])

    assert log.tasks_by_name()["train"] == {
        "submitted": 0, "running": 2, "finished": 1, "failed": 1, "retried": 0, "cancelled": 0,
    }  # fmt: skip
    assert log.tasks()["running"] == 0


def test_nothing_runs_any_more_in_a_process_that_ended() -> None:
    log = EventLog()
    log.add(RUNNER, [task(1, "running")])

    log.forget(RUNNER)
    log.forget(RUNNER)

    assert log.tasks()["running"] == 0
    assert len(log.recent(TASK, 10)) == 1


def test_what_an_owner_says_of_another_process_does_not_end_its_own_task() -> None:
    log = EventLog()
    log.add(OWNER, [task(1, "running")])

    log.add(OWNER, [task(2, "failed")])

    assert log.tasks()["running"] == 1


def test_recent_rows_are_the_newest_of_their_kind_and_name_their_process() -> None:
    log = EventLog(rows_per_kind=3)
    log.add(OWNER, [task(number, "submitted") for number in range(5)])
    log.add(b"daemon", [(9, WORKER, b"w", "idle", "", "", None)])

    newest = log.recent(TASK, 2)

    assert newest == [[*task(3, "submitted"), OWNER], [*task(4, "submitted"), OWNER]]
    assert len(log.recent(TASK, 100)) == 3
    assert log.recent(WORKER, 100)[0][PROCESS] == b"daemon"


def test_there_are_no_recent_rows_of_an_unknown_kind() -> None:
    with pytest.raises(KeyError):
        EventLog().recent("actress", 1)


def test_dropped_events_add_up_and_what_is_not_a_row_is_one() -> None:
    log = EventLog()

    log.add(OWNER, [], dropped=4)
    log.add(OWNER, [["nonsense"], task(1, "submitted")], dropped=2)
    log.add(OWNER, [], dropped=-7)

    assert log.dropped == 7
    assert log.tasks()["submitted"] == 1


def test_endless_names_and_details_are_cut() -> None:
    log = EventLog()
    detail: dict[str, Any] = {
        "note": "n" * 10_000,
        "nested": [1] * 10_000,
        **{f"k{n}": n for n in range(100)},
    }

    log.add(OWNER, [task(1, "submitted", "x" * 1_000_000, detail)])

    kept = log.recent(TASK, 1)[0]
    assert len(kept[NAME]) == 200
    assert len(kept[6]) == 16
    assert len(kept[6]["note"]) == 200
    assert "nested" not in kept[6]
    assert list(log.tasks_by_name()) == ["x" * 200]


def test_functions_without_end_share_one_line() -> None:
    log = EventLog(rows_per_kind=10)

    log.add(OWNER, [(0, TASK, b"t", "submitted", f"f{n}", "", None) for n in range(NAMES_MAX + 5)])

    by_name = log.tasks_by_name()
    assert len(by_name) == NAMES_MAX + 1
    assert by_name[OTHER_NAMES]["submitted"] == 5
    assert log.tasks()["submitted"] == NAMES_MAX + 5


def test_a_state_that_nobody_knows_is_kept_as_a_row_but_not_counted() -> None:
    log = EventLog()

    log.add(OWNER, [task(1, "bewildered")])

    assert "bewildered" not in log.tasks()
    assert len(log.recent(TASK, 1)) == 1


def test_what_runs_in_a_process_is_told_until_it_ends() -> None:
    log = EventLog()

    log.add(
        RUNNER, [task(1, "running", "load"), task(1, "finished"), task(2, "running", detail={ONCE: True})]
    )

    assert log.running_in(RUNNER) == [Running("train", 2, True)]
    log.add(RUNNER, [task(2, "failed")])
    assert log.running_in(RUNNER) == log.running_in(OWNER) == []
