"""The reference table against a list of holders: an entry is there exactly while somebody holds it.

Called by:  pytest.
Imports:    nbray.core.references, hypothesis.
Never:      maps memory: a view is a name.

The model keeps every single hold by name and counts nothing; the table counts and keeps no names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.references import Entry, ReferenceTable
from nbray.wire.base import Descriptor

OBJECTS = [bytes([n]) * 20 for n in range(4)]
OWN = OBJECTS[:2]
ELSEWHERE = b"p" * 16
NODE = b"n" * 16

picks = st.integers(0, 1000)
objects = st.sampled_from(OBJECTS)


class ReferencesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = ReferenceTable()
        self.holds: dict[str, list[bytes]] = {"handle": [], "argument": [], "view": []}
        self.escaped: set[bytes] = set()
        self.values: dict[bytes, bytes | Descriptor] = {}
        self.lives: dict[bytes, int] = {}  # how often an object got an entry
        self.made = 0
        self.freed: list[Entry] = []
        self.gone: dict[bytes, Entry] = {}  # let go of; a late answer may still name them

    def held(self) -> set[bytes]:
        return {object_id for some in self.holds.values() for object_id in some} | self.escaped

    def hold(self, kind: str, object_id: bytes) -> None:
        if object_id not in self.held():
            self.lives[object_id] = self.lives.get(object_id, 0) + 1
            self.values.pop(object_id, None)
        self.holds[kind].append(object_id)

    # --- holds come ----------------------------------------------------------------------------------

    @rule(object_id=objects)
    def first_or_another_handle(self, object_id: bytes) -> None:
        known = object_id in self.held()
        self.hold("handle", object_id)
        if object_id in OWN:
            if known:
                self.table.add_handle(object_id)
            else:
                entry = self.table.own(object_id)
                assert (entry.owner, entry.value) == (None, None)
        else:
            assert self.table.borrow(object_id, ELSEWHERE).owner == ELSEWHERE

    @precondition(lambda self: self.held())
    @rule(pick=picks)
    def task_is_submitted(self, pick: int) -> None:
        object_id = sorted(self.held())[pick % len(self.held())]
        self.hold("argument", object_id)
        assert self.table.hold_argument(object_id).object_id == object_id

    @rule(object_id=objects)
    def task_that_runs_here_takes_it(self, object_id: bytes) -> None:
        if object_id in OWN and object_id not in self.held():
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
        self.table.open_view(object_id)

    @rule(object_id=objects)
    def reference_is_pickled(self, object_id: bytes) -> None:
        first = object_id in OWN and object_id in self.held() and object_id not in self.escaped
        assert self.table.escape(object_id) is first
        if first:
            self.escaped.add(object_id)

    # --- holds go ------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["handle", "handle", "argument", "view"]), pick=picks)
    def hold_goes(self, kind: str, pick: int) -> None:
        if self.holds[kind]:
            self.let_go(kind, pick)

    def let_go(self, kind: str, pick: int) -> None:
        object_id = self.holds[kind].pop(pick % len(self.holds[kind]))
        drop = {
            "handle": self.table.drop_handle,
            "argument": self.table.release_argument,
            "view": self.table.close_view,
        }
        drop[kind](object_id, self.freed)
        freed = [entry.object_id for entry in self.freed]
        self.gone.update((entry.object_id, entry) for entry in self.freed)
        self.freed.clear()
        assert freed == ([] if object_id in self.held() else [object_id]), "freed once, with its last hold"

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
        wanted = object_id in self.held() and object_id not in self.values
        taken = self.table.ready(entry, value, failed)
        assert taken is wanted, "the first value is final, and only if somebody wants it"
        if taken:
            self.values[object_id] = value
            assert entry.failed is failed
        elif object_id in self.held():
            assert entry.value == self.values[object_id]

    # --- what always holds ---------------------------------------------------------------------------

    @invariant()
    def entries_are_there_exactly_while_they_are_held(self) -> None:
        assert set(self.table.entries) == self.held()
        assert len(self.table) == len(self.held())
        for object_id, entry in self.table.entries.items():
            counts = (entry.handles, entry.arguments, entry.views)
            assert counts == tuple(some.count(object_id) for some in self.holds.values())
            assert entry.escaped is (object_id in self.escaped)
            assert entry.value == self.values.get(object_id)
            assert (entry.owner is None) is (object_id in OWN)

    def teardown(self) -> None:
        """All holds go, in whatever order: only what escaped is left."""
        for kind, some in self.holds.items():
            while some:
                self.let_go(kind, len(some) * 7)
        assert set(self.table.entries) == self.escaped


ReferencesMachine.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=40,
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
        object_id, pick = random.choice(OBJECTS), random.randrange(1000)
        kind = random.choice(["handle", "handle", "argument", "view"])
        moves: list[Callable[[], None]] = [
            partial(machine.first_or_another_handle, object_id),
            partial(machine.task_that_runs_here_takes_it, object_id),
            partial(machine.reference_is_pickled, object_id),
            partial(machine.value_arrives, object_id, pick % 2 == 0, pick % 3 == 0),
            partial(machine.hold_goes, kind, pick),
        ]
        if machine.held():
            moves.append(partial(machine.task_is_submitted, pick))
        if machine.ready():
            moves.append(partial(machine.view_is_opened, pick))
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
    return bool(entry.handles or entry.arguments or entry.escaped)


def escapes_do_not_hold(entry: Entry) -> bool:
    return bool(entry.handles or entry.arguments or entry.views)


def borrow_without_counting(table: ReferenceTable, object_id: bytes, owner: bytes) -> Entry:
    return table.entries.setdefault(object_id, Entry(object_id, owner))


def borrow_a_second_entry(table: ReferenceTable, object_id: bytes, owner: bytes) -> Entry:
    entry = table.entries[object_id] = Entry(object_id, owner)
    entry.handles = 1
    return entry


def take_the_last_value(table: ReferenceTable, entry: Entry, value: bytes | Descriptor, failed: bool) -> bool:
    entry.value, entry.failed = value, failed
    return entry.held


def escape_what_is_borrowed(table: ReferenceTable, object_id: bytes) -> bool:
    entry = table.entries.get(object_id)
    if entry is None or entry.escaped:
        return False
    entry.escaped = True
    return True


MISTAKES: list[tuple[type, str, Any]] = [
    (ReferenceTable, "_settle", forget_to_free),
    (ReferenceTable, "drop_handle", free_with_the_last_handle),
    (ReferenceTable, "_settle", keep_the_entry_but_say_that_it_is_free),
    (Entry, "held", property(views_do_not_hold)),
    (Entry, "held", property(escapes_do_not_hold)),
    (ReferenceTable, "borrow", borrow_without_counting),
    (ReferenceTable, "borrow", borrow_a_second_entry),
    (ReferenceTable, "ready", take_the_last_value),
    (ReferenceTable, "escape", escape_what_is_borrowed),
]


@pytest.mark.stateful
def test_table_keeps_all_promises_on_random_walks() -> None:
    walks(200)


@pytest.mark.stateful
@pytest.mark.parametrize(("cls", "method", "mistake"), MISTAKES)
def test_the_machine_finds_a_planted_mistake(cls: type, method: str, mistake: Any) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError)):
        walks(50)
