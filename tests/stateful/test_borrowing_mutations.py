"""The checkers of borrowing notice mistakes: each of these is planted in the core or its host, and is found.

Called by:  pytest.
Imports:    tests.stateful.test_borrowing_{machine,exhaustive}; nbray.core.{references,holds} and their host
            in tests.support, to break them.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest import mock

import pytest

from nbray.core.holds import Abandon, Command, HoldTable, Notify
from nbray.core.references import KNOWN, LET_GO, NOT_LET_GO, Entry, Pair, ReferenceTable
from nbray.wire.base import Message
from nbray.wire.object_messages import EndParcels, ReleaseHolds, SendParcel, SettleParcels, Unheld
from tests.stateful.test_borrowing_exhaustive import BACK, CHAIN, KEPT, LENT, SEEN
from tests.stateful.test_borrowing_machine import walks
from tests.support.borrowing_process import Answer, Process
from tests.support.borrowing_search import Program, search
from tests.support.borrowing_world import Daemon

WALKS = 1000

# Each takes the place of a method; the originals are at hand below their names.
original: dict[str, Any] = {
    name: getattr(cls, name)
    for cls in (HoldTable, ReferenceTable, Process)
    for name in vars(cls)
    if not name.startswith("__")
}


# --- in the directory --------------------------------------------------------------------------------


def ignore_releases(
    holds: HoldTable, process: bytes, object_ids: Iterable[bytes], out: list[Command]
) -> None:
    pass


def release_what_all_hold(
    holds: HoldTable, process: bytes, object_ids: Iterable[bytes], out: list[Command]
) -> None:
    for object_id in object_ids:
        for holder in list(holds._holders.get(object_id, ())):
            original["release"](holds, holder, [object_id], out)


def count_holders(holds: HoldTable, process: bytes, held: Iterable[Pair]) -> None:
    """Who says it twice must take it back twice: a number instead of a set."""
    again = [pair for pair in held if process in holds._holders.get(pair[0], ())]
    original["hold"](holds, process, held)
    original["hold"](holds, process + b", again", again)


def believe_the_dead(holds: HoldTable, process: bytes, held: Iterable[Pair]) -> None:
    for object_id, _owner in held:
        holds._holders.setdefault(object_id, set()).add(process)
        holds._held_by.setdefault(process, set()).add(object_id)


def take_parcels_of_the_dead(
    holds: HoldTable, sender: bytes, parcel_id: bytes, receiver: bytes, held: Iterable[Pair]
) -> None:
    with mock.patch.object(holds, "_lost", {}):
        original["send_parcel"](holds, sender, parcel_id, receiver, held)


def forget_parcels_that_ended_early(
    holds: HoldTable, receiver: bytes, sender: bytes, parcel_ids: Iterable[bytes], out: list[Command]
) -> None:
    here = [p for p in parcel_ids if p in holds._parcels.get(sender, ())]
    original["end_parcels"](holds, receiver, sender, here, out)


def end_parcels_with_their_sender(
    holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]
) -> None:
    for parcel_id in list(holds._parcels.get(process, ())):
        holds._end(process, parcel_id, out)
    original["process_lost"](holds, process, orphans, out)


def forget_to_settle_parcels(
    holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]
) -> None:
    commands: list[Command] = []
    original["process_lost"](holds, process, orphans, commands)
    out += [c for c in commands if not (isinstance(c, Notify) and isinstance(c.message, SettleParcels))]


def keep_parcels_for_dead_receivers(
    holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]
) -> None:
    kept = holds._parcels
    holds._parcels = {process: kept.pop(process)} if process in kept else {}
    original["process_lost"](holds, process, orphans, out)
    holds._parcels |= kept


def keep_holds_of_the_dead(
    holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]
) -> None:
    with mock.patch.object(HoldTable, "release"):
        original["process_lost"](holds, process, orphans, out)


def parcels_do_not_hold(holds: HoldTable, object_id: bytes) -> bool:
    return object_id in holds._holders or object_id in holds._containers


def abandon_what_is_held(
    holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]
) -> None:
    orphans = list(orphans)
    original["process_lost"](holds, process, orphans, out)
    out += [Abandon(object_id) for object_id in orphans if object_id in holds._orphans]


def forget_orphans(holds: HoldTable, process: bytes, orphans: Iterable[bytes], out: list[Command]) -> None:
    original["process_lost"](holds, process, [], out)


def forget_what_is_inside(holds: HoldTable, object_id: bytes, inner: Iterable[Pair]) -> None:
    pass


def keep_what_abandoned_objects_contain(holds: HoldTable, object_id: bytes) -> list[bytes]:
    return []


def say_unheld_at_once(
    holds: HoldTable, owner: bytes, object_ids: Iterable[bytes], out: list[Command]
) -> None:
    out.append(Notify(owner, Unheld(list(object_ids))))


# --- at owners and borrowers -------------------------------------------------------------------------


def take_the_second_time_for_the_first(
    table: ReferenceTable, object_ids: Iterable[bytes], freed: list[Entry]
) -> None:
    for entry in map(table.entries.get, object_ids):
        if entry is not None and entry.owner is None and entry.told != NOT_LET_GO:
            entry.told = LET_GO
            original["unheld"](table, [entry.object_id], freed)


def free_what_is_held_again(table: ReferenceTable, object_ids: Iterable[bytes], freed: list[Entry]) -> None:
    for entry in map(table.entries.get, object_ids):
        if entry is not None and entry.owner is None and entry.told != NOT_LET_GO:
            table._remove(entry, freed)


def never_let_go_again(table: ReferenceTable, object_ids: Iterable[bytes], freed: list[Entry]) -> None:
    for entry in map(table.entries.get, object_ids):
        if entry is not None and entry.told == LET_GO:
            original["unheld"](table, [entry.object_id], freed)


def free_without_asking(table: ReferenceTable, entry: Entry, freed: list[Entry]) -> None:
    if not entry.held:
        table._remove(entry, freed)


def forget_that_it_was_shared(table: ReferenceTable, object_ids: Iterable[bytes]) -> list[Entry]:
    return []


def let_go_of_it_twice(table: ReferenceTable) -> list[bytes]:
    return [object_id for object_id in original["take_let_go"](table) for _ in range(2)]


def containers_hold_nothing(
    table: ReferenceTable, outer: Entry, inner: Iterable[Pair], process_id: bytes
) -> None:
    pass


def containers_hold_for_ever(table: ReferenceTable, entry: Entry, freed: list[Entry]) -> None:
    pass


def forget_what_is_fresh(table: ReferenceTable) -> list[Pair]:
    original["take_fresh"](table)
    return []


def only_handles_are_fresh(table: ReferenceTable) -> list[Pair]:
    fresh: list[Pair] = original["take_fresh"](table)
    return [pair for pair in fresh if table.entries[pair[0]].handles]


def borrow_in_secret(table: ReferenceTable, entry: Entry) -> None:
    pass


# --- in the host's rules -----------------------------------------------------------------------------


def end_parcels_before_holding(process: Process, sender: bytes, parcel_id: bytes) -> None:
    process._tell(EndParcels(sender, [parcel_id]))
    process._tell_fresh()


def release_before_holding(process: Process, freed: list[Entry]) -> None:
    held = [entry.object_id for entry in freed if entry.owner is not None and entry.told == KNOWN]
    if held:
        process._tell(ReleaseHolds(held))
    original["_release"](process, [entry for entry in freed if entry.owner is None])
    process._tell_fresh()


def release_arguments_before_taking_the_answer(process: Process, worker: bytes, answer: Answer) -> None:
    wanted = process.expects(worker, answer)
    if wanted:
        task, _by = process.pending[answer.result]
        process._over(task)
        process.pending[answer.result] = (task._replace(refs=(), values=()), worker)
    original["_on_answer"](process, worker, answer)


def answer_without_asking(process: Process) -> None:
    process._send_answer()


def ask_only_about_what_is_fresh_now(table: ReferenceTable) -> list[Pair]:
    fresh: list[Pair] = original["take_fresh"](table)
    table.unconfirmed = bool(fresh)
    return fresh


def throw_unwanted_answers_away(process: Process, worker: bytes, answer: Answer) -> None:
    unwanted = process.expects(worker, answer) and answer.result not in process.table.entries
    original["_on_answer"](process, worker, answer._replace(refs=()) if unwanted else answer)


def settle_parcels_unread(process: Process, dead: bytes) -> None:
    pass


def announce_no_parcels(process: Process, message: Message) -> None:
    if not isinstance(message, SendParcel):
        original["_tell"](process, message)


def lose_it_before_its_workers(daemon: Daemon, process: bytes, out: list[Command]) -> None:
    for worker in daemon.world.serving(process):
        daemon.world.crash(worker)
    daemon._lose(process, out)


MUTATIONS: list[tuple[type, str, Any]] = [
    (HoldTable, "release", ignore_releases),
    (HoldTable, "release", release_what_all_hold),
    (HoldTable, "hold", count_holders),
    (HoldTable, "hold", believe_the_dead),
    (HoldTable, "send_parcel", take_parcels_of_the_dead),
    (HoldTable, "end_parcels", forget_parcels_that_ended_early),
    (HoldTable, "process_lost", end_parcels_with_their_sender),
    (HoldTable, "process_lost", forget_to_settle_parcels),
    (HoldTable, "process_lost", keep_parcels_for_dead_receivers),
    (HoldTable, "process_lost", keep_holds_of_the_dead),
    (HoldTable, "process_lost", abandon_what_is_held),
    (HoldTable, "process_lost", forget_orphans),
    (HoldTable, "is_held", parcels_do_not_hold),
    (HoldTable, "contain", forget_what_is_inside),
    (HoldTable, "_take_out", keep_what_abandoned_objects_contain),
    (HoldTable, "let_go", say_unheld_at_once),
    (ReferenceTable, "unheld", free_what_is_held_again),
    (ReferenceTable, "unheld", never_let_go_again),
    (ReferenceTable, "_settle", free_without_asking),
    (ReferenceTable, "share", forget_that_it_was_shared),
    (ReferenceTable, "contain", containers_hold_nothing),
    (ReferenceTable, "_release_inner", containers_hold_for_ever),
    (ReferenceTable, "take_fresh", forget_what_is_fresh),
    (ReferenceTable, "take_fresh", only_handles_are_fresh),
    (ReferenceTable, "take_fresh", ask_only_about_what_is_fresh_now),
    (ReferenceTable, "_freshen", borrow_in_secret),
    (Process, "_end_parcel", end_parcels_before_holding),
    (Process, "_on_answer", throw_unwanted_answers_away),
    (Process, "_answer_when_confirmed", answer_without_asking),
    (Process, "_read_last_words", settle_parcels_unread),
    (Process, "_tell", announce_no_parcels),
]

#: These need several unlikely things at once: the walks miss them, the search for all ways does not.
RARE: list[tuple[type, str, Any, Program]] = [
    (HoldTable, "contain", forget_what_is_inside, SEEN),
    (ReferenceTable, "unheld", take_the_second_time_for_the_first, BACK),
    (Process, "_release", release_before_holding, KEPT),
    (Process, "_on_answer", release_arguments_before_taking_the_answer, LENT),
    (Daemon, "_end", lose_it_before_its_workers, CHAIN),
]


@pytest.mark.stateful
@pytest.mark.parametrize(
    ("cls", "method", "mistake"), MUTATIONS, ids=[mistake.__name__ for *_, mistake in MUTATIONS]
)
def test_walks_find(cls: type, method: str, mistake: Any) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError)):
        walks(WALKS, moves=200)


@pytest.mark.stateful
@pytest.mark.parametrize(
    ("cls", "method", "mistake", "program"), RARE, ids=[mistake.__name__ for _, _, mistake, _ in RARE]
)
def test_search_finds(cls: type, method: str, mistake: Any, program: Program) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError)):
        search(program)
