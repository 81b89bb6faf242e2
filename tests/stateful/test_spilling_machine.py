"""The store server under pressure, with a real arena, a real file and real bytes, and threads that dawdle.

Whoever has bytes in hand looks at them after every step: they must be those that were sealed. The disk is
full or broken for a while; what lies there is damaged now and then; processes die, refuse to yield, or say
nothing. At the end every request was answered and nothing is left, in the arena or on the disk.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.allocator import Extent
from nbray.core.object_copies import S
from nbray.store.arena import Arena
from nbray.store.open_file import OpenFile
from nbray.store.server import SpillPlan, StoreServer
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import (
    AbortObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    GetObjects,
    HoldObjects,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsLost,
    ObjectsYielded,
    RecallObjects,
    SealObject,
    UnpinObjects,
)

KIB = 1024
CAPACITY = 256 * KIB
SLOTS = 5
WEAK = 4
SLOT = st.integers(0, SLOTS - 1)
SEAT = st.integers(0, 3)
SIZES = st.sampled_from([1, 5000, 40 * KIB, 64 * KIB, 100 * KIB, 200 * KIB, 300 * KIB])
RARELY = st.sampled_from([True, False, False, False, False])
#: The spill file has no name, so that nothing is to be seen there.
DIRECTORY = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())


def bytes_of(number: int, size_bytes: int) -> bytes:
    return (f"copy {number:8} ".encode() * (size_bytes // 14 + 1))[:size_bytes]


class SpillingMachine(RuleBasedStateMachine):
    """Four processes, the first two own the objects. When an owner dies its slots get new objects."""

    evicts = False
    limit_bytes: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(CAPACITY)
        self.now_s = 0.0
        self.disk_error = 0
        self.jobs: list[tuple[Callable[[], object], Callable[[BaseException | None], None]]] = []
        self.timers: list[Callable[[], None]] = []
        self.store = StoreServer(
            b"N" * 16, self.arena, lambda: 1 << 40, self.send,
            lambda work, done: self.jobs.append((work, done)),
            lambda _delay_s, callback: self.timers.append(callback),
            plan=SpillPlan(DIRECTORY, self.limit_bytes, self.evicts),
            clock=lambda: self.now_s,
        )  # fmt: skip
        self.file = self.store._jobs.file
        assert self.file is not None
        self.real_back = self.file.back
        self.file.back = self.back_or_fail  # type: ignore[method-assign]
        self.born = 4
        self.seats = [b"p0", b"p1", b"p2", b"p3"]
        self.objects: list[bytes] = []
        self.owner: dict[bytes, bytes] = {}
        for slot in range(SLOTS):
            self.objects.append(b"")
            self.new_object(slot)
        self.asked: set[tuple[bytes, bytes]] = set()  # creations that wait: writer, object
        self.writing: dict[tuple[bytes, bytes], Descriptor] = {}
        self.copies = 0
        self.number_at: dict[tuple[str, int, int], int] = {}  # place -> the copy whose bytes lie there
        self.newest: dict[bytes, tuple[int, int]] = {}  # object -> number and size of the copy sealed last
        self.damaged: set[int] = set()
        self.gone: set[int] = set()
        self.waits: set[tuple[bytes, bytes]] = set()  # reader, object
        self.views: dict[tuple[bytes, bytes], list[tuple[Descriptor, int]]] = {}
        self.own: dict[bytes, list[tuple[Descriptor, int]]] = {}  # of owners that have it in hand
        self.recalls: list[tuple[bytes, RecallObjects]] = []

    def new_object(self, slot: int) -> None:
        object_id = f"object {len(self.owner)}".encode().ljust(20)
        self.objects[slot] = object_id
        self.owner[object_id] = self.seats[slot % 2]

    def back_or_fail(self, file: OpenFile, extents: Iterable[Extent]) -> None:
        if self.disk_error:
            raise OSError(self.disk_error, os.strerror(self.disk_error))
        self.real_back(file, extents)

    # --- what the store says --------------------------------------------------------------------------

    def send(self, process: bytes, message: Message) -> None:
        assert process in self.seats, "told a dead process"
        if isinstance(message, ObjectCreated):
            place = message.descriptor
            self.asked.remove((process, place.object_id))
            self.writing[process, place.object_id] = place
        elif isinstance(message, CreateFailed):
            if message.reason != "exists":
                self.asked.discard((process, message.object_id))
        elif isinstance(message, ObjectReady):
            place = message.descriptor
            key = process, place.object_id
            number, size_bytes = self.newest[place.object_id]
            assert place.size_bytes == size_bytes
            assert number not in self.damaged, "damaged bytes were shown"
            self.views.setdefault(key, []).append((place, number))
            self.look_at(place, number, whole=True)
            self.waits.discard(key)
        elif isinstance(message, ObjectGone):
            self.waits.discard((process, message.object_id))
            if message.reason in {"evicted", "lost"}:
                assert process == self.owner[message.object_id]
                self.check_gone(message.object_id, message.reason)
        elif isinstance(message, ObjectsLost):
            (object_id,) = message.object_ids
            assert process == self.owner[object_id]
            record = self.store._table.record(object_id)
            assert record is not None
            self.check_gone(object_id, record.state)
        elif isinstance(message, RecallObjects):
            self.recalls.append((process, message))

    def check_gone(self, object_id: bytes, reason: str) -> None:
        number, _ = self.newest[object_id]
        self.gone.add(number)
        if reason == "lost":
            assert number in self.damaged, "what was lost was not damaged"
        else:
            assert self.evicts or object_id == self.objects[WEAK], "evicted what may not be"

    def path_of(self, place: Descriptor) -> str:
        return place.path or f"/proc/self/fd/{self.arena.fd}"

    def look_at(self, place: Descriptor, number: int, *, whole: bool = False) -> None:
        fd = os.open(self.path_of(place), os.O_RDONLY)
        try:
            expected = bytes_of(number, place.size_bytes)
            length = place.size_bytes if whole else min(place.size_bytes, 64)
            assert os.pread(fd, length, place.offset) == expected[:length], "not the bytes that were sealed"
        finally:
            os.close(fd)

    # --- processes ------------------------------------------------------------------------------------

    @rule(seat=SEAT, slot=SLOT, size=SIZES)
    def create(self, seat: int, slot: int, size: int) -> None:
        writer, object_id = self.seats[seat], self.objects[slot]
        owner = self.owner[object_id]
        if (writer, object_id) not in self.asked and self.store._table.admits(object_id, owner, writer):
            self.asked.add((writer, object_id))
        self.store.handle(writer, CreateObject(object_id, owner, size, slot == WEAK))

    @rule(seat=SEAT, slot=SLOT, size=SIZES)
    def put(self, seat: int, slot: int, size: int) -> None:
        self.create(seat, slot, size)
        self.end_writing(seat, slot, seal=True)

    @rule(seat=SEAT, slot=SLOT, seal=st.booleans())
    def end_writing(self, seat: int, slot: int, seal: bool) -> None:
        writer, object_id = self.seats[seat], self.objects[slot]
        place = self.writing.pop((writer, object_id), None)
        if place is None:
            if not seal and (writer, object_id) in self.asked:
                self.asked.discard((writer, object_id))
                self.store.handle(writer, AbortObject(object_id))
            return
        if not seal:
            self.store.handle(writer, AbortObject(object_id))
            return
        self.copies += 1
        number = self.copies
        fd = os.open(self.path_of(place), os.O_RDWR)
        os.pwrite(fd, bytes_of(number, place.size_bytes), place.offset)
        os.close(fd)
        record = self.store._table.record(object_id)
        if record is not None and record.writing[writer].state is S.CREATING:
            self.newest[object_id] = (number, place.size_bytes)
            if self.owner[object_id] in self.seats:
                self.own.setdefault(object_id, []).append((place, number))
        self.store.handle(writer, SealObject(object_id))

    @rule(seat=SEAT, slots=st.lists(SLOT, min_size=1, max_size=SLOTS))
    def get(self, seat: int, slots: list[int]) -> None:
        reader = self.seats[seat]
        wanted = [(self.objects[slot], self.owner[self.objects[slot]]) for slot in slots]
        self.waits |= {(reader, object_id) for object_id, _ in wanted}
        self.store.handle(reader, GetObjects(wanted))

    @rule(seat=SEAT, slot=SLOT)
    def drop_view(self, seat: int, slot: int) -> None:
        key = self.seats[seat], self.objects[slot]
        if self.views.get(key):
            self.views[key].pop()
            self.store.handle(key[0], UnpinObjects([key[1]]))

    @precondition(lambda self: self.recalls)
    @rule(pick=st.integers(0, 9), uses=st.sets(SLOT, max_size=1))
    def answer_a_recall(self, pick: int, uses: set[int]) -> None:
        process, message = self.recalls.pop(pick % len(self.recalls))
        used = {self.objects[slot] for slot in uses}
        yielded = [o for o in message.object_ids if o not in used and (process, o) not in self.waits]
        for object_id in yielded:
            self.views.pop((process, object_id), None)
            if self.owner[object_id] == process:
                self.own.pop(object_id, None)
        self.store.handle(process, ObjectsYielded(message.number, yielded))

    @rule(seat=SEAT, slot=SLOT, size=st.sampled_from([64 * KIB, 100 * KIB, 200 * KIB]))
    def put_whatever_it_takes(self, seat: int, slot: int, size: int) -> None:
        """Everybody answers, and threads come to an end."""
        self.create(seat, slot, size)
        self.oblige()
        self.end_writing(seat, slot, seal=True)

    @rule(seat=SEAT, slot=SLOT)
    def read_whatever_it_takes(self, seat: int, slot: int) -> None:
        self.get(seat, [slot])
        self.oblige()
        self.pass_time(0.3)
        self.oblige()

    def oblige(self) -> None:
        for _ in range(3):
            self.finish_all()
            while self.recalls:
                self.answer_a_recall(0, set())

    @rule(slot=SLOT, does=RARELY)
    def free(self, slot: int, does: bool) -> None:
        object_id = self.objects[slot]
        owner = self.owner[object_id]
        if does and owner in self.seats:
            self.own.pop(object_id, None)
            self.newest.pop(object_id, None)
            self.store.handle(owner, FreeObjects([object_id]))

    @rule(seat=SEAT, does=RARELY)
    def lose(self, seat: int, does: bool) -> None:
        process = self.seats[seat]
        if not does:
            return
        self.born += 1
        self.seats[seat] = f"p{self.born}".encode()
        self.views = {key: places for key, places in self.views.items() if key[0] != process}
        self.own = {o: places for o, places in self.own.items() if self.owner[o] != process}
        self.waits = {key for key in self.waits if key[0] != process}
        self.asked = {key for key in self.asked if key[0] != process}
        self.writing = {key: place for key, place in self.writing.items() if key[0] != process}
        self.recalls = [recall for recall in self.recalls if recall[0] != process]
        self.store.process_lost(process)
        for slot, object_id in enumerate(self.objects):
            if self.owner[object_id] == process:
                self.new_object(slot)

    @rule(seat=SEAT, slot=SLOT)
    def hold(self, seat: int, slot: int) -> None:
        """So that the object outlives its owner; it goes when this process does."""
        object_id = self.objects[slot]
        self.store.handle(self.seats[seat], HoldObjects([(object_id, self.owner[object_id])]))

    # --- threads, time and the disk -----------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 9))
    def finish(self, pick: int) -> None:
        work, done = self.jobs.pop(pick % len(self.jobs))
        error: BaseException | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        done(error)

    @rule()
    def finish_all(self) -> None:
        for _ in range(300):
            if not self.jobs:
                return
            self.finish(0)
        raise AssertionError("threads have no end of work")

    @rule(delay_s=st.sampled_from([0.01, 0.06, 0.3, 2.0]))
    def pass_time(self, delay_s: float) -> None:
        self.now_s += delay_s
        if delay_s > 0.1:
            self.disk_error = 0
        timers, self.timers = self.timers, []
        for callback in timers:
            callback()

    @rule(code=st.sampled_from([errno.ENOSPC, errno.EIO]), does=RARELY)
    def break_the_disk(self, code: int, does: bool) -> None:
        """For a moment."""
        if does:
            self.disk_error = code

    @rule(slot=SLOT)
    def damage(self, slot: int) -> None:
        """A byte changes on the disk, of an object that is nowhere else and was not looked at."""
        record = self.store._table.record(self.objects[slot])
        copy = record.current if record is not None else None
        if copy is None or copy.state is not S.SPILLED or copy.verified or self.jobs:
            return
        assert copy.disk is not None
        assert self.file is not None
        os.pwrite(self.file.open().fd, b"\xff", copy.disk.extent.offset)
        self.damaged.add(self.newest[self.objects[slot]][0])

    # --- what must hold -----------------------------------------------------------------------------------

    @invariant()
    def bytes_in_hand_are_those_that_were_sealed(self) -> None:
        for places in (*self.views.values(), *self.own.values()):
            for place, number in places:
                self.look_at(place, number)

    @invariant()
    def space_is_counted_exactly(self) -> None:
        stats = self.store.stats()
        held = sum(holding.size_bytes for holding in self.store.largest(100))
        assert stats["used_bytes"] == held <= CAPACITY
        assert self.limit_bytes is None or stats["spill_file_bytes"] <= self.limit_bytes

    @invariant()
    def a_stored_object_stays_readable(self) -> None:
        for object_id, (number, _) in self.newest.items():
            if self.owner[object_id] not in self.seats or number in self.damaged:
                continue
            record = self.store._table.record(object_id)
            assert record is not None
            weak = self.evicts or object_id == self.objects[WEAK]
            assert record.has_bytes or weak, f"a stored object is gone: {object_id!r} {record.state}"

    def teardown(self) -> None:
        self.disk_error = 0
        try:
            self.settle()
            self.check_that_all_was_answered()
            for slot in range(SLOTS):
                self.free(slot, does=True)
            for seat in range(len(self.seats)):
                self.lose(seat, does=True)
            self.settle()
            left = self.store.stats()
            for name in ("used_bytes", "spill_file_bytes", "objects", "set_aside_bytes", "creations_waiting"):
                assert left[name] == 0, (name, left[name])
        finally:
            self.store.close()
            while self.jobs:
                self.finish(0)

    def settle(self) -> None:
        """Time passes, threads end, and everybody answers: as long as that takes."""
        for _ in range(60):
            self.finish_all()
            while self.recalls:
                self.answer_a_recall(0, set())
            self.pass_time(0.3)

    def check_that_all_was_answered(self) -> None:
        assert not self.asked, "a creation was never answered"
        for _, object_id in self.waits:
            record = self.store._table.record(object_id)
            assert record is None or not record.has_bytes, "a reader was never answered"


class SmallDiskMachine(SpillingMachine):
    """There is less room on the disk than in the arena."""

    limit_bytes = 160 * KIB


class EvictingMachine(SpillingMachine):
    """Nothing is written: what is longest unused is gone."""

    evicts = True


SETTINGS = settings(
    max_examples=100,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)
TestSpillingMachine = pytest.mark.stateful(SpillingMachine.TestCase)
TestSpillingMachine.settings = settings(SETTINGS, max_examples=200, stateful_step_count=200)
TestSmallDiskMachine = pytest.mark.stateful(SmallDiskMachine.TestCase)
TestSmallDiskMachine.settings = SETTINGS
TestEvictingMachine = pytest.mark.stateful(EvictingMachine.TestCase)
TestEvictingMachine.settings = SETTINGS


def test_holes_of_failed_writes_are_no_room_for_the_next_one() -> None:
    """Found by the machine: two objects that cannot be written in turn, each hopeful for the other's hole."""
    state = SpillingMachine()
    state.put_whatever_it_takes(seat=0, size=64 * KIB, slot=0)
    state.create(seat=0, size=1, slot=0)
    state.put_whatever_it_takes(seat=0, size=200 * KIB, slot=1)
    state.read_whatever_it_takes(seat=0, slot=0)
    state.get(seat=1, slots=[0])
    for _ in range(3):
        state.read_whatever_it_takes(seat=0, slot=0)
    state.put(seat=0, size=1, slot=0)
    state.break_the_disk(code=errno.ENOSPC, does=True)
    state.put(seat=0, size=1, slot=1)
    state.put_whatever_it_takes(seat=0, size=200 * KIB, slot=0)  # its threads come to an end
    state.teardown()
