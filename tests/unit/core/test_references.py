"""What holds an object here, and when its entry goes: one sentence each.

Called by:  pytest.
Imports:    nbray.core.references.
Never:      maps memory.
"""

from __future__ import annotations

import itertools

import pytest

from nbray.core.references import Entry, ReferenceTable
from nbray.wire.base import Descriptor

X, Y, Z = b"x" * 20, b"y" * 20, b"z" * 20
HERE, ELSEWHERE = b"h" * 16, b"p" * 16
STORED = Descriptor(X, b"n" * 16, 0, 64, 1)


class Held:
    """A table, and what it let go of."""

    def __init__(self) -> None:
        self.table = ReferenceTable()
        self.freed: list[Entry] = []

    def freed_ids(self) -> list[bytes]:
        freed, self.freed = self.freed, []
        return [entry.object_id for entry in freed]

    def drop(self, object_id: bytes) -> list[bytes]:
        self.table.drop_handle(object_id, self.freed)
        return self.freed_ids()

    def unheld(self, object_id: bytes) -> list[bytes]:
        self.table.unheld([object_id], self.freed)
        return self.freed_ids()


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
    held.table.open_views(held.table.own(X), 1)
    held.table.drop_handle(X, held.freed)

    assert held.freed_ids() == []
    held.table.close_view(X, held.freed)

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
    held.table.open_views(entry, 1)

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
    held.table.open_views(held.table.own(X), 1)
    held.table.hold_argument(X)
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
    held.table.own(X)
    held.table.export(X)
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


# --- shared objects: others may hold them ----------------------------------------------------------------


def test_shared_object_is_let_go_of_and_stays_until_nobody_else_holds_it() -> None:
    held = Held()
    entry = held.table.own(X)
    assert held.table.share([X]) == [entry]
    assert held.table.share([X]) == [], "the second time is no news"

    assert held.drop(X) == []
    assert held.table.take_let_go() == [X]
    assert held.table.take_let_go() == []
    assert X in held.table.entries

    assert held.unheld(X) == [X]


def test_borrowed_and_unknown_objects_are_not_shared_here() -> None:
    held = Held()
    held.table.borrow(X, ELSEWHERE)

    assert held.table.share([X, Y]) == []
    assert held.drop(X) == [X]
    assert held.table.take_let_go() == []


def test_with_a_reference_leave_those_that_its_object_contains() -> None:
    held = Held()
    for object_id in (X, Y, Z):
        held.table.own(object_id)
    held.table.contain(held.table.entries[Y], [(Z, HERE)], HERE)
    held.table.contain(held.table.entries[X], [(Y, HERE)], HERE)

    assert {entry.object_id for entry in held.table.share([X])} == {X, Y, Z}


def test_object_that_came_back_before_it_was_unheld_stays() -> None:
    held = Held()
    held.table.own(X)
    held.table.share([X])
    held.drop(X)

    held.table.add_handle(X)

    assert held.unheld(X) == []
    assert held.table.take_let_go() == [X]
    assert held.drop(X) == []
    assert held.table.take_let_go() == [X]
    assert held.unheld(X) == [X]


def test_what_was_handed_on_since_it_was_let_go_of_is_asked_about_again() -> None:
    """The answer is about the time before: whoever got it since then may hold it."""
    held = Held()
    held.table.own(X)
    held.table.share([X])
    held.drop(X)
    assert held.table.take_let_go() == [X]
    held.table.add_handle(X)
    assert held.drop(X) == []
    assert held.table.take_let_go() == [], "one question at a time"

    assert held.unheld(X) == []
    assert held.table.take_let_go() == [X]
    assert held.unheld(X) == [X]


def test_answers_to_no_question_change_nothing() -> None:
    held = Held()
    held.table.own(X)
    held.table.share([X])
    held.table.borrow(Y, ELSEWHERE)

    assert held.unheld(X) == []
    assert held.unheld(Y) == []
    assert held.unheld(Z) == []
    assert set(held.table.entries) == {X, Y}


def test_value_that_only_others_wait_for_is_taken() -> None:
    held = Held()
    entry = held.table.own(X)
    held.table.share([X])
    held.drop(X)

    assert held.table.ready(entry, b"value", False)


def test_value_that_comes_after_a_borrowed_object_went_is_not_taken() -> None:
    held = Held()
    entry = held.table.borrow(X, ELSEWHERE)
    held.table.take_fresh()
    held.drop(X)

    assert not held.table.ready(entry, b"late", False)


def test_reference_that_a_user_pickled_is_held_as_long_as_the_process_lives() -> None:
    """Nobody can know what became of it."""
    held = Held()
    entry = held.table.own(X)
    held.table.borrow(Y, ELSEWHERE)

    assert held.table.export(X) == [entry]
    assert held.table.export(X) == []
    assert held.table.export(Y) == []
    assert held.table.export(Z) == []

    assert held.drop(X) == []
    assert held.drop(Y) == []
    assert held.table.take_let_go() == []
    assert held.table.take_fresh() == [(Y, ELSEWHERE)]


# --- objects that contain others -------------------------------------------------------------------------


