"""The ring: newest rows kept, every lost one counted."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.events.ring import EventRing
from nbray.events.schema import TASK, Row


def row(number: int) -> Row:
    return (number, TASK, b"t", "submitted", "f", "", None)


def test_rows_come_out_in_the_order_they_went_in() -> None:
    ring = EventRing(10)
    for number in range(3):
        ring.append(row(number))

    assert ring.take(10) == ([row(0), row(1), row(2)], 0)
    assert ring.take(10) == ([], 0)


def test_a_batch_has_at_most_as_many_rows_as_asked_for() -> None:
    ring = EventRing(10)
    for number in range(3):
        ring.append(row(number))

    assert ring.take(2) == ([row(0), row(1)], 0)
    assert len(ring) == 1
    assert ring.take(2) == ([row(2)], 0)


def test_a_full_ring_drops_the_oldest_and_counts_them_once() -> None:
    ring = EventRing(2)
    for number in range(5):
        ring.append(row(number))

    assert ring.take(10) == ([row(3), row(4)], 3)
    assert ring.take(10) == ([], 0)


def test_drops_are_reported_even_if_no_row_is_taken() -> None:
    ring = EventRing(1)
    ring.append(row(0))
    ring.append(row(1))

    assert ring.take(0) == ([], 1)
    assert ring.take(1) == ([row(1)], 0)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_ring_needs_room_for_a_row(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least 1 row"):
        EventRing(capacity)


@given(
    capacity=st.integers(1, 8), steps=st.lists(st.one_of(st.just("append"), st.integers(0, 10)), max_size=60)
)
def test_every_row_is_either_taken_in_order_or_counted_as_dropped(
    capacity: int, steps: list[str | int]
) -> None:
    ring, held, lost, appended = EventRing(capacity), list[Row](), 0, 0

    for step in steps:
        if isinstance(step, int):
            assert ring.take(step) == (held[:step], lost)
            held, lost = held[step:], 0
        else:
            held.append(row(appended))
            appended += 1
            ring.append(held[-1])
            if len(held) > capacity:
                held.pop(0)
                lost += 1

        assert len(ring) == len(held)


def test_no_row_is_lost_or_counted_twice_while_threads_append() -> None:
    ring, per_thread, threads = EventRing(64), 5_000, 3
    taken = dropped = 0

    def append() -> None:
        for number in range(per_thread):
            ring.append(row(number))

    appenders = [threading.Thread(target=append) for _ in range(threads)]
    for thread in appenders:
        thread.start()
    while any(thread.is_alive() for thread in appenders):
        rows, lost = ring.take(16)
        taken += len(rows)
        dropped += lost
    rows, lost = ring.take(64)

    assert taken + len(rows) + dropped + lost == per_thread * threads
