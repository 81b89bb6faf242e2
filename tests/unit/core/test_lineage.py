"""What is kept of finished tasks, for how long, and what must run again for an object that is lost."""

from __future__ import annotations

import pytest

from nbray.core.lineage import CannotBeMadeError, Lineage
from nbray.core.references import Entry
from nbray.core.tasks import Task, TaskSpec
from nbray.model import ids
from nbray.wire.base import Descriptor


class Desk:
    """A lineage, and the entries of the process that it belongs to."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.lineage = Lineage(max_bytes)
        self.entries: dict[bytes, Entry] = {}

    def run(
        self,
        number: int,
        *takes: bytes,
        retries: int = 3,
        attempt: int = 0,
        args: bytes | Descriptor = b"args",
    ) -> bytes:
        """A task was answered with a stored result; returns that."""
        spec = TaskSpec(1, b"f", f"task{number}", 1, (), retries, 0, "")
        task = Task(bytes([number]) * 16, spec, args, False, takes, takes, attempt)
        result = ids.result_id(task.task_id, 0)
        self.entries[result] = Entry(result, None, 1, value=place(result))
        self.lineage.keep(task, [result], self.entries)
        return result

    def drop(self, object_id: bytes) -> None:
        del self.entries[object_id]
        self.lineage.result_gone(object_id)

    def plan(self, object_id: bytes) -> list[str]:
        return [kept.task.name for kept in self.lineage.plan(object_id, self.entries)]


def place(object_id: bytes) -> Descriptor:
    return Descriptor(object_id, b"n" * 16, 0, 1 << 20, 1)


def test_lost_result_is_made_by_its_task() -> None:
    desk = Desk()

    assert desk.plan(desk.run(1)) == ["task1"]


def test_argument_that_was_let_go_is_made_first() -> None:
    desk = Desk()
    first = desk.run(1)
    second = desk.run(2, first)
    third = desk.run(3, second)
    desk.drop(first)
    desk.drop(second)

    assert desk.plan(third) == ["task1", "task2", "task3"]


def test_argument_that_is_there_is_not_made() -> None:
    desk = Desk()
    first = desk.run(1)

    assert desk.plan(desk.run(2, first)) == ["task2"]


def test_argument_that_two_take_is_made_once() -> None:
    desk = Desk()
    first = desk.run(1)
    second, third = desk.run(2, first), desk.run(3, first)
    last = desk.run(4, second, third)
    for gone in (first, second, third):
        desk.drop(gone)

    plan = desk.plan(last)
    assert sorted(plan) == ["task1", "task2", "task3", "task4"]
    assert (plan[0], plan[-1]) == ("task1", "task4")


def test_small_argument_is_kept_with_the_task() -> None:
    desk = Desk()
    small = b"s" * 20
    desk.entries[small] = Entry(small, None, 1, value=b"small")
    result = desk.run(1, small)
    del desk.entries[small]

    (kept,) = desk.lineage.plan(result, desk.entries)
    assert kept.values == {small: b"small"}


def test_nothing_is_kept_when_nobody_can_ask() -> None:
    desk = Desk()
    first = desk.run(1)
    second = desk.run(2, first)

    desk.drop(first)
    assert len(desk.lineage) == 2  # the second needs it
    desk.drop(second)
    assert (len(desk.lineage), desk.lineage.size_bytes) == (0, 0)


def test_chain_of_ten_thousand_is_forgotten_and_planned_without_recursion() -> None:
    desk = Desk(1 << 30)
    spec = TaskSpec(1, b"f", "link", 1, (), 3, 0, "")
    last = None
    for number in range(10_000):
        takes = (last,) if last else ()
        task = Task(number.to_bytes(16, "big"), spec, b"", False, takes, takes)
        result = ids.result_id(task.task_id, 0)
        desk.entries[result] = Entry(result, None, 1, value=place(result))
        desk.lineage.keep(task, [result], desk.entries)
        if last:
            desk.drop(last)
        last = result

    assert last
    assert len(desk.plan(last)) == 10_000
    desk.drop(last)
    assert len(desk.lineage) == 0


def test_put_value_that_is_gone_cannot_be_made_and_the_text_says_so() -> None:
    desk = Desk()
    put = b"p" * 20
    desk.entries[put] = Entry(put, None, 1, value=place(put))
    result = desk.run(1, put)
    del desk.entries[put]

    with pytest.raises(CannotBeMadeError, match="a value that it was made from was put"):
        desk.plan(result)
    with pytest.raises(CannotBeMadeError, match="it was put"):
        desk.plan(put)


@pytest.mark.parametrize(("retries", "args"), [(0, b"args"), (3, place(b"a" * 20))])
def test_task_that_may_run_once_or_whose_arguments_are_not_kept_is_not_kept(
    retries: int, args: bytes | Descriptor
) -> None:
    desk = Desk()
    desk.run(1, retries=retries, args=args)

    assert len(desk.lineage) == 0


def test_runs_are_counted_with_the_retries() -> None:
    desk = Desk()

    with pytest.raises(CannotBeMadeError, match=r"task1, which made it, has run 4 times.*max_retries=3"):
        desk.plan(desk.run(1, attempt=3))
    assert desk.plan(desk.run(2, retries=-1, attempt=1000)) == ["task2"]


def test_lineage_is_bounded_and_says_what_it_dropped() -> None:
    desk = Desk(max_bytes=10_000)
    results = [desk.run(number, args=b"x" * 1000) for number in range(20)]

    assert desk.lineage.size_bytes <= 10_000
    assert desk.lineage.dropped == 20 - len(desk.lineage)
    with pytest.raises(CannotBeMadeError, match="too long ago"):
        desk.plan(results[0])
    assert desk.plan(results[-1]) == ["task19"]


def test_task_that_ran_again_is_kept_once_with_its_attempt() -> None:
    desk = Desk()
    desk.run(1)
    result = desk.run(1, attempt=1)

    (kept,) = desk.lineage.plan(result, desk.entries)
    assert kept.task.attempt == 1
    desk.drop(result)
    assert (len(desk.lineage), desk.lineage.size_bytes) == (0, 0)
