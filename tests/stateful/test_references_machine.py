"""The reference table against a list of holders: an entry is there exactly while somebody holds it, or may.

Called by:  pytest.
Imports:    nbray.core.references, hypothesis.
Never:      maps memory: a view is a name.

The model keeps every single hold by name and counts nothing; the table counts and keeps no names. What
several tables and a directory make of this is in ``test_borrowing_machine``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.references import (
    FRESH,
    KNOWN,
    LET_GO,
    LET_GO_AGAIN,
    NOT_LET_GO,
    UNKNOWN,
    Entry,
    Held,
    Pair,
    ReferenceTable,
)
from nbray.wire.base import Descriptor

OBJECTS = [bytes([n]) * 20 for n in range(5)]
OWN = OBJECTS[2:]  # an object contains only those before it
HERE, ELSEWHERE = b"h" * 16, b"p" * 16
NODE = b"n" * 16

picks = st.integers(0, 1000)
objects = st.sampled_from(OBJECTS)
own_objects = st.sampled_from(OWN)


class ReferencesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = ReferenceTable()
        self.holds: dict[str, list[bytes]] = {"handle": [], "argument": [], "view": []}
        self.exported: set[bytes] = set()
        self.inside: dict[bytes, list[bytes]] = {}
        self.shared: set[bytes] = set()
        self.told: dict[bytes, int] = {}
        self.unsaid: list[bytes] = []  # own objects that were let go of, and the directory was not told
        self.asked: list[bytes] = []  # it was told, and has not answered
        self.values: dict[bytes, Held] = {}
        self.made = 0
        self.freed: list[Entry] = []
        self.due: list[bytes] = []  # what has to be freed now
        self.gone: dict[bytes, Entry] = {}  # let go of; a late answer may still name them

    def kept(self) -> list[bytes]:
        return [object_id for inside in self.inside.values() for object_id in inside] + list(self.exported)

    def held(self) -> set[bytes]:
        return {object_id for some in self.holds.values() for object_id in some} | set(self.kept())

    def known(self) -> set[bytes]:
        """Held, or let go of and not yet known to be unheld."""
        return self.held() | {o for o, told in self.told.items() if o in OWN and told != NOT_LET_GO}

    def hold(self, kind: str, object_id: bytes) -> None:
        self.holds[kind].append(object_id)

    def freshen(self, object_id: bytes) -> None:
        if object_id not in OWN and self.told.get(object_id, UNKNOWN) == UNKNOWN:
            self.told[object_id] = FRESH

    # --- holds come ----------------------------------------------------------------------------------

    @rule(object_id=objects)
    def first_or_another_handle(self, object_id: bytes) -> None:
        known = object_id in self.known()
        self.hold("handle", object_id)
        if object_id not in OWN:
            self.freshen(object_id)
            assert self.table.borrow(object_id, ELSEWHERE).owner == ELSEWHERE
        elif known:
            self.table.add_handle(object_id)
        else:
            entry = self.table.own(object_id)
            assert (entry.owner, entry.value) == (None, None)

    @precondition(lambda self: self.held())
    @rule(pick=picks)
    def task_is_submitted(self, pick: int) -> None:
        object_id = sorted(self.held())[pick % len(self.held())]
        self.hold("argument", object_id)
        assert self.table.hold_argument(object_id).object_id == object_id

    @rule(object_id=objects)
    def task_that_runs_here_takes_it(self, object_id: bytes) -> None:
        if object_id in OWN and object_id not in self.known():
            return  # its owner, this process, would have kept it
        self.hold("argument", object_id)
        entry = self.table.borrow_argument(object_id, ELSEWHERE)
        if entry.value is None:
            self.give(object_id, self.stored(object_id))

    @precondition(lambda self: self.ready())
    @rule(pick=picks)
    def view_is_opened(self, pick: int) -> None:
        object_id = self.ready()[pick % len(self.ready())]
        self.hold("view", object_id)
        self.table.open_views(self.table.entries[object_id], 1)

    @rule(outer=own_objects, pick=picks)
    def value_contains_others(self, outer: bytes, pick: int) -> None:
        """Those before it in the list, each at most once; own ones that are gone are left out."""
        if outer not in self.known():
            return
        inner = [o for place, o in enumerate(OBJECTS[: OBJECTS.index(outer) + 1]) if pick >> place & 1]
        for object_id in inner:
            new = object_id != outer and object_id not in self.inside.get(outer, [])
            if new and (object_id not in OWN or object_id in self.known()):
                self.freshen(object_id)
                self.inside.setdefault(outer, []).append(object_id)
        pairs = [(o, HERE if o in OWN else ELSEWHERE) for o in inner]
        self.table.contain(self.table.entries[outer], pairs, HERE)
        if outer in self.shared:
            self.share(self.inside.get(outer, []))

    @rule(object_id=objects)
    def reference_leaves(self, object_id: bytes) -> None:
        self.share([object_id])

    def share(self, object_ids: list[bytes]) -> None:
        new: set[bytes] = set()
        loose = [o for o in object_ids if o in self.known()]
        while loose:
            object_id = loose.pop()
            if object_id in OWN and object_id not in self.shared | new:
                new.add(object_id)
                loose += self.inside.get(object_id, [])
        assert {entry.object_id for entry in self.table.share(object_ids)} == new
        self.shared |= new

    @rule(object_id=objects)
    def reference_is_pickled_by_hand(self, object_id: bytes) -> None:
        if object_id not in self.known() or object_id in self.exported:
            assert self.table.export(object_id) == []
            return
        self.exported.add(object_id)
        self.freshen(object_id)
        shared = {entry.object_id for entry in self.table.export(object_id)}
        assert shared.isdisjoint(self.shared)
        self.shared |= shared

    # --- holds go ------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["handle", "handle", "argument", "view"]), pick=picks)
    def hold_goes(self, kind: str, pick: int) -> None:
        if self.holds[kind]:
            self.let_go(kind, pick)

    def let_go(self, kind: str, pick: int) -> None:
        object_id = self.holds[kind].pop(pick % len(self.holds[kind]))
        self.settle(object_id)
        drop = {
            "handle": self.table.drop_handle,
            "argument": self.table.release_argument,
            "view": self.table.close_view,
        }
        drop[kind](object_id, self.freed)
        self.check_freed()

    @rule()
    def all_handles_go_at_once(self) -> None:
        handles = list(self.holds["handle"])
        for object_id in handles:
            self.holds["handle"].remove(object_id)
            if object_id not in self.holds["handle"]:
                self.settle(object_id)
        self.table.drop_handles(deque(handles), self.freed)
        self.check_freed()

    def settle(self, object_id: bytes) -> None:
        """One of its holds went."""
        if object_id in self.held():
            return
        if object_id not in self.shared:
            self.remove(object_id)
        elif self.told.get(object_id, NOT_LET_GO) == NOT_LET_GO:
            self.told[object_id] = LET_GO
            self.unsaid.append(object_id)
        else:
            self.told[object_id] = LET_GO_AGAIN

    def remove(self, object_id: bytes) -> None:
        self.due.append(object_id)
        self.told.pop(object_id, None)
        self.shared.discard(object_id)
        self.values.pop(object_id, None)
        inside = self.inside.get(object_id, [])
        while inside:  # one by one: what one of them holds may be the next one's as well
            self.settle(inside.pop(0))
        self.inside.pop(object_id, None)

    def check_freed(self) -> None:
        freed, self.freed = self.freed, []
        due, self.due = self.due, []
        self.gone.update((entry.object_id, entry) for entry in freed)
        assert sorted(entry.object_id for entry in freed) == sorted(due), "freed once, with its last hold"

    # --- the directory -------------------------------------------------------------------------------

    @rule()
    def directory_is_told(self) -> None:
        """Of what is held by more than views; the rest is as before, and told when it is held again."""
        firmly = {*self.holds["handle"], *self.holds["argument"], *self.kept()}
        fresh = {o for o, told in self.told.items() if o not in OWN and told == FRESH}
        assert set(self.table.take_fresh()) == {(o, ELSEWHERE) for o in fresh & firmly}
        assert self.table.take_fresh() == []
        assert self.table.unconfirmed is bool(fresh & firmly)
        self.table.unconfirmed = False
        for object_id in fresh:
            self.told[object_id] = KNOWN if object_id in firmly else UNKNOWN
        assert sorted(self.table.take_let_go()) == sorted(self.unsaid)
        self.asked += self.unsaid
        self.unsaid = []

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def nobody_else_holds_it(self, pick: int) -> None:
        object_id = self.asked.pop(pick % len(self.asked))
        told = self.told[object_id]
        self.told[object_id] = NOT_LET_GO
        if object_id not in self.held():
            if told == LET_GO:
                self.remove(object_id)
            else:  # others may have it, from the time when it was held again
                self.settle(object_id)
        self.table.unheld([object_id], self.freed)
        self.check_freed()

    @rule(object_id=objects)
    def answer_to_no_question(self, object_id: bytes) -> None:
        if self.told.get(object_id, NOT_LET_GO) == NOT_LET_GO or object_id not in OWN:
            self.table.unheld([object_id], self.freed)
            self.check_freed()

    # --- values --------------------------------------------------------------------------------------

    def ready(self) -> list[bytes]:
        return sorted(o for o in self.held() if o in self.values)

    def stored(self, object_id: bytes) -> Descriptor:
        self.made += 1
        return Descriptor(object_id, NODE, 0, 64, self.made)

    @rule(object_id=objects, failed=st.booleans(), small=st.booleans())
    def value_arrives(self, object_id: bytes, failed: bool, small: bool) -> None:
        self.give(object_id, b"value" if small else self.stored(object_id), failed)

    def give(self, object_id: bytes, value: bytes | Descriptor, failed: bool = False) -> None:
        """To the entry that its task remembers, which may be gone by now."""
        entry = self.table.entries.get(object_id, self.gone.get(object_id))
        if entry is None:
            return
        wanted = object_id in self.known() and object_id not in self.values
        taken = self.table.ready(entry, value, failed)
        assert taken is wanted, "the first value is final, and only if somebody wants it"
        if taken:
            self.values[object_id] = value
            assert entry.failed is failed
        elif object_id in self.known():
            assert entry.value == self.values[object_id]

    # --- what always holds ---------------------------------------------------------------------------

    @invariant()
    def entries_are_there_exactly_while_they_are_held(self) -> None:
        assert set(self.table.entries) == self.known()
        assert len(self.table) == len(self.known())
        kept = self.kept()
        for object_id, entry in self.table.entries.items():
            counts = (entry.handles, entry.arguments, entry.views)
            assert counts == tuple(some.count(object_id) for some in self.holds.values())
            assert entry.kept == kept.count(object_id)
            assert entry.shared is (object_id in self.shared)
            assert entry.told == self.told.get(object_id, 0)
            assert entry.value == self.values.get(object_id)
            assert (entry.owner is None) is (object_id in OWN)

    def teardown(self) -> None:
        """All holds go, in whatever order, and nobody else has any: what users pickled is left."""
        for kind, some in self.holds.items():
            while some:
                self.let_go(kind, len(some) * 7)
        while self.asked or self.unsaid:
            self.directory_is_told()
            self.nobody_else_holds_it(7)
        left, loose = set(self.exported), list(self.exported)
        while loose:
            left.update(self.inside.get(loose[-1], []))
            loose += self.inside.get(loose.pop(), [])
        assert set(self.table.entries) == left


ReferencesMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
)
TestReferences = pytest.mark.stateful(ReferencesMachine.TestCase)


# --- mistakes that it finds ------------------------------------------------------------------------------


def walks(count: int) -> None:
    """The rules at random, without Hypothesis: quick, and evenly spread. Seeds 0, 1, ..."""
    for seed in range(count):
        walk(Random(seed), steps=60)


def walk(random: Random, steps: int) -> None:
    machine = ReferencesMachine()
    for _ in range(steps):
        object_id, own, pick = random.choice(OBJECTS), random.choice(OWN), random.randrange(1000)
        kind = random.choice(["handle", "handle", "argument", "view"])
        moves: list[Callable[[], None]] = [
            partial(machine.first_or_another_handle, object_id),
            partial(machine.first_or_another_handle, object_id),
            partial(machine.task_that_runs_here_takes_it, object_id),
            partial(machine.value_contains_others, own, pick),
            partial(machine.reference_leaves, object_id),
            partial(machine.value_arrives, object_id, pick % 2 == 0, pick % 3 == 0),
            partial(machine.hold_goes, kind, pick),
            partial(machine.hold_goes, kind, pick),
            machine.directory_is_told,
            partial(machine.answer_to_no_question, object_id),
        ]
        if machine.held():
            moves.append(partial(machine.task_is_submitted, pick))
        if machine.ready():
            moves.append(partial(machine.view_is_opened, pick))
        if machine.asked:
            moves.append(partial(machine.nobody_else_holds_it, pick))
        if pick % 20 == 0:
            moves += [
                partial(machine.reference_is_pickled_by_hand, object_id),
                machine.all_handles_go_at_once,
            ]
        random.choice(moves)()
        machine.entries_are_there_exactly_while_they_are_held()
    machine.teardown()


def forget_to_free(table: ReferenceTable, entry: Entry, freed: list[Entry]) -> None:
    pass


def free_with_the_last_handle(table: ReferenceTable, object_id: bytes, freed: list[Entry]) -> None:
    entry = table.entries[object_id]
    entry.handles -= 1
    if not entry.handles:
        del table.entries[object_id]
        freed.append(entry)


def keep_the_entry_but_say_that_it_is_free(table: ReferenceTable, entry: Entry, freed: list[Entry]) -> None:
    if not entry.held:
        freed.append(entry)


def views_do_not_hold(entry: Entry) -> bool:
    return bool(entry.handles or entry.arguments or entry.kept)


def containers_do_not_hold(entry: Entry) -> bool:
    return bool(entry.handles or entry.arguments or entry.views)


def borrow_without_counting(table: ReferenceTable, object_id: bytes, owner: bytes) -> Entry:
    return table.entries.setdefault(object_id, Entry(object_id, owner))


def borrow_a_second_entry(table: ReferenceTable, object_id: bytes, owner: bytes) -> Entry:
    entry = table.entries[object_id] = Entry(object_id, owner)
    entry.handles = 1
    return entry


def take_the_last_value(table: ReferenceTable, entry: Entry, value: Held, failed: bool) -> bool:
    entry.value, entry.failed = value, failed
    return entry.held


def share_what_is_borrowed(table: ReferenceTable, object_ids: Iterable[bytes]) -> list[Entry]:
    shared = [e for e in map(table.entries.get, object_ids) if e is not None and not e.shared]
    for entry in shared:
        entry.shared = True
    return shared


def share_the_outermost_only(table: ReferenceTable, object_ids: Iterable[bytes]) -> list[Entry]:
    entries = map(table.entries.get, object_ids)
    shared = [e for e in entries if e is not None and e.owner is None and not e.shared]
    for entry in shared:
        entry.shared = True
    return shared


def forget_older_values(
    table: ReferenceTable, outer: Entry, inner: Iterable[Pair], process_id: bytes
) -> None:
    outer.inner = ()
    CONTAIN(table, outer, inner, process_id)


def tell_of_views(table: ReferenceTable) -> list[Pair]:
    fresh, table.fresh = table.fresh, []
    for entry in fresh:
        entry.told = KNOWN
    return [(entry.object_id, entry.owner) for entry in fresh if entry.owner is not None]


CONTAIN = ReferenceTable.contain

MISTAKES: list[tuple[type, str, Any]] = [
    (ReferenceTable, "_settle", forget_to_free),
    (ReferenceTable, "drop_handle", free_with_the_last_handle),
    (ReferenceTable, "_settle", keep_the_entry_but_say_that_it_is_free),
    (ReferenceTable, "_release_inner", forget_to_free),
    (Entry, "held", property(views_do_not_hold)),
    (Entry, "held", property(containers_do_not_hold)),
    (ReferenceTable, "borrow", borrow_without_counting),
    (ReferenceTable, "borrow", borrow_a_second_entry),
    (ReferenceTable, "ready", take_the_last_value),
    (ReferenceTable, "share", share_what_is_borrowed),
    (ReferenceTable, "share", share_the_outermost_only),
    (ReferenceTable, "contain", forget_older_values),
    (ReferenceTable, "take_fresh", tell_of_views),
]


@pytest.mark.stateful
def test_table_keeps_all_promises_on_random_walks() -> None:
    walks(300)


@pytest.mark.stateful
@pytest.mark.parametrize(("cls", "method", "mistake"), MISTAKES)
def test_the_machine_finds_a_planted_mistake(cls: type, method: str, mistake: Any) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError)):
        walks(50)
