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
