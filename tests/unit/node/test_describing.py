"""The daemon asks every process who holds what, and waits for none of them longer than a second."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nbray.node import describing
from nbray.node.describing import DEADLINE_S, Describing
from nbray.wire.base import Message
from nbray.wire.memory_messages import (
    DescribeEntries,
    EntriesDescribed,
    EntryFacts,
    GetMemory,
    MemoryReport,
    Origin,
    ProcessFacts,
    StoredFacts,
)

NODE, DRIVER, ONE, TWO = b"n" * 16, b"d" * 16, b"1" * 16, b"2" * 16
STORED = StoredFacts(b"o" * 20, DRIVER, 7, "in store", "store", [], [], 0, [])


class Surroundings:
    """What the daemon lends it: processes, a clock that the test turns, and an ear."""

    def __init__(self) -> None:
        self.processes = {DRIVER: 10, ONE: 11, TWO: 12}
        self.sent: list[tuple[bytes, Message]] = []
        self.planned: list[tuple[float, Callable[[], None]]] = []
        self.describing = Describing(
            NODE, lambda: self.processes, lambda to, message: self.sent.append((to, message)),
            lambda delay_s, call: self.planned.append((delay_s, call)),
            lambda: ([STORED], 3), lambda: {"used_bytes": 7},
        )  # fmt: skip

    def asked(self) -> dict[bytes, int]:
        """Who was asked something, by which number."""
        return {to: message.number for to, message in self.sent if isinstance(message, DescribeEntries)}

    def answer(self, process_id: bytes, number: int, entries: int = 0) -> None:
        self.describing.described(process_id, EntriesDescribed(number, facts(process_id, entries)))

    def reports(self) -> list[tuple[bytes, MemoryReport]]:
        return [(to, message) for to, message in self.sent if isinstance(message, MemoryReport)]

    def pass_time(self) -> None:
        planned, self.planned = self.planned, []
        for _delay_s, call in planned:
            call()


def facts(process_id: bytes, entries: int = 0) -> ProcessFacts:
    rows = [
        EntryFacts(n.to_bytes(20, "big"), b"", n, "inline", 1, 0, 0, 0, False, [], [], Origin())
        for n in range(entries)
    ]
    return ProcessFacts(process_id, 1, "worker", "train", rows, 0)


def test_everybody_but_the_asker_is_asked_and_the_report_comes_with_the_last_answer() -> None:
    around = Surroundings()

    around.describing.asked(DRIVER, GetMemory(5))
    asked = around.asked()
    assert set(asked) == {ONE, TWO}
    around.answer(ONE, asked[ONE])
    assert not around.reports()
    around.answer(TWO, asked[TWO])

    ((to, report),) = around.reports()
    assert to == DRIVER
    assert (report.request_id, report.node_id, report.figures) == (5, NODE, {"used_bytes": 7})
    assert (report.stored, report.left_out) == ([STORED], 3)
    assert [each.process_id for each in report.processes] == [ONE, TWO]
    assert report.silent == []


def test_who_is_late_is_named_and_not_waited_for() -> None:
    around = Surroundings()

    around.describing.asked(ONE, GetMemory(1))
    around.answer(DRIVER, around.asked()[DRIVER])
    assert [delay_s for delay_s, _call in around.planned] == [DEADLINE_S]
    around.pass_time()

    ((to, report),) = around.reports()
    assert to == ONE
    assert report.silent == [(TWO, 12)]


def test_who_died_meanwhile_is_not_late() -> None:
    around = Surroundings()

    around.describing.asked(DRIVER, GetMemory(1))
    around.answer(ONE, around.asked()[ONE])
    del around.processes[TWO]
    around.pass_time()

    assert around.reports()[0][1].silent == []


def test_an_answer_that_is_late_repeated_or_unasked_changes_nothing() -> None:
    around = Surroundings()

    around.describing.asked(DRIVER, GetMemory(1))
    number = around.asked()[ONE]
    around.answer(ONE, number)
    around.answer(ONE, number)
    around.answer(b"x" * 16, number)
    assert not around.reports()
    around.pass_time()
    around.answer(TWO, number)

    assert len(around.reports()) == 1
    assert len(around.reports()[0][1].processes) == 1


def test_two_may_ask_at_once() -> None:
    around = Surroundings()

    around.describing.asked(DRIVER, GetMemory(1))
    around.describing.asked(ONE, GetMemory(1))
    for to, message in list(around.sent):
        assert isinstance(message, DescribeEntries)
        around.answer(to, message.number)

    assert [to for to, _report in around.reports()] == [DRIVER, ONE]


def test_alone_on_the_node_the_answer_comes_at_once() -> None:
    around = Surroundings()
    around.processes = {DRIVER: 10}

    around.describing.asked(DRIVER, GetMemory(1))

    assert len(around.reports()) == 1
    assert not around.planned


def test_a_report_fits_into_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "ENTRIES_MAX", 100)
    around = Surroundings()

    around.describing.asked(DRIVER, GetMemory(1))
    number = around.asked()[ONE]
    around.answer(ONE, number, entries=90)
    around.answer(TWO, number, entries=20)

    one, two = around.reports()[0][1].processes
    assert (len(one.entries), one.left_out) == (50, 40)
    assert min(entry.size_bytes for entry in one.entries) == 40  # the largest stay
    assert (len(two.entries), two.left_out) == (20, 0)
