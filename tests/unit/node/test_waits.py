"""The daemon asks every process what it waits for, but none that is stopped, and waits for a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nbray.core.lease_requests import Admit, Command
from nbray.core.scheduler import Scheduler
from nbray.core.workers import WorkerPool
from nbray.model.resources import CPU, GPU, UNIT
from nbray.node.waits import DEADLINE_S, Waits
from nbray.transport import procfs
from nbray.transport.procfs import Process
from nbray.wire.base import Message
from nbray.wire.waiting_messages import (
    DescribeWaits,
    GetWaits,
    LeaseFacts,
    QueueFacts,
    WaitFacts,
    WaitsDescribed,
    WaitsReport,
    WorkerFacts,
)

DRIVER, ONE = b"d" * 16, b"1" * 16


class Peer:
    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id


class Surroundings:
    """What the daemon lends it: processes, books, a clock that the test turns, and an ear."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Message]] = []
        self.planned: list[tuple[float, Callable[[], None]]] = []
        self.answered: list[bytes] = []
        self.scheduler = Scheduler({CPU: UNIT})
        self.waits = Waits(
            self.scheduler, WorkerPool(1, 5), lambda: {DRIVER: 10, ONE: 11},
            lambda to, message: self.sent.append((to, message)),
            lambda delay_s, call: self.planned.append((delay_s, call)),
            lambda object_id: "spilled" if object_id == b"o" else "", lambda _lease_id: 3.5,
            lambda: "paused", lambda facts: self.answered.append(facts.process_id), lambda _up_in: [],
        )  # fmt: skip

    def hear(self, sender: bytes, message: Message) -> None:
        self.waits.handlers[type(message)](Peer(sender), message)  # type: ignore[arg-type]

    def asked(self) -> dict[bytes, int]:
        return {to: message.number for to, message in self.sent if isinstance(message, DescribeWaits)}

    def answer(self, process_id: bytes, number: int) -> None:
        self.hear(process_id, WaitsDescribed(number, WaitFacts(process_id, 1, "worker", [], [], [])))

    def reports(self) -> list[tuple[bytes, WaitsReport]]:
        return [(to, message) for to, message in self.sent if isinstance(message, WaitsReport)]


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    monkeypatch.setattr(procfs, "process", lambda _pid: Process("S", 1.0))
    return Surroundings()


def test_everybody_is_asked_and_the_report_comes_when_all_have_answered(around: Surroundings) -> None:
    around.hear(DRIVER, GetWaits(7, [b"o", b"p"], True))
    asked = around.asked()
    assert set(asked) == {DRIVER, ONE}

    around.answer(ONE, asked[ONE])
    assert around.reports() == []
    around.answer(DRIVER, asked[DRIVER])

    ((to, report),) = around.reports()
    assert (to, report.request_id, len(report.processes), report.paused) == (DRIVER, 7, 2, "paused")
    assert around.answered == [ONE, DRIVER]
    assert report.stored == [(b"o", "spilled")]


def test_who_is_silent_is_left_out_after_a_second(around: Surroundings) -> None:
    around.hear(DRIVER, GetWaits(7, [], False))
    around.answer(DRIVER, around.asked()[DRIVER])

    ((delay_s, call),) = around.planned
    call()

    assert delay_s == DEADLINE_S
    ((_to, report),) = around.reports()
    assert [facts.process_id for facts in report.processes] == [DRIVER]


def test_who_is_stopped_is_not_waited_for(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "process", lambda pid: Process("T" if pid == 11 else "S", 1.0))
    around.hear(DRIVER, GetWaits(7, [], False))
    assert set(around.asked()) == {DRIVER}

    around.answer(DRIVER, around.asked()[DRIVER])

    ((_to, report),) = around.reports()
    assert WorkerFacts(ONE, 11, "T") in report.workers


def test_the_report_has_the_books_of_the_node(around: Surroundings) -> None:
    out: list[Command] = []
    around.scheduler.request(b"a", DRIVER, {CPU: UNIT}, 0, 1, "f", out)
    around.scheduler.request(b"b", DRIVER, {CPU: UNIT}, 0, 1, "g", out)
    around.scheduler.request(b"c", DRIVER, {GPU: UNIT}, 0, 1, "h", out)
    assert out[0] == Admit(b"a")

    around.waits.ask([], lambda report: around.sent.append((b"", report)))
    around.planned[0][1]()

    ((_to, report),) = around.reports()
    assert report.leases == [LeaseFacts(b"", "f", {CPU: UNIT}, False, False)]
    assert [(q.name, q.feasible, q.lacking, q.age_s) for q in report.queues] == [
        ("g", True, ["CPU"], 3.5), ("h", False, ["GPU"], 3.5),
    ]  # fmt: skip
    assert all(isinstance(queue, QueueFacts) for queue in report.queues)
