"""What holds an object here, and when its entry goes: one sentence each.

Called by:  pytest.
Imports:    nbray.core.references.
Never:      maps memory.
"""

from __future__ import annotations

import pytest

from nbray.core.references import Entry, ReferenceTable
from nbray.wire.base import Descriptor

X, Y = b"x" * 20, b"y" * 20
ELSEWHERE = b"p" * 16
STORED = Descriptor(X, b"n" * 16, 0, 64, 1)


class Held:
    """A table, and what it let go of."""

    def __init__(self) -> None:
        self.table = ReferenceTable()
        self.freed: list[Entry] = []

    def freed_ids(self) -> list[bytes]:
        freed, self.freed = self.freed, []
        return [entry.object_id for entry in freed]


def test_own_object_lives_as_long_as_its_handles() -> None:
    held = Held()
    held.table.own(X)
    held.table.add_handle(X)

    held.table.drop_handle(X, held.freed)
    assert held.freed_ids() == []
    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == [X]
    assert len(held.table) == 0


def test_arguments_of_unfinished_tasks_are_kept_without_a_handle() -> None:
    held = Held()
    held.table.own(X)
    held.table.hold_argument(X)
    held.table.hold_argument(X)
    held.table.drop_handle(X, held.freed)

    held.table.release_argument(X, held.freed)
    assert held.freed_ids() == []
    held.table.release_argument(X, held.freed)

    assert held.freed_ids() == [X]


def test_views_keep_an_object_after_the_last_handle() -> None:
    held = Held()
    held.table.own(X)
    held.table.open_view(X)
    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == []
    held.table.close_view(X, held.freed)

    assert held.freed_ids() == [X]


def test_escaped_object_is_kept_for_the_rest_of_the_session() -> None:
    """Until borrowers are counted, nobody knows who holds the reference that was pickled."""
    held = Held()
    held.table.own(X)

    assert held.table.escape(X)
    assert not held.table.escape(X), "the second time is no news"
    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == []
    assert X in held.table.entries


def test_borrowed_and_unknown_objects_do_not_escape_here() -> None:
    held = Held()
    held.table.borrow(X, ELSEWHERE)

    assert not held.table.escape(X)
    assert not held.table.escape(Y)
    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == [X]


def test_borrowing_again_is_another_handle_on_the_same_entry() -> None:
    held = Held()
    entry = held.table.borrow(X, ELSEWHERE)

    assert held.table.borrow(X, ELSEWHERE) is entry
    held.table.drop_handle(X, held.freed)
    assert held.freed_ids() == []
    held.table.drop_handle(X, held.freed)

    assert held.freed == [entry]
    assert entry.owner == ELSEWHERE


def test_object_that_came_back_is_a_new_entry() -> None:
    """What was known of the old one, such as a pin, went with it."""
    held = Held()
    first = held.table.borrow(X, ELSEWHERE)
    first.pinned = True
    held.table.drop_handle(X, held.freed)

    second = held.table.borrow(X, ELSEWHERE)

    assert second is not first
    assert not second.pinned
    assert second.value is None


def test_first_value_is_final() -> None:
    held = Held()
    entry = held.table.own(X)

    assert held.table.ready(entry, b"first", False)
    assert not held.table.ready(entry, b"second", True)

    assert entry.value == b"first"
    assert not entry.failed


def test_value_that_nobody_wants_any_more_makes_no_entry() -> None:
    held = Held()
    entry = held.table.own(X)
    held.table.drop_handle(X, held.freed)

    assert not held.table.ready(entry, b"late", False)
    assert entry.value is None
    assert len(held.table) == 0


def test_argument_of_a_running_task_is_held_until_it_is_over() -> None:
    held = Held()
    entry = held.table.borrow_argument(X, ELSEWHERE)
    held.table.open_view(X)

    held.table.release_argument(X, held.freed)
    assert held.freed_ids() == [], "a view of it lives on"
    held.table.close_view(X, held.freed)

    assert held.freed == [entry]


def test_argument_that_others_here_wait_for_still_has_to_be_delivered_to_them() -> None:
    """A task brings the value of an object that an earlier caller asked the daemon for.

    Were it set in silence, the daemon's answer would find the entry ready and wake nobody.
    """
    held = Held()
    waiting = held.table.borrow(X, ELSEWHERE)
    waiting.waiters = ["somebody"]

    entry = held.table.borrow_argument(X, ELSEWHERE)

    assert entry is waiting
    assert entry.value is None
    assert held.table.ready(entry, STORED, False)
    assert entry.waiters == ["somebody"]


def test_an_own_object_may_come_back_as_an_argument() -> None:
    """The owner's own task was sent here, to the process that owns its argument."""
    held = Held()
    own = held.table.own(X)

    assert held.table.borrow_argument(X, ELSEWHERE) is own
    held.table.release_argument(X, held.freed)

    assert held.freed_ids() == []
    assert own.owner is None


@pytest.mark.parametrize("last", ["handle", "argument", "view"])
def test_entry_goes_with_the_last_hold_whichever_it_is(last: str) -> None:
    held = Held()
    held.table.own(X)
    held.table.hold_argument(X)
    held.table.open_view(X)
    drop = {
        "handle": held.table.drop_handle,
        "argument": held.table.release_argument,
        "view": held.table.close_view,
    }

    for kind in sorted(drop, key=lambda kind: kind == last):
        assert held.freed_ids() == []
        drop[kind](X, held.freed)

    assert held.freed_ids() == [X]


@pytest.mark.parametrize("kind", ["handle", "view"])
def test_drops_of_what_is_gone_are_harmless(kind: str) -> None:
    """They come from finalizers, in any order, also after the session dropped everything."""
    held = Held()
    drop = {"handle": held.table.drop_handle, "view": held.table.close_view}[kind]

    drop(X, held.freed)

    assert held.freed_ids() == []


@pytest.mark.parametrize("kind", ["handle", "argument", "view"])
def test_counting_below_zero_is_a_bug_that_shows(kind: str) -> None:
    held = Held()
    entry = held.table.own(X)
    entry.escaped = True
    held.table.drop_handle(X, held.freed)
    drop = {
        "handle": held.table.drop_handle,
        "argument": held.table.release_argument,
        "view": held.table.close_view,
    }[kind]

    with pytest.raises(AssertionError, match="twice"):
        drop(X, held.freed)


def test_objects_are_counted_apart() -> None:
    held = Held()
    held.table.own(X)
    held.table.own(Y)

    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == [X]
    assert list(held.table.entries) == [Y]
