"""Waits that overlap: the task blocks when the first begins and goes on when the last ends."""

from __future__ import annotations

from nbray.runtime.blocking import BlockingCount


def test_only_the_first_wait_and_the_end_of_the_last_are_told() -> None:
    told: list[bool] = []
    count = BlockingCount(told.append)

    for blocking in (True, True, False, True, False, False):
        count(blocking)

    assert told == [True, False]


def test_waits_that_a_task_leaves_unfinished_end_with_it() -> None:
    told: list[bool] = []
    count = BlockingCount(told.append)
    count(True)
    count(True)

    count.end()
    count(False)  # one that comes too late
    count.end()
    count(True)

    assert told == [True, False, True]
