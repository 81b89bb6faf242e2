"""Answers of calls that overlap leave when the daemon knows what the calls keep, and not before."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from nbray.core.references import Entry
from nbray.runtime.waiting import Waiter
from nbray.wire.messages import TaskAnswer, TaskCall
from nbray.wire.object_messages import PinObjects
from nbray.worker.owner_links import OwnerLink
from nbray.worker.settling import Settled, Settling


class Desk:
    """A worker's runtime as far as settling goes; what calls keep is said by the test."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.asked: list[tuple[PinObjects, Waiter]] = []
        self.pinned: list[bytes] = []
        self.overs = 0
        self.lock = threading.Lock()
        self.must_ask = False
        self.is_lost = False
        self.link = OwnerLink()
        self.link.channel = SimpleNamespace(fd=5, rows=[])  # type: ignore[assignment]  # as much as is used
        process: Any = SimpleNamespace(
            loop=SimpleNamespace(lock=self.lock, guard=nullcontext(), send_rows=self._send),
            objects=SimpleNamespace(
                table=SimpleNamespace(fresh=[], unconfirmed=False),
                note_pinned=lambda entries: self.pinned.extend(e.object_id for e in entries),
            ),
            questions=SimpleNamespace(ask_later=self._ask),
        )
        tidying: Any = SimpleNamespace(let_go=lambda _borrowed: None, keep=self._keep)
        self.settling = Settling(process, tidying, lambda one: self.sent.append(one.call.task_id))
        self.settling.over = self._over

    def _send(self, _channel: Any, rows: list[TaskAnswer], *, now: bool) -> None:
        self.sent += [answer.task_id for answer in rows]

    def _ask(self, make: Any, told: Waiter) -> bool:
        if not self.is_lost:
            self.asked.append((make(len(self.asked)), told))
        return not self.is_lost

    def _keep(self, borrowed: list[Entry]) -> tuple[dict[bytes, Entry], bool]:
        return {entry.object_id: entry for entry in borrowed}, bool(borrowed) or self.must_ask

    def _over(self) -> None:
        self.overs += 1

    def end(self, name: bytes, *kept: bytes) -> None:
        """A call ends that keeps these."""
        call = TaskCall(name, 0, 1, b"", [], False)
        answer = TaskAnswer(name, 0, False, [b"value"], 1, 0, ())
        self.settling.settle([Settled(self.link, call, answer, [Entry(k, b"owner") for k in kept])])

    def answer(self, number: int) -> None:
        """The daemon answers a question."""
        with self.lock:
            self.asked[number][1].complete()


def test_call_that_keeps_nothing_is_answered_at_once() -> None:
    desk = Desk()

    desk.end(b"a")

    assert desk.sent == [b"a"]
    assert not desk.asked


def test_call_that_keeps_something_is_answered_when_it_is_pinned() -> None:
    desk = Desk()

    desk.end(b"a", b"array")
    assert desk.asked[0][0].object_ids == [b"array"]
    assert (desk.sent, desk.pinned, desk.settling.is_busy) == ([], [], True)
    desk.answer(0)

    assert (desk.sent, desk.pinned, desk.settling.is_busy, desk.overs) == ([b"a"], [b"array"], False, 1)


def test_call_that_ends_while_a_question_is_open_waits_for_it_too() -> None:
    # What is told at the end of one call may be another one's: the second must not overtake.
    desk = Desk()

    desk.end(b"a", b"array")
    desk.end(b"b")
    assert desk.sent == []
    desk.answer(0)

    assert desk.sent == [b"a", b"b"]
    assert len(desk.asked) == 1


def test_answers_keep_the_order_of_their_questions() -> None:
    desk = Desk()
    desk.end(b"a", b"array")
    desk.end(b"b", b"other")
    desk.end(b"c")

    desk.answer(1)
    assert desk.sent == []
    desk.answer(0)

    assert desk.sent == [b"a", b"b", b"c"]
    assert desk.pinned == [b"array", b"other"]


def test_holds_that_the_daemon_may_not_have_read_are_a_question_of_their_own() -> None:
    desk = Desk()
    desk.must_ask = True

    desk.end(b"a")

    assert desk.asked[0][0].object_ids == []
    assert desk.sent == []
    desk.answer(0)
    assert desk.sent == [b"a"]


def test_nothing_waits_for_a_daemon_that_is_gone() -> None:
    desk = Desk()
    desk.is_lost = True

    desk.end(b"a", b"array")

    assert desk.sent == [b"a"]


def test_call_of_an_owner_that_is_gone_is_answered_to_nobody() -> None:
    desk = Desk()
    desk.link.channel = None

    desk.end(b"a")

    assert desk.sent == [b"a"]  # by ``answer_nobody``
