"""The directory among processes that die, repeat themselves and are overtaken (OB1, OB3, OB4, OB6)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Release, Tell
from nbray.core.objects import ObjectTable
from nbray.wire.object_messages import (
    ObjectGone,
    ObjectReady,
)

OBJECTS = [bytes([65 + n]) * 20 for n in range(2)]
SLOTS = st.integers(0, 3)  # who; a slot holds one process after another
OBJECT = st.sampled_from(OBJECTS)
SIZE = 128


class ObjectsMachine(RuleBasedStateMachine):
    """Four places for processes. Object n is owned by the first who sat in place n.

    Readers are modelled with their views: which extents each holds. An unpin names the object only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = ObjectTable(b"N" * 16)
        self.born = 4
        self.seats = [b"p0", b"p1", b"p2", b"p3"]
        self.dead: list[bytes] = []
        self.in_hand: dict[bytes, set[int]] = {}  # object -> copies that its owner may read without asking
        self.owner: dict[bytes, bytes] = {o: self.seats[n] for n, o in enumerate(OBJECTS)}
        self.handed_out: dict[int, Extent] = {}
        self.writing: dict[tuple[bytes, bytes], int] = {}
        self.sealed: set[int] = set()
        self.released: set[int] = set()
        self.views: dict[tuple[bytes, bytes], Counter[int]] = {}  # (process, object) -> generation
        self.asked: set[tuple[bytes, bytes]] = set()
        self.orphans: set[bytes] = set()
        self.unread: list[
            tuple[bytes, bytes, int]
        ] = []  # adoptions that were sent: object, writer, generation

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Release):
                assert command.extent == self.handed_out[command.extent.generation]
                generation = command.extent.generation
                assert generation not in self.released, "released twice"
                assert not any(generation in views for views in self.views.values()), "released while pinned"
                assert not any(generation in own for own in self.in_hand.values()), (
                    "released in its owner's hand"
                )
                assert generation not in self.writing.values(), "released while written"
                self.released.add(generation)
                continue
            assert isinstance(command, Tell)
            process, message = command
            assert process in self.seats, "told a dead process"
            if isinstance(message, ObjectReady):
                place = message.descriptor
                assert place.generation in self.sealed, "unsealed bytes were shown"
                assert place.generation not in self.released, "released bytes were shown"
                self.views.setdefault((process, place.object_id), Counter())[place.generation] += 1
                self.asked.discard((process, place.object_id))
            else:
                assert isinstance(message, ObjectGone)
                assert message.reason in ("freed", "owner_died")
                self.asked.discard((process, message.object_id))

    @rule(seat=SLOTS, object_id=OBJECT)
    def create(self, seat: int, object_id: bytes) -> None:
        writer = self.seats[seat]
        if any(message[:2] == (object_id, writer) for message in self.unread):
            return  # a process makes an object once
        if not self.table.admits(object_id, self.owner[object_id], writer):
            return
        generation = len(self.handed_out) + 1
        extent = Extent(generation * SIZE, SIZE, generation, ())
        self.handed_out[generation] = extent
        self.writing[object_id, writer] = generation
        out: list[Command] = []
        self.table.created(object_id, self.owner[object_id], writer, extent, SIZE, out)
        self.perform(out)

    @rule(seat=SLOTS, object_id=OBJECT)
    def create_and_seal(self, seat: int, object_id: bytes) -> None:
        self.create(seat, object_id)
        self.seal(seat, object_id, twice=False)

    @rule(seat=SLOTS, object_id=OBJECT)
    def write_to_a_slab(self, seat: int, object_id: bytes) -> None:
        """Whole in the writer's hands; its message lies in the daemon's socket. Others know of it now."""
        key = object_id, self.seats[seat]
        if key in self.writing or any(message[0] == object_id for message in self.unread):
            return
        generation = len(self.handed_out) + 1
        extent = Extent(generation * SIZE, SIZE, generation, ())
        self.handed_out[generation] = extent
        self.unread.append((*key, generation))

    @rule(seat=SLOTS, object_id=OBJECT)
    def pin_what_was_not_adopted(self, seat: int, object_id: bytes) -> None:
        """The reader's task came with the descriptor, and its message overtakes the writer's."""
        message = next((m for m in self.unread if m[0] == object_id), None)
        if message is None or self.freed_early(object_id) or self.owner[object_id] in self.dead:
            return  # (the owner frees only after it has the reader's answer, and that after the pin)
        if object_id in {holding.object_id for holding in self.table.largest(100)}:
            return  # an older copy is there: the pin is one of the object's, as in ``pin``
        assert self.table.pin(self.seats[seat], [object_id]) == []
        self.views.setdefault((self.seats[seat], object_id), Counter())[message[2]] += 1

    def note_what_the_owner_has(self, object_id: bytes, generation: int) -> None:
        record = self.table.record(object_id)
        current = record.current if record is not None else None
        extent = current.extent if current is not None else None
        if extent is not None and extent.generation == generation and self.owner[object_id] not in self.dead:
            self.in_hand.setdefault(object_id, set()).add(generation)

    def freed_early(self, object_id: bytes) -> bool:
        return object_id in self.table._freed

    @precondition(lambda self: self.unread)
    @rule(pick=st.integers(0, 9))
    def adopt(self, pick: int) -> None:
        object_id, writer, generation = self.unread.pop(pick % len(self.unread))
        self.sealed.add(generation)
        freed = self.freed_early(object_id)
        out: list[Command] = []
        extent = self.handed_out[generation]
        self.table.adopted(object_id, self.owner[object_id], writer, extent, SIZE, out)
        self.perform(out)
        self.note_what_the_owner_has(object_id, generation)
        if freed and not any(viewed == object_id for _, viewed in self.views):
            assert generation in self.released, "freed, and then it came: it stays for ever"

    @rule(seat=SLOTS, object_id=OBJECT, twice=st.booleans())
    def seal(self, seat: int, object_id: bytes, twice: bool) -> None:
        for _ in range(1 + twice):
            generation = self.writing.pop((object_id, self.seats[seat]), None)
            if generation is not None:
                self.sealed.add(generation)
            out: list[Command] = []
            self.table.seal(object_id, self.seats[seat], out)
            assert generation is not None or out == []
            self.perform(out)
            if generation is not None:
                self.note_what_the_owner_has(object_id, generation)

    @rule(seat=SLOTS, object_id=OBJECT)
    def abort(self, seat: int, object_id: bytes) -> None:
        generation = self.writing.pop((object_id, self.seats[seat]), None)
        out: list[Command] = []
        self.table.abort(object_id, self.seats[seat], out)
        self.perform(out)
        assert generation is None or generation in self.released

    @rule(seat=SLOTS, wanted=st.lists(OBJECT, min_size=1, max_size=4))
    def get(self, seat: int, wanted: list[bytes]) -> None:
        reader = self.seats[seat]
        self.asked |= {(reader, object_id) for object_id in wanted}
        out: list[Command] = []
        self.table.get([(o, self.owner[o]) for o in wanted], reader, out)
        self.perform(out)

    @rule(seat=SLOTS, other=SLOTS, object_id=OBJECT)
    def pin(self, seat: int, other: int, object_id: bytes) -> None:
        """A view exists already, somewhere: that is what makes asking for another pin meaningful."""
        source = self.views.get((self.seats[other], object_id))
        if not source:
            return
        assert self.table.pin(self.seats[seat], [object_id]) == []
        generation = max(source)
        self.views.setdefault((self.seats[seat], object_id), Counter())[generation] += 1

    @rule(seat=SLOTS, object_id=OBJECT, newest=st.booleans())
    def drop_view(self, seat: int, object_id: bytes, newest: bool) -> None:
        key = self.seats[seat], object_id
        views = self.views.get(key)
        if views:
            generation = max(views) if newest else min(views)
            views[generation] -= 1
            self.views[key] = +views
        self.views = {key: views for key, views in self.views.items() if views}
        out: list[Command] = []
        self.table.unpin(key[0], [object_id], out)
        assert views is not None or out == []
        self.perform(out)

    @rule(object_id=OBJECT, twice=st.booleans())
    def free(self, object_id: bytes, twice: bool) -> None:
        for _ in range(1 + twice):
            out: list[Command] = []
            if self.owner[object_id] not in self.dead:
                self.in_hand.pop(object_id, None)
            self.table.free([object_id], self.owner[object_id], out)
            self.perform(out)

    @rule(seat=SLOTS, object_id=OBJECT)
    def yield_it(self, seat: int, object_id: bytes) -> None:
        process = self.seats[seat]
        if object_id not in {record.object_id for record in self.table.recency.busy()}:
            return  # only what is here is asked for
        self.views.pop((process, object_id), None)
        if self.owner[object_id] == process:
            self.in_hand.pop(object_id, None)
        out: list[Command] = []
        self.table.yielded(process, [object_id], out)
        self.perform(out)

    @rule(seat=SLOTS, object_id=OBJECT)
    def free_by_a_stranger(self, seat: int, object_id: bytes) -> None:
        known = {holding.object_id for holding in self.table.largest(len(OBJECTS))}
        if self.seats[seat] != self.owner[object_id] and object_id in known:
            out: list[Command] = []
            self.table.free([object_id], self.seats[seat], out)
            assert out == []

    @rule(seat=SLOTS)
    def lose(self, seat: int) -> None:
        process = self.seats[seat]
        while any(message[1] == process for message in self.unread):  # its last words are heard
            self.adopt(next(n for n, message in enumerate(self.unread) if message[1] == process))
        self.born += 1
        self.seats[seat] = f"p{self.born}".encode()
        self.dead.append(process)
        self.views = {key: views for key, views in self.views.items() if key[0] != process}
        self.asked = {key for key in self.asked if key[0] != process}
        self.in_hand = {o: own for o, own in self.in_hand.items() if self.owner[o] != process}
        writes = [self.writing.pop(key) for key in list(self.writing) if key[1] == process]
        readable = {o for o in OBJECTS if self.owner[o] == process and self.current(o)}
        out: list[Command] = []
        orphans = self.table.process_lost(process, out)
        self.perform(out)
        assert self.released.issuperset(writes)
        assert set(orphans) == readable
        self.orphans |= readable

    def current(self, object_id: bytes) -> bool:
        """Whether it can be read."""
        entry = self.table._objects.get(object_id)
        return entry is not None and entry.current is not None

    @rule(object_id=OBJECT)
    def abandon(self, object_id: bytes) -> None:
        """Its owner is dead, and nobody holds it."""
        if object_id not in self.orphans:
            return
        self.orphans.remove(object_id)
        out: list[Command] = []
        self.table.abandon(object_id, out)
        self.perform(out)
        assert not self.current(object_id)

    @rule(pick=st.integers(0, 9), object_id=OBJECT)
    def hear_from_the_dead(self, pick: int, object_id: bytes) -> None:
        if not self.dead:
            return
        process = self.dead[pick % len(self.dead)]
        before = self.table.counts()
        out: list[Command] = []
        self.table.seal(object_id, process, out)
        self.table.abort(object_id, process, out)
        self.table.get([(object_id, self.owner[object_id])], process, out)
        self.table.pin(process, [object_id])
        self.table.unpin(process, [object_id], out)
        self.table.free([object_id], process, out)
        self.table.process_lost(process, out)
        late = Extent(0, SIZE, 10**9, ())
        self.table.created(object_id, self.owner[object_id], process, late, SIZE, out)
        assert out == [Release(late)]
        assert self.table.counts() == before

    @invariant()
    def space_is_counted_exactly(self) -> None:
        held = sum(holding.size_bytes for holding in self.table.largest(100))
        assert held == SIZE * (len(self.handed_out) - len(self.released) - len(self.unread))

    @invariant()
    def nobody_waits_for_the_dead(self) -> None:
        assert all(self.owner[object_id] not in self.dead for _, object_id in self.asked)
        assert self.table.counts()["waited_for"] == len({object_id for _, object_id in self.asked})

    def teardown(self) -> None:
        while self.unread:
            self.adopt(0)
        for object_id in OBJECTS:
            self.free(object_id, twice=False)
        for seat in range(len(self.seats)):
            self.lose(seat)
        outstanding = SIZE * (len(self.handed_out) - len(self.released))
        counts = self.table.counts()
        assert counts["orphaned_bytes"] == SIZE * counts["sealed"] == outstanding
        for object_id in OBJECTS:
            self.abandon(object_id)
        assert self.released == set(self.handed_out)
        assert not any(self.table.counts().values())


TestObjectsMachine = pytest.mark.stateful(ObjectsMachine.TestCase)
TestObjectsMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
