"""The directory while threads move objects to the disk and back, and processes die, yield and ask again.

Every byte that somebody has in hand is modelled, with the place where it lies. What must hold: OB1 to OB6
and OB9 of the life of an object, an exact account, and nothing left at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command, Fetch, Release, ReleaseDisk
from nbray.core.object_copies import OnDisk
from nbray.core.object_moves import Move, ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.core.spilling import Drop, Evict, Recall, RoomMaker, Write
from nbray.wire.base import Descriptor
from nbray.wire.object_messages import ObjectGone, ObjectReady, ObjectsLost

SLOTS = 3
WEAK = 2  # the object in this slot may be evicted
SLOT = st.integers(0, SLOTS - 1)
SEAT = st.integers(0, 3)
RARELY = st.sampled_from([True, False, False, False])
SIZE = 4096
PATH = "/proc/1/fd/9"
#: Where bytes lie: in the arena or on the disk, by generation.
Place = tuple[str, int]


class ObjectMovesMachine(RuleBasedStateMachine):
    """Four processes; the first two own the objects. A thread's work ends when the rule says so.

    When an object's owner is dead and nobody holds it, another takes its slot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = ObjectTable(b"N" * 16)
        self.moves = ObjectMoves(self.table)
        self.maker = RoomMaker(self.table, spills=True, evicts=False)
        self.now_s = 0.0
        self.born = 4
        self.seats = [b"p0", b"p1", b"p2", b"p3"]
        self.objects: list[bytes] = []
        self.owner: dict[bytes, bytes] = {}
        for slot in range(SLOTS):
            self.objects.append(b"")
            self.new_object(slot)
        self.extents: dict[Place, Extent] = {}
        self.released: set[Place] = set()
        self.writing: dict[tuple[bytes, bytes], Place] = {}
        self.whole: dict[Place, int] = {}  # place -> number of the sealed copy whose bytes lie there
        self.copies = 0
        self.newest: dict[bytes, int] = {}  # object -> the copy sealed last, until it is freed
        self.gone: dict[bytes, int] = {}  # object -> copy that was evicted or lost
        #: process, object -> the places that it may read without asking
        self.hands: dict[tuple[bytes, bytes], Counter[Place]] = {}
        self.own: dict[bytes, set[Place]] = {}  # the same of owners, who need no pin
        self.asked: set[tuple[bytes, bytes]] = set()
        self.fetches: set[bytes] = set()
        self.at_work: list[tuple[str, Move, Place]] = []
        self.recalls: list[Recall] = []
        self.reported: Counter[tuple[bytes, int]] = Counter()

    def new_object(self, slot: int) -> None:
        object_id = f"object {len(self.owner)}".encode().ljust(20)
        self.objects[slot] = object_id
        self.owner[object_id] = self.seats[slot % 2]

    # --- what the table orders ------------------------------------------------------------------------

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, (Release, ReleaseDisk)):
                kind = "arena" if isinstance(command, Release) else "disk"
                self.release((kind, command.extent.generation), command.extent)
            elif isinstance(command, Fetch):
                self.fetches.add(command.object_id)
            else:
                assert command.process_id in self.seats, "told a dead process"
                self.hear(command.process_id, command.message)

    def release(self, place: Place, extent: Extent) -> None:
        assert extent == self.extents[place]
        assert place not in self.released, "released twice"
        assert not any(places[place] for places in self.hands.values()), "released while pinned"
        assert not any(place in places for places in self.own.values()), "released from its owner's hand"
        assert place not in self.writing.values(), "released while written"
        assert not any(place in (at, self.arena_of(move)) for _, move, at in self.at_work), (
            "a thread is at it"
        )
        self.released.add(place)

    @staticmethod
    def arena_of(move: Move) -> Place | None:
        extent = move.copy.extent
        return ("arena", extent.generation) if extent is not None else None

    def hear(self, process: bytes, message: object) -> None:
        if isinstance(message, ObjectReady):
            descriptor = message.descriptor
            place = self.place_of(descriptor)
            assert place not in self.released, "released bytes were shown"
            assert self.whole.get(place) == self.newest[descriptor.object_id], (
                "not the bytes that were sealed"
            )
            self.hands.setdefault((process, descriptor.object_id), Counter())[place] += 1
            self.asked.discard((process, descriptor.object_id))
        elif isinstance(message, ObjectGone):
            self.asked.discard((process, message.object_id))
            dead = self.owner[message.object_id] not in self.seats
            newest = self.newest.get(message.object_id)
            if message.reason == "owner_died":
                assert dead
                assert newest is None or self.gone.get(message.object_id) == newest, "it is there"
            else:
                assert not dead or message.reason == "freed"
            if message.reason in {"evicted", "lost"}:
                assert process == self.owner[message.object_id]
                assert self.gone[message.object_id] == self.newest[message.object_id]
        else:
            assert isinstance(message, ObjectsLost)
            for object_id in message.object_ids:
                assert process == self.owner[object_id]
                copy = self.gone[object_id]
                assert copy == self.newest[object_id], "told that it is lost, and it is there"
                self.reported[object_id, copy] += 1
                assert self.reported[object_id, copy] == 1, "told twice"

    def place_of(self, descriptor: Descriptor) -> Place:
        return ("disk" if descriptor.path else "arena", descriptor.generation)

    def new_extent(self, kind: str) -> tuple[Place, Extent]:
        generation = len(self.extents) + 1
        extent = Extent(generation * SIZE, SIZE, generation, ())
        self.extents[kind, generation] = extent
        return (kind, generation), extent

    # --- writers ----------------------------------------------------------------------------------------

    @rule(seat=SEAT, slot=SLOT, too_large=st.sampled_from([False, False, False, True]))
    def create(self, seat: int, slot: int, too_large: bool) -> None:
        object_id = self.objects[slot]
        writer, owner = self.seats[seat], self.owner[object_id]
        if not self.table.admits(object_id, owner, writer):
            return
        out: list[Command] = []
        place, extent = self.new_extent("disk" if too_large else "arena")
        disk = OnDisk(extent, PATH) if too_large else None
        self.writing[object_id, writer] = place
        self.table.created(
            object_id, owner, writer, None if too_large else extent, SIZE, out,
            weak=object_id == self.objects[WEAK], disk=disk,
        )  # fmt: skip
        self.perform(out)

    @rule(seat=SEAT, slot=SLOT)
    def seal(self, seat: int, slot: int) -> None:
        object_id, writer = self.objects[slot], self.seats[seat]
        place = self.writing.pop((object_id, writer), None)
        if place is not None:
            record = self.table.record(object_id)
            assert record is not None
            if record.writing[writer].state.value == "creating":
                self.copies += 1
                self.whole[place] = self.newest[object_id] = self.copies
                if self.owner[object_id] in self.seats:
                    self.own.setdefault(object_id, set()).add(place)
        out: list[Command] = []
        self.table.seal(object_id, writer, out)
        self.perform(out)

    @rule(seat=SEAT, slot=SLOT)
    def create_and_seal(self, seat: int, slot: int) -> None:
        self.create(seat, slot, too_large=False)
        self.seal(seat, slot)

    @rule(seat=SEAT, slot=SLOT)
    def abort(self, seat: int, slot: int) -> None:
        object_id = self.objects[slot]
        self.writing.pop((object_id, self.seats[seat]), None)
        out: list[Command] = []
        self.table.abort(object_id, self.seats[seat], out)
        self.perform(out)

    # --- readers ----------------------------------------------------------------------------------------

    @rule(seat=SEAT, slot=SLOT)
    def get(self, seat: int, slot: int) -> None:
        object_id, reader = self.objects[slot], self.seats[seat]
        self.asked.add((reader, object_id))
        out: list[Command] = []
        self.table.get([(object_id, self.owner[object_id])], reader, out)
        self.perform(out)

    @rule(seat=SEAT, slot=SLOT, newest=st.booleans())
    def drop_view(self, seat: int, slot: int, newest: bool) -> None:
        object_id = self.objects[slot]
        key = self.seats[seat], object_id
        views = self.hands.get(key)
        if views:
            views[(max if newest else min)(views)] -= 1
            self.hands[key] = +views
        out: list[Command] = []
        self.table.unpin(key[0], [object_id], out)
        self.perform(out)

    @precondition(lambda self: self.recalls)
    @rule(pick=st.integers(0, 9), uses=st.sets(SLOT, max_size=1))
    def answer_a_recall(self, pick: int, uses: set[int]) -> None:
        process, message = self.recalls.pop(pick % len(self.recalls))
        used = {self.objects[slot] for slot in uses}
        yielded = [o for o in message.object_ids if o not in used and (process, o) not in self.asked]
        for object_id in yielded:
            self.let_go(process, object_id)
        out: list[Command] = []
        self.maker.answered(process, message.number, yielded, self.now_s)
        self.table.yielded(process, yielded, out)
        self.perform(out)

    def let_go(self, process: bytes, object_id: bytes) -> None:
        self.hands.pop((process, object_id), None)
        if self.owner[object_id] == process:
            self.own.pop(object_id, None)

    # --- ends -------------------------------------------------------------------------------------------

    @rule(slot=SLOT, does=RARELY)
    def free(self, slot: int, does: bool) -> None:
        object_id = self.objects[slot]
        out: list[Command] = []
        if not does:
            return
        if self.owner[object_id] in self.seats:
            self.own.pop(object_id, None)
            self.newest.pop(object_id, None)
        self.table.free([object_id], self.owner[object_id], out)
        self.perform(out)

    @rule(seat=SEAT, does=RARELY)
    def lose(self, seat: int, does: bool) -> None:
        if not does:
            return
        process = self.seats[seat]
        self.born += 1
        self.seats[seat] = f"p{self.born}".encode()
        self.hands = {key: places for key, places in self.hands.items() if key[0] != process}
        self.own = {o: places for o, places in self.own.items() if self.owner[o] != process}
        self.asked = {key for key in self.asked if key[0] != process}
        self.recalls = [recall for recall in self.recalls if recall.process_id != process]
        self.writing = {key: place for key, place in self.writing.items() if key[1] != process}
        out: list[Command] = []
        orphans = self.table.process_lost(process, out)
        self.maker.process_lost(process)
        self.perform(out)
        assert all(self.owner[object_id] == process for object_id in orphans)

    @rule(slot=SLOT)
    def abandon(self, slot: int) -> None:
        object_id = self.objects[slot]
        if self.owner[object_id] not in self.seats:
            out: list[Command] = []
            self.newest.pop(object_id, None)
            self.table.abandon(object_id, out)
            self.perform(out)
            assert not any(waiting == object_id for _, waiting in self.asked)
            self.new_object(slot)

    # --- room -----------------------------------------------------------------------------------------

    @rule(slot=SLOT, seat=SEAT)
    def write_what_nobody_uses(self, slot: int, seat: int) -> None:
        """All who have it in hand let go, and it is written."""
        self.create_and_seal(seat, slot)
        object_id = self.objects[slot]
        record = self.table.record(object_id)
        for process in record.hands() if record is not None else ():
            if (process, object_id) not in self.asked:
                self.yield_it(process, object_id)
        if record is not None and record in list(self.table.recency.idle()) and slot != WEAK:
            assert record.current is not None
            if record.current.disk is None:
                self.begin_to_write(object_id)

    @rule(slot=SLOT, seat=SEAT)
    def spill(self, slot: int, seat: int) -> None:
        at_work = len(self.at_work)
        self.write_what_nobody_uses(slot, seat)
        if len(self.at_work) > at_work:
            self.finish(at_work, "well")
        out: list[Command] = []
        self.moves.drop(self.objects[slot], out)
        self.perform(out)

    @rule(slot=SLOT, seat=SEAT, reader=SEAT, has_room=st.booleans())
    def ask_for_what_was_spilled(self, slot: int, seat: int, reader: int, has_room: bool) -> None:
        self.spill(slot, seat)
        self.get(reader, slot)
        if self.objects[slot] in self.fetches:
            self.serve_a_fetch(sorted(self.fetches).index(self.objects[slot]), has_room)

    @rule(seat=SEAT, readers=st.lists(SEAT, max_size=3))
    def ask_for_what_was_evicted(self, seat: int, readers: list[int]) -> None:
        self.write_what_nobody_uses(WEAK, seat)  # it is not written, but let go of
        self.make_room(3)
        for reader in readers:
            self.get(reader, WEAK)

    @rule(slot=SLOT, how=st.sampled_from(["spill", "drop", "evict"]))
    def try_to_move_what_may_be_in_use(self, slot: int, how: str) -> None:
        object_id = self.objects[slot]
        used = object_id in self.own or any(key[1] == object_id and v for key, v in self.hands.items())
        if used:
            before, out = self.table.counts(), list[Command]()
            if how == "spill":
                assert self.moves.spill(object_id, OnDisk(Extent(0, SIZE, 0, ()), PATH), out) is None
            else:
                (self.moves.drop if how == "drop" else self.moves.evict)(object_id, out)
            assert self.table.counts() == before

    def yield_it(self, process: bytes, object_id: bytes) -> None:
        self.let_go(process, object_id)
        out: list[Command] = []
        self.table.yielded(process, [object_id], out)
        self.perform(out)

    @rule(missing=st.integers(1, 3), ahead=st.booleans())
    def make_room(self, missing: int, ahead: bool = False) -> None:
        commands: list[Evict | Drop | Write | Recall] = []
        (self.maker.work_ahead if ahead else self.maker.make_room)(missing * SIZE, self.now_s, commands)
        for command in commands:
            out: list[Command] = []
            if isinstance(command, Recall):
                assert command.process_id in self.seats, "asked a dead process"
                self.recalls.append(command)
            elif isinstance(command, Write):
                for object_id in command.object_ids:
                    self.begin_to_write(object_id)
            elif isinstance(command, Evict):
                assert command.object_id == self.objects[WEAK], "evicted what may not be"
                self.gone[command.object_id] = self.newest[command.object_id]
                self.moves.evict(command.object_id, out)
            else:
                self.moves.drop(command.object_id, out)
            self.perform(out)

    def begin_to_write(self, object_id: bytes) -> None:
        assert object_id != self.objects[WEAK]
        place, extent = self.new_extent("disk")
        out: list[Command] = []
        move = self.moves.spill(object_id, OnDisk(extent, PATH), out)
        assert move is not None, "the policy named what cannot be moved"
        self.at_work.append(("write", move, place))
        self.perform(out)

    @precondition(lambda self: self.fetches)
    @rule(pick=st.integers(0, 9), has_room=st.booleans())
    def serve_a_fetch(self, pick: int, has_room: bool) -> None:
        object_id = sorted(self.fetches)[pick % len(self.fetches)]
        self.fetches.remove(object_id)
        if any(kind != "write" and move.record.object_id == object_id for kind, move, _ in self.at_work):
            self.fetches.add(object_id)  # one thread at a time
            return
        copy = self.moves.wanted(object_id)
        if copy is None:
            return
        assert copy.disk is not None
        disk = ("disk", copy.disk.extent.generation)
        out: list[Command] = []
        if has_room:
            _, extent = self.new_extent("arena")
            move = self.moves.restore(object_id, extent, out)
            kind = "read"
        else:
            move, kind = self.moves.check(object_id), "check"
        assert move is not None
        if kind == "read":
            self.at_work.append((kind, move, disk))
        else:
            self.finish_check(move, whole=True, out=out)
        self.perform(out)

    def finish_check(self, move: Move, whole: bool, out: list[Command]) -> None:
        if whole:
            self.moves.show_in_place(move, out)
        else:
            self.moves.damaged(move, out)

    @precondition(lambda self: self.at_work)
    @rule(pick=st.integers(0, 9), end=st.sampled_from(["well", "no room", "damaged"]))
    def finish(self, pick: int, end: str) -> None:
        kind, move, disk = self.at_work.pop(pick % len(self.at_work))
        arena = self.arena_of(move)
        assert arena is not None
        out: list[Command] = []
        finished: dict[tuple[str, str], Callable[[], object]] = {
            ("write", "well"): lambda: self.moves.written(move, 7, out),
            ("read", "well"): lambda: self.moves.restored(move, out),
            ("read", "no room"): lambda: self.moves.not_restored(move, out),
            ("read", "damaged"): lambda: self.moves.damaged(move, out),
        }
        if (kind, end) == ("write", "well"):
            self.whole[disk] = self.whole[arena]
        elif (kind, end) == ("read", "well"):
            self.whole[arena] = self.whole[disk]
        elif (kind, end) == ("read", "damaged"):
            object_id = move.record.object_id
            if move.copy.state.value != "ending":
                self.gone[object_id] = self.newest[object_id]
        finished.get((kind, end), lambda: self.moves.not_written(move, out))()
        if end == "no room" and self.moves.wanted(move.record.object_id) is not None:
            self.fetches.add(move.record.object_id)
        self.perform(out)

    @rule(slot=SLOT)
    def forget_the_disk(self, slot: int) -> None:
        out: list[Command] = []
        self.moves.forget_disk([self.objects[slot]], out)
        self.perform(out)

    @rule(delay_s=st.sampled_from([0.01, 0.06, 0.2]))
    def pass_time(self, delay_s: float) -> None:
        self.now_s += delay_s

    # --- what must hold ---------------------------------------------------------------------------------

    @invariant()
    def memory_is_counted_exactly(self) -> None:
        held = sum(holding.size_bytes for holding in self.table.largest(100))
        places = [place for place in self.extents if place[0] == "arena" and place not in self.released]
        assert held == SIZE * len(places)

    @invariant()
    def pins_are_counted_exactly(self) -> None:
        for object_id in self.objects:
            record = self.table.record(object_id)
            pins = {
                key[0]: views.total() for key, views in self.hands.items() if key[1] == object_id and views
            }
            assert (record.readers if record is not None else {}) == pins
            assert record is None or record.in_hand == (object_id in self.own)

    @invariant()
    def whoever_waits_is_served_some_day(self) -> None:
        """Its bytes are being written, or somebody fetches them, or its owner was told, or lives."""
        for reader, object_id in self.asked:
            assert reader in self.table.waiters.of(object_id)
            record = self.table.record(object_id)
            if record is not None and record.has_bytes:
                moving = any(move.record is record for kind, move, _ in self.at_work if kind == "read")
                assert object_id in self.fetches or moving
            else:
                assert self.owner[object_id] in self.seats
                copy = self.gone.get(object_id, 0)
                if record is not None and record.current is not None and reader != self.owner[object_id]:
                    assert self.reported[object_id, copy] == 1

    @invariant()
    def a_stored_object_stays_readable(self) -> None:
        """Unless it is weak or damaged, somebody can read what was sealed last (OB9)."""
        for object_id, newest in self.newest.items():
            record = self.table.record(object_id)
            if self.gone.get(object_id) != newest and self.owner[object_id] in self.seats:
                assert record is not None
                assert record.has_bytes

    def teardown(self) -> None:
        while self.at_work:
            self.finish(0, "well")
        for slot in range(SLOTS):
            self.free(slot, does=True)
        for seat in range(len(self.seats)):
            self.lose(seat, does=True)
        for slot in range(SLOTS):
            self.abandon(slot)
        assert not any(self.table.counts().values())
        assert self.released == set(self.extents), "space was not returned"


TestObjectMovesMachine = pytest.mark.stateful(ObjectMovesMachine.TestCase)
TestObjectMovesMachine.settings = settings(
    max_examples=200, stateful_step_count=200, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