def test_an_object_holds_what_it_contains_and_lets_go_of_it_with_itself() -> None:
    held = Held()
    held.table.own(X)
    outer = held.table.own(Y)
    held.table.contain(outer, [(X, HERE), (Z, ELSEWHERE)], HERE)

    assert held.drop(X) == []
    assert held.table.take_fresh() == [(Z, ELSEWHERE)]
    assert held.drop(Y) == [Y, X, Z]


def test_chain_of_objects_that_contain_each_other_goes_at_once_however_long() -> None:
    held = Held()
    chain = [b"%020d" % n for n in range(5_000)]
    held.table.own(chain[0])
    for inner, outer in itertools.pairwise(chain):
        held.table.contain(held.table.own(outer), [(inner, HERE)], HERE)
        assert held.drop(inner) == []

    assert held.drop(chain[-1]) == chain[::-1]


def test_shared_object_inside_another_is_let_go_of_with_it() -> None:
    held = Held()
    held.table.own(X)
    held.table.share([X])
    held.table.contain(held.table.own(Y), [(X, HERE)], HERE)
    held.drop(X)
    assert held.table.take_let_go() == []

    assert held.drop(Y) == [Y]
    assert held.table.take_let_go() == [X]
    assert held.unheld(X) == [X]


def test_object_that_contains_itself_does_not_hold_itself() -> None:
    """A task may get hold of the reference of its own result, and return it."""
    held = Held()
    held.table.contain(held.table.own(X), [(X, HERE)], HERE)

    assert held.drop(X) == [X]


def test_own_object_that_is_gone_is_not_contained() -> None:
    """It was freed by force while its reference travelled."""
    held = Held()
    held.table.contain(held.table.own(X), [(Y, HERE)], HERE)

    assert held.table.entries[X].inner == ()
    assert held.drop(X) == [X]


def test_value_that_is_made_again_holds_what_the_first_one_held_too() -> None:
    """Somebody may have read the first."""
    held = Held()
    outer = held.table.own(X)
    held.table.contain(outer, [(Y, ELSEWHERE)], HERE)
    held.table.contain(outer, [(Y, ELSEWHERE), (Z, ELSEWHERE)], HERE)

    assert outer.inner == (Y, Z)
    assert held.drop(X) == [X, Y, Z]


# --- what the directory is told --------------------------------------------------------------------------


def test_borrowed_object_is_told_once_however_often_it_is_taken() -> None:
    held = Held()
    held.table.borrow(X, ELSEWHERE)
    held.table.borrow(X, ELSEWHERE)

    assert held.table.take_fresh() == [(X, ELSEWHERE)]
    held.table.borrow(X, ELSEWHERE)
    assert held.table.take_fresh() == []


def test_borrowed_object_that_went_before_anybody_was_told_is_not_told() -> None:
    held = Held()
    held.table.borrow(X, ELSEWHERE)
    held.drop(X)

    assert held.table.take_fresh() == []
    assert not held.table.unconfirmed


def test_argument_of_a_running_task_is_not_told_until_there_is_a_reference_to_it() -> None:
    """Its submitter holds it."""
    held = Held()
    held.table.borrow_argument(X, ELSEWHERE)
    assert held.table.take_fresh() == []

    held.table.borrow(X, ELSEWHERE)
    held.drop(X)

    assert held.table.take_fresh() == [(X, ELSEWHERE)], "the task still has it"


def test_view_alone_is_not_told_and_the_next_reference_is() -> None:
    """Bytes under a view are pinned, which is another matter."""
    held = Held()
    entry = held.table.borrow(X, ELSEWHERE)
    held.table.open_views(entry, 1)
    held.drop(X)
    assert held.table.take_fresh() == []

    held.table.borrow(X, ELSEWHERE)

    assert held.table.take_fresh() == [(X, ELSEWHERE)]


def test_borrowed_object_that_comes_back_is_told_again() -> None:
    held = Held()
    held.table.borrow(X, ELSEWHERE)
    held.table.take_fresh()
    held.drop(X)

    held.table.borrow(X, ELSEWHERE)

    assert held.table.take_fresh() == [(X, ELSEWHERE)]


def test_what_the_directory_knows_of_is_released_when_it_goes() -> None:
    held = Held()
    held.table.own(X)
    for object_id in (Y, Z):
        held.table.borrow(object_id, ELSEWHERE)
        held.table.take_fresh()
    held.table.borrow(ELSEWHERE, ELSEWHERE)  # it was told nothing of this one
    for object_id in (X, Y, Z, ELSEWHERE):
        held.table.drop_handle(object_id, held.freed)

    assert held.table.released(held.freed) == [Y, Z]


def test_what_came_back_before_the_directory_was_told_is_not_released() -> None:
    """It would be told of the new hold first, and then take it for the old one."""
    held = Held()
    held.table.borrow(X, ELSEWHERE)
    held.table.take_fresh()
    held.table.drop_handle(X, held.freed)
    held.table.borrow(X, ELSEWHERE)

    assert held.table.take_fresh() == [(X, ELSEWHERE)]
    assert held.table.released(held.freed) == []


def test_who_told_the_directory_something_has_to_ask_whether_it_was_read() -> None:
    """Also if nothing is fresh any more when its task is over: it may have told of it in between."""
    held = Held()
    assert not held.table.unconfirmed
    held.table.borrow(X, ELSEWHERE)
    held.table.take_fresh()

    held.table.take_fresh()

    assert held.table.unconfirmed
