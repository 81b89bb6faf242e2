"""Who holds an object besides its owner, and when the owner hears that nobody does: one sentence each.

Called by:  pytest.
Imports:    nbray.core.holds.
Never:      has processes: what they say is said here in every order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from nbray.core.holds import Abandon, Command, Holdings, HoldTable, Notify
from nbray.wire.object_messages import SettleParcels, Unheld

X, Y, Z = b"x" * 20, b"y" * 20, b"z" * 20
OWNER, A, B = b"owner", b"a", b"b"
XO, YO, ZO = (X, OWNER), (Y, OWNER), (Z, OWNER)
PARCEL = b"task/0"


def unheld(object_id: bytes, owner: bytes = OWNER) -> Notify:
    return Notify(owner, Unheld([object_id]))


class Desk:
    """A directory, and what it ordered in answer to the last fact."""

    def __init__(self) -> None:
        self.table = HoldTable()

    def release(self, process: bytes, *object_ids: bytes) -> list[Command]:
        out: list[Command] = []
        self.table.release(process, object_ids, out)
        return out

    def end(self, receiver: bytes, sender: bytes, *parcel_ids: bytes) -> list[Command]:
        out: list[Command] = []
        self.table.end_parcels(receiver, sender, parcel_ids, out)
        return out

    def settled(self, receiver: bytes, sender: bytes) -> list[Command]:
        out: list[Command] = []
        self.table.settled(receiver, sender, out)
        return out

    def let_go(self, *object_ids: bytes, owner: bytes = OWNER) -> list[Command]:
        out: list[Command] = []
        self.table.let_go(owner, object_ids, out)
        return out

    def freed(self, *object_ids: bytes) -> list[Command]:
        out: list[Command] = []
        self.table.freed(object_ids, out)
        return out

    def lose(self, process: bytes, *orphans: bytes) -> list[Command]:
        out: list[Command] = []
        self.table.process_lost(process, orphans, out)
        return out


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- holders ---------------------------------------------------------------------------------------------


def test_owner_of_what_nobody_else_holds_hears_so_at_once(desk: Desk) -> None:
    assert desk.let_go(X, Y) == [unheld(X), unheld(Y)]
    assert desk.let_go(X) == [unheld(X)], "each question has its answer"


def test_owner_hears_when_the_last_holder_lets_go(desk: Desk) -> None:
    desk.table.hold(A, [XO])
    desk.table.hold(B, [XO])

    assert desk.let_go(X) == []
    assert desk.release(A, X) == []
    assert desk.release(B, X) == [unheld(X)]
    assert desk.release(B, X) == [], "and hears it once"


def test_owner_that_still_holds_it_hears_nothing(desk: Desk) -> None:
    desk.table.hold(A, [XO])

    assert desk.release(A, X) == []
    assert not desk.table.is_held(X)


def test_process_that_says_it_twice_holds_it_once(desk: Desk) -> None:
    desk.table.hold(A, [XO, XO])
    desk.table.hold(A, [XO])
    desk.let_go(X)

    assert desk.table.counts()["borrows"] == 1
    assert desk.release(A, X) == [unheld(X)]


def test_who_does_not_hold_it_cannot_release_it_for_others(desk: Desk) -> None:
    desk.table.hold(A, [XO])
    desk.let_go(X)

    assert desk.release(B, X, Y) == []
    assert desk.table.is_held(X)


# --- parcels ---------------------------------------------------------------------------------------------


def test_references_under_way_are_held_until_their_receiver_has_them(desk: Desk) -> None:
    desk.table.hold(A, [XO])
    desk.let_go(X)
    desk.table.send_parcel(A, PARCEL, B, [XO, XO])

    assert desk.release(A, X) == []
    assert desk.end(B, A, PARCEL) == [unheld(X)]


def test_receiver_may_be_heard_before_the_sender(desk: Desk) -> None:
    """The two talk to the daemon on sockets of their own."""
    desk.table.hold(A, [XO])
    desk.let_go(X)

    assert desk.end(B, A, PARCEL) == []
    desk.table.send_parcel(A, PARCEL, B, [XO])

    assert desk.release(A, X) == [unheld(X)]
    assert not any(desk.table.counts().values())


def test_parcel_that_is_announced_twice_ends_once(desk: Desk) -> None:
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.let_go(X)

    assert desk.end(B, A, PARCEL) == [unheld(X)]


def test_object_in_two_parcels_is_held_by_both(desk: Desk) -> None:
    desk.table.send_parcel(A, b"1", B, [XO])
    desk.table.send_parcel(A, b"2", B, [XO])
    desk.let_go(X)

    assert desk.end(B, A, b"2") == []
    assert desk.end(B, A, b"1") == [unheld(X)]


def test_parcels_to_the_dead_hold_nothing(desk: Desk) -> None:
    desk.table.send_parcel(A, b"1", B, [XO])
    desk.let_go(X)

    assert desk.lose(B) == [unheld(X)]
    desk.table.send_parcel(A, b"2", B, [XO])

    assert not desk.table.is_held(X)


def test_receivers_of_a_dead_senders_parcels_are_asked_what_they_have(desk: Desk) -> None:
    desk.table.send_parcel(A, b"1", B, [XO])
    desk.table.send_parcel(A, b"2", B, [YO])
    desk.table.send_parcel(A, b"3", OWNER, [XO])
    desk.let_go(X, Y)

    assert desk.lose(A) == [Notify(B, SettleParcels(A)), Notify(OWNER, SettleParcels(A))]
    desk.table.hold(B, [XO])
    assert desk.end(B, A, b"1") == []
    assert desk.settled(B, A) == [unheld(Y)]
    assert desk.settled(OWNER, A) == []
    assert desk.release(B, X) == [unheld(X)]
    assert not any(desk.table.counts().values())


def test_nobody_settles_what_the_living_send(desk: Desk) -> None:
    desk.table.send_parcel(A, PARCEL, B, [XO])

    assert desk.settled(B, A) == []
    assert desk.table.is_held(X)


def test_receiver_that_dies_in_doubt_ends_its_parcels(desk: Desk) -> None:
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.let_go(X)
    desk.lose(A)

    assert desk.lose(B) == [unheld(X)]


def test_parcel_that_ended_before_its_sender_died_is_not_waited_for(desk: Desk) -> None:
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.end(B, A, PARCEL)

    assert desk.lose(A) == []
    assert desk.end(B, A, PARCEL) == []
    assert not any(desk.table.counts().values())


# --- containers ------------------------------------------------------------------------------------------


def test_stored_value_holds_what_is_in_it_until_it_is_freed(desk: Desk) -> None:
    desk.table.contain(Y, [XO])
    assert desk.let_go(X) == []

    assert desk.freed(Y, Z) == [unheld(X)]
    assert desk.freed(Y) == []


def test_value_of_another_attempt_holds_what_is_in_it_as_well(desk: Desk) -> None:
    """Readers may have seen either."""
    desk.table.contain(Z, [XO])
    desk.table.contain(Z, [YO])
    desk.let_go(X, Y)

    assert desk.freed(Z) == [unheld(X), unheld(Y)]


def test_object_that_contains_itself_does_not_hold_itself(desk: Desk) -> None:
    desk.table.contain(X, [XO])

    assert desk.let_go(X) == [unheld(X)]
    assert not any(desk.table.counts().values())


# --- the dead --------------------------------------------------------------------------------------------


def test_death_of_a_holder_is_a_release_of_all_that_it_held(desk: Desk) -> None:
    desk.table.hold(A, [XO, YO])
    desk.table.hold(B, [YO])
    desk.let_go(X, Y)

    assert desk.lose(A) == [unheld(X)]
    assert desk.lose(A) == []
    assert desk.release(B, Y) == [unheld(Y)]


def test_nobody_is_told_when_the_owner_is_dead_too(desk: Desk) -> None:
    desk.table.hold(A, [XO])
    desk.let_go(X)

    assert desk.lose(OWNER) == []
    assert desk.release(A, X) == []
    assert not any(desk.table.counts().values())


def test_objects_of_the_dead_live_as_long_as_somebody_holds_them(desk: Desk) -> None:
    desk.table.hold(A, [XO])

    assert desk.lose(OWNER, X, Y) == [Abandon(Y)]
    assert desk.release(A, X) == [Abandon(X)]
    assert not any(desk.table.counts().values())


def test_objects_of_the_dead_hold_what_they_contain(desk: Desk) -> None:
    desk.table.contain(X, [(Y, B), ZO])
    desk.table.hold(A, [XO])
    desk.table.hold(OWNER, [(Y, B)])

    assert desk.let_go(Y, owner=B) == []
    assert desk.lose(OWNER, Z, X) == []
    assert desk.release(A, X) == [Abandon(X), Abandon(Z), unheld(Y, B)]
    assert not any(desk.table.counts().values())


def test_long_chain_of_orphans_goes_at_once(desk: Desk) -> None:
    chain = [b"%020d" % n for n in range(5_000)]
    for inner, outer in itertools.pairwise(chain):
        desk.table.contain(outer, [(inner, OWNER)])
    desk.table.hold(A, [(chain[-1], OWNER)])
    assert desk.lose(OWNER, *chain) == []

    assert desk.release(A, chain[-1]) == [Abandon(object_id) for object_id in reversed(chain)]


def test_orphan_that_is_freed_by_force_is_abandoned_no_more(desk: Desk) -> None:
    desk.table.contain(X, [YO])
    desk.table.hold(A, [XO])
    desk.lose(OWNER, X, Y)

    assert desk.freed(X) == [Abandon(Y)]
    assert desk.release(A, X) == []
    assert not any(desk.table.counts().values())


@pytest.mark.parametrize(
    "speak",
    [
        lambda desk: desk.table.hold(A, [XO]),
        lambda desk: desk.table.send_parcel(A, PARCEL, B, [XO]),
        lambda desk: desk.end(A, B, b"another"),
        lambda desk: desk.let_go(X, owner=A),
        lambda desk: desk.release(A, X),
        lambda desk: desk.settled(A, B),
        lambda desk: desk.lose(A, X),
    ],
)
def test_dead_incarnation_changes_nothing(desk: Desk, speak: Callable[[Desk], list[Command] | None]) -> None:
    desk.table.hold(B, [XO])
    desk.lose(A)
    before = desk.table.counts(), desk.table.holdings(X)

    assert not speak(desk)

    assert (desk.table.counts(), desk.table.holdings(X)) == before


# --- for people ------------------------------------------------------------------------------------------


def test_holdings_name_all_that_hold_an_object(desk: Desk) -> None:
    desk.table.hold(B, [XO])
    desk.table.hold(A, [XO])
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.table.contain(Z, [XO])

    assert desk.table.holdings(X) == Holdings((A, B), 1, (Z,))
    assert desk.table.holdings(Y) == Holdings((), 0, ())


def test_counts_have_everything_that_is_remembered(desk: Desk) -> None:
    desk.table.hold(A, [XO, YO])
    desk.table.hold(B, [XO])
    desk.table.send_parcel(A, PARCEL, B, [XO])
    desk.end(B, A, b"early")
    desk.table.contain(Z, [XO])
    desk.lose(OWNER, Y)
    desk.let_go(X, owner=A)

    assert desk.table.counts() == {
        "borrowed": 2,
        "borrows": 3,
        "parcels": 1,
        "ended_early": 1,
        "containers": 1,
        "orphans": 1,
        "let_go": 1,
    }
