"""What a process notes about tasks: short ones in one row, long ones as soon as the next batch leaves.

Called by:  pytest.
Imports:    nbray.runtime.recorder.
Never:      waits: batches are shipped by hand.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from nbray.core.tasks import TaskSpec
from nbray.events.log import EventLog
from nbray.events.schema import DETAIL, RAN_US, STATE
from nbray.runtime.recorder import Recorder


class Called(NamedTuple):
    name: str
    cell: str


TRAIN = Called("train", "In[2]")
SPEC = TaskSpec(1, b"f" * 16, "train", 1, (), 3, 0, "In[2]")


class Desk:
    """A recorder, and what it said."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.batches: list[Any] = []
        self.deadlines_s: list[float] = []
        self.recorder = Recorder(b"me", self.lock, self.batches.append, self.deadlines_s.append)

    def ship(self) -> list[Any]:
        with self.lock:
            self.recorder.ship()
        rows = [row for batch in self.batches for row in batch.rows]
        self.batches.clear()
        return rows


def test_task_that_is_over_before_the_next_batch_is_one_row() -> None:
    desk = Desk()

    desk.recorder.begin(b"t1", TRAIN)
    desk.recorder.end("finished")

    (row,) = desk.ship()
    assert row[STATE] == "finished"
    assert row[DETAIL][RAN_US] >= 0


def test_task_that_lasts_is_reported_while_it_runs_and_once_more_at_its_end() -> None:
    desk = Desk()

    desk.recorder.begin(b"t1", TRAIN)
    (first,) = desk.ship()
    assert desk.ship() == []
    desk.recorder.end("failed")
    (last,) = desk.ship()

    assert (first[STATE], first[DETAIL]) == ("running", None)
    assert (last[STATE], last[DETAIL]) == ("failed", None)


def test_next_task_after_one_that_lasted_is_itself() -> None:
    desk = Desk()
    desk.recorder.begin(b"t1", TRAIN)
    desk.ship()
    desk.recorder.end("finished")

    desk.recorder.begin(b"t2", TRAIN)
    desk.recorder.end("finished")

    assert [row[2] for row in desk.ship()] == [b"t1", b"t2"]


def test_a_row_always_has_a_batch_to_wait_for() -> None:
    desk = Desk()

    desk.recorder.begin(b"t1", TRAIN)
    assert len(desk.deadlines_s) == 1
    desk.ship()
    desk.recorder.end("finished")

    assert len(desk.deadlines_s) == 2


def counts(desk: Desk) -> dict[str, int]:
    """What the daemon makes of all that was said."""
    log = EventLog()
    for batch in desk.batches:
        log.add(b"me", batch.rows, batch.dropped)
        log.add_folded(batch.folded)
    return log.tasks_by_name()["train"]


def test_sums_are_right_however_many_short_tasks_there_are() -> None:
    desk = Desk()

    for number in range(5_000):
        with desk.lock:
            desk.recorder.submitted(number.to_bytes(4, "big"), SPEC)
        desk.recorder.begin(number.to_bytes(4, "big"), TRAIN)
        desk.recorder.end("failed" if number % 10 == 0 else "finished")
        if number == 3_000:
            with desk.lock:
                desk.recorder.ship()
    with desk.lock:
        desk.recorder.ship()

    assert counts(desk) == {
        "submitted": 5_000, "running": 5_000, "finished": 4_500, "failed": 500, "retried": 0, "cancelled": 0,
    }  # fmt: skip
    assert all(len(batch.rows) <= 1_001 for batch in desk.batches)


def test_task_that_lasts_has_its_rows_among_thousands_that_do_not() -> None:
    desk = Desk()
    for number in range(2_000):
        desk.recorder.begin(number.to_bytes(4, "big"), TRAIN)
        desk.recorder.end("finished")

    desk.recorder.begin(b"long", TRAIN)
    rows = desk.ship()
    for number in range(2_000):
        with desk.lock:
            desk.recorder.submitted(number.to_bytes(4, "big"), SPEC)
    desk.recorder.end("finished")
    rows += desk.ship()

    assert [row[STATE] for row in rows if row[2] == b"long"] == ["running", "finished"]


def test_calls_that_overlap_end_in_any_order_and_are_one_row_each() -> None:
    desk = Desk()

    for task_id in (b"t1", b"t2", b"t3"):
        desk.recorder.begin_call(task_id, TRAIN)
    for task_id in (b"t2", b"t3", b"t1"):
        desk.recorder.end_call(task_id, "finished")

    rows = desk.ship()
    assert [(row[2], row[STATE]) for row in rows] == [(t, "finished") for t in (b"t2", b"t3", b"t1")]
    assert all(row[DETAIL][RAN_US] >= 0 for row in rows)


def test_calls_that_overlap_and_last_are_reported_once_each_while_they_run() -> None:
    desk = Desk()
    desk.recorder.begin_call(b"t1", TRAIN)
    desk.recorder.begin_call(b"t2", TRAIN)

    running = desk.ship()
    desk.recorder.begin_call(b"t3", TRAIN)
    desk.recorder.end_call(b"t1", "failed")
    later = desk.ship()

    assert sorted((row[2], row[STATE]) for row in running) == [(b"t1", "running"), (b"t2", "running")]
    assert sorted((row[2], row[STATE]) for row in later) == [(b"t1", "failed"), (b"t3", "running")]


def test_sums_are_right_however_many_calls_overlap() -> None:
    desk = Desk()

    for start in range(0, 5_000, 500):
        numbers = [number.to_bytes(4, "big") for number in range(start, start + 500)]
        for number in numbers:
            desk.recorder.begin_call(number, TRAIN)
        if start == 2_000:
            with desk.lock:
                desk.recorder.ship()
        for number in numbers:
            desk.recorder.end_call(number, "finished")
    with desk.lock:
        desk.recorder.ship()

    assert (counts(desk)["running"], counts(desk)["finished"]) == (5_000, 5_000)
