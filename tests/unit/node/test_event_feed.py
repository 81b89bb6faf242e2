"""The daemon's own events: one batch a few times a second, in its log and for monitors elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from nbray.events.schema import DETAIL, ID, OBJECT, STATE, STATES, TASK, WORKER
from nbray.node.event_feed import EventFeed
from nbray.wire.messages import EventBatch
from nbray.wire.object_messages import (
    CreateObject,
    FreeObjects,
    SealObject,
)

NODE_ID, OWNER, OBJECT_ID = b"n" * 16, b"o" * 16, b"x" * 20


class Surroundings:
    """What the daemon lends the feed: a clock that the test turns, and an ear."""

    def __init__(self) -> None:
        self.published: list[EventBatch] = []
        self.planned: list[Callable[[], None]] = []
        self.feed = EventFeed(
            NODE_ID, self.published.append, lambda _delay_s, call: self.planned.append(call)
        )

    def pass_time(self) -> None:
        planned, self.planned = self.planned, []
        for call in planned:
            call()


def test_rows_of_the_daemon_leave_in_one_batch() -> None:
    around = Surroundings()

    for state in ("starting", "idle", "leased"):
        around.feed.record(WORKER, OWNER, state)
    assert not around.published
    around.pass_time()

    (batch,) = around.published
    assert [row[STATE] for row in batch.rows] == ["starting", "idle", "leased"]
    assert batch.process_id == NODE_ID
    assert not around.planned


def test_life_of_an_object_is_told_from_the_messages_about_it() -> None:
    around = Surroundings()

    for message in (CreateObject(OBJECT_ID, OWNER, 7), SealObject(OBJECT_ID), FreeObjects([OBJECT_ID])):
        around.feed.record_object(message)
    around.feed.flush()

    rows = around.feed.log.recent(OBJECT, 10)
    assert [(row[ID], row[STATE]) for row in rows] == [
        (OBJECT_ID, "created"), (OBJECT_ID, "sealed"), (OBJECT_ID, "freed"),
    ]  # fmt: skip
    assert rows[0][DETAIL] == {"size_bytes": 7}


def test_batches_of_processes_are_kept_and_passed_on() -> None:
    around = Surroundings()
    batch = EventBatch(OWNER, 2, [], [[1, TASK, b"t" * 16, "submitted", "f", "In[1]", None]])

    around.feed.received(OWNER, batch)

    assert around.feed.log.tasks()["submitted"] == 1
    assert around.feed.log.dropped == 2
    assert around.published == [batch]


def test_what_the_store_does_with_an_object_is_told_with_its_size() -> None:
    around = Surroundings()

    for state in ("spilled", "restored", "evicted", "lost"):
        around.feed.object_moved(OBJECT_ID, state, 7)
    around.feed.flush()

    rows = around.feed.log.recent(OBJECT, 10)
    assert [(row[STATE], row[DETAIL]) for row in rows] == [
        (state, {"size_bytes": 7}) for state in ("spilled", "restored", "evicted", "lost")
    ]
    assert {row[STATE] for row in rows} <= set(STATES[OBJECT])
