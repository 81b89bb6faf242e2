"""A process's own table as plain facts."""

from __future__ import annotations

from typing import Any

import pytest

import nbray
from nbray.core.references import Away, Entry
from nbray.core.tasks import Task, TaskSpec
from nbray.model.errors import OwnerDiedError, UnreconstructableError
from nbray.runtime.context import Place
from nbray.runtime.describing import facts_of, locator, size_of, state_of, tasks_by_argument
from nbray.runtime.sites import here, origin_of
from nbray.runtime.task_errors import serialize_error, serialize_system_error
from nbray.wire.base import Descriptor
from nbray.wire.memory_messages import Origin

ID, OTHER, OWNER = b"o" * 20, b"x" * 20, b"p" * 16
STORED = Descriptor(ID, b"n" * 16, 4096, 1000, 1)


def entry_with(value: Any, **fields: Any) -> Entry:
    return Entry(ID, None, value=value, **fields)


def spec(name: str, cell: str = "") -> TaskSpec:
    return TaskSpec(1, b"f" * 16, name, 1, (("CPU", 10_000),), 3, 0, cell)


@pytest.mark.parametrize(
    ("entry", "state", "size_bytes"),
    [
        (entry_with(None), "pending", -1),
        (entry_with(b"12345"), "inline", 5),
        (entry_with(STORED), "in store", 1000),
        (entry_with(Away(77)), "in store", 77),
        (entry_with(STORED, failed=True), "failed", 1000),
    ],
)
def test_a_value_tells_its_state_and_size(entry: Entry, state: str, size_bytes: int) -> None:
    assert (state_of(entry), size_of(entry)) == (state, size_bytes)


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (serialize_error(ValueError("x"), task_name="f", pid=1), "failed"),
        (serialize_error(UnreconstructableError(ID), task_name="f", pid=1), "failed"),
        (serialize_system_error(UnreconstructableError(ID, why="it was freed")), "lost"),
        (serialize_system_error(UnreconstructableError(ID, why="it was evicted")), "evicted"),
        (serialize_system_error(OwnerDiedError(ID)), "lost"),
    ],
)
def test_an_error_tells_whether_the_task_failed_or_the_object_is_gone(record: bytes, state: str) -> None:
    assert state_of(entry_with(record, failed=True)) == state


def test_all_that_holds_an_object_is_in_its_row() -> None:
    entry = Entry(
        ID, OWNER, handles=1, arguments=2, views=3, kept=4, value=STORED, exported=True, inner=(OTHER,),
        site=spec("load", "In[3]"),
    )  # fmt: skip

    facts = facts_of(entry, ["train"])

    assert (facts.handles, facts.arguments, facts.views, facts.kept, facts.exported) == (1, 2, 3, 4, True)
    assert (facts.owner_id, facts.tasks, facts.inner) == (OWNER, ["train"], [OTHER])
    assert facts.origin == Origin("task", "load", "In[3]")


def test_tasks_are_named_at_each_object_that_they_hold() -> None:
    tasks = [Task(bytes([n]) * 16, spec(name), b"", False, holds=holds)
             for n, (name, holds) in enumerate([("a", [ID]), ("b", [ID, OTHER]), ("c", [])])]  # fmt: skip

    assert tasks_by_argument(tasks) == {ID: ["a", "b"], OTHER: ["b"]}


def test_many_tasks_of_one_object_are_not_all_named() -> None:
    tasks = [Task(n.to_bytes(16, "big"), spec("a"), b"", False, holds=[ID]) for n in range(1_000)]

    assert len(tasks_by_argument(tasks)[ID]) == 20


def test_an_address_tells_its_object() -> None:
    locate = locator(1_000_000, [(8192, 100, OTHER), (0, 4096, ID)])

    assert [locate(1_000_000 + at) for at in (-1, 0, 4095, 4096, 8191, 8192, 8291, 8292)] == [
        None, ID, ID, None, None, OTHER, OTHER, None,
    ]  # fmt: skip


def putting() -> Any:
    return here(Place("In[7]", 0), 1)


def test_the_line_that_made_an_object_is_told() -> None:
    line = putting.__code__.co_firstlineno + 1

    assert origin_of(putting()) == Origin("put", "", "In[7]", __file__, line)
    assert origin_of(None) == Origin()


def test_our_own_lines_are_no_lines_of_the_users() -> None:
    namespace: dict[str, Any] = {"here": here}
    ours = nbray.__file__ or ""
    exec(compile("def put(place): return here(place, 1)", ours, "exec"), namespace)

    site = namespace["put"](Place("", 0))

    assert origin_of(site).file == __file__
