"""What a process notes about tasks: short ones in one row, long ones as soon as the next batch leaves.

Called by:  pytest.
Imports:    nbray.runtime.recorder.
Never:      waits: batches are shipped by hand.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from nbray.events.schema import DETAIL, RAN_US, STATE
from nbray.runtime.recorder import Recorder


class Called(NamedTuple):
    name: str
    cell: str


TRAIN = Called("train", "In[2]")


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
