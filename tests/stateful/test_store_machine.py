"""The store server while memory comes and goes and threads finish late (OB1, OB4, OB6).

The arena is a set of pages. Nobody may be told of a page that is not in it, and at the end all is free.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.store.arena import Arena
from nbray.store.server import StoreServer
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    GetObjects,
    ObjectCreated,
    ObjectReady,
    RecallSlab,
    RequestSlab,
    ReturnSlab,
    SealObject,
    SlabGranted,
    UnpinObjects,
)

PAGE = mmap.PAGESIZE
MIB = 1024 * 1024
CAPACITY = 6 * MIB
OBJECTS = [bytes([65 + n]) * 20 for n in range(4)]
OBJECT = st.sampled_from(OBJECTS)
SEAT = st.integers(0, 2)
SIZES = st.sampled_from([0, 100, 5000, 200_000, MIB, 2 * MIB + 5, 3 * MIB, 5 * MIB])
OWNER = b"owner"


class PaperArena(Arena):
    """Keeps a list of the backed pages and has no memory."""

    def __init__(self) -> None:
        super().__init__(-1, CAPACITY)
        self.backed: set[int] = set()

    def back(self, start: int, end: int) -> None:
        pages = set(range(start // PAGE, end // PAGE))
        assert not pages & self.backed, "backed twice"
        self.backed |= pages

    def punch(self, start: int, end: int) -> None:
        self.backed -= set(range(start // PAGE, end // PAGE))

    def grow(self, ranges: Iterable[tuple[int, int]], available: Callable[[], int]) -> None:
        wanted = list(ranges)
        if sum(end - start for start, end in wanted) > available():
            raise OSError(errno.ENOMEM, "no memory")
        for start, end in wanted:
            self.back(start, end)


class StoreMachine(RuleBasedStateMachine):
    """One owner, three writers and readers, a thread pool that finishes when it likes."""

    writers_back = False

    def __init__(self) -> None:
        super().__init__()
        self.arena = PaperArena()
        self.limit = CAPACITY
        self.now_s = 0.0
        self.jobs: list[tuple[Callable[[], object], Callable[[BaseException | None], None]]] = []
        self.timers: list[Callable[[], None]] = []
        self.born = 3
        self.seats = [b"p0", b"p1", b"p2"]
        self.asked: dict[tuple[bytes, bytes], int] = {}  # creations that wait for an answer
        self.places: dict[int, Descriptor] = {}  # told to a writer, which may write there
        self.writers: dict[int, bytes] = {}
        self.sealed: set[tuple[int, int]] = set()  # generation and offset
        self.slabs: dict[bytes, list[list[int]]] = {}  # process -> (generation, next byte, end) of each
        self.slab_asked: set[bytes] = set()
        self.views: list[tuple[bytes, Descriptor]] = []
        self.unbacked: dict[int, int] = {}  # generation -> bytes that its writer may give memory
        self.recalled: list[tuple[bytes, int]] = []
        self.refused = False
        self.store = StoreServer(
            b"N" * 16,
            self.arena,
            self.room,
            self.send,
            lambda work, done: self.jobs.append((work, done)),
            lambda delay_s, callback: self.timers.append(callback),
            writers_back=self.writers_back,
            clock=lambda: self.now_s,
        )

    def room(self) -> int:
        return max(0, self.limit - len(self.arena.backed) * PAGE)

    def send(self, process: bytes, message: Message) -> None:
        assert process == OWNER or process in self.seats, "told a dead process"
        if isinstance(message, ObjectCreated):
            place = message.descriptor
            assert self.asked.pop((process, place.object_id)) == place.size_bytes
            if message.cold_bytes:
                assert sum(self.unbacked.values()) + message.cold_bytes <= self.room(), "promised twice"
                assert len(self.missing(place)) * PAGE == message.cold_bytes
                self.unbacked[place.generation] = message.cold_bytes
            else:
                self.check_backed(place)
            for other in [*self.places.values(), *(view for _, view in self.views)]:
                apart = (
                    place.offset + place.size_bytes <= other.offset
                    or other.offset + other.size_bytes <= place.offset
                )
                assert apart, "handed out while others write or read there"
            self.places[place.generation] = place
            self.writers[place.generation] = process
        elif isinstance(message, SlabGranted):
            self.take_slab(process, message)
        elif isinstance(message, RecallSlab):
            if [message.generation] in [slab[:1] for slab in self.slabs.get(process, [])]:
                self.recalled.append((process, message.generation))
        elif isinstance(message, CreateFailed):
            if message.reason == "exists":
                self.refused = True
            else:
                del self.asked[process, message.object_id]
        elif isinstance(message, ObjectReady):
            self.check_backed(message.descriptor)
            assert (message.descriptor.generation, message.descriptor.offset) in self.sealed
            self.views.append((process, message.descriptor))

    def take_slab(self, process: bytes, message: SlabGranted) -> None:
        self.slab_asked.remove(process)
        if message.size_bytes:
            end = message.offset + message.size_bytes
            self.check_backed(Descriptor(b"", b"", message.offset, message.size_bytes, 0))
            for other in [*self.places.values(), *(view for _, view in self.views)]:
                assert end <= other.offset or other.offset + other.size_bytes <= message.offset
            self.slabs.setdefault(process, []).append([message.generation, message.offset, end])

    def check_backed(self, place: Descriptor) -> None:
        assert not self.missing(place), "told of pages that have no memory"

    def missing(self, place: Descriptor) -> set[int]:
        pages = range(place.offset // PAGE, -(-(place.offset + place.size_bytes) // PAGE))
        return set(pages) - self.arena.backed

    def back_as_writer(self, place: Descriptor, whole: bool) -> None:
        """What a writer does to its extent's pages until it seals, or until something stops it half-way."""
        if self.unbacked.pop(place.generation, 0):
            pages = sorted(self.missing(place))
            self.arena.backed.update(pages if whole else pages[: len(pages) // 2])

    @rule(seat=SEAT, object_id=OBJECT, size=SIZES)
    def create(self, seat: int, object_id: bytes, size: int) -> None:
        key = self.seats[seat], object_id
        repeated = key in self.asked
        self.asked.setdefault(key, size)
        self.refused = False
        self.store.handle(self.seats[seat], CreateObject(object_id, OWNER, size))
        if repeated:
            assert self.refused, "two creations of one object by one writer"
        elif self.refused:
            del self.asked[key]

    @rule(pick=st.integers(0, 20), seal=st.booleans())
    def end_writing(self, pick: int, seal: bool) -> None:
        if not self.places:
            return
        generation = sorted(self.places)[pick % len(self.places)]
        place = self.places.pop(generation)
        writer = self.writers.pop(generation)
        self.back_as_writer(place, whole=seal)
        if seal:
            self.sealed.add((generation, place.offset))
        message = SealObject(place.object_id) if seal else AbortObject(place.object_id)
        self.store.handle(writer, message)

    @rule(seat=SEAT, size=st.sampled_from([1, 1000, 12_000]))
    def ask_for_a_slab(self, seat: int, size: int) -> None:
        process = self.seats[seat]
        if process not in self.slab_asked:
            self.slab_asked.add(process)
            self.store.handle(process, RequestSlab(size))

    @rule(seat=SEAT, object_id=OBJECT, skip=st.sampled_from([0, 64, 6400]), size=st.integers(1, 10_000))
    def adopt(self, seat: int, object_id: bytes, skip: int, size: int) -> None:
        """Write an object into a slab. What is skipped was given to an object that came to nothing."""
        process = self.seats[seat]
        for slab in self.slabs.get(process, []):
            generation, at, end = slab
            at += skip
            if at + size <= end and (process, object_id) not in {**self.asked, **self.created_by()}:
                slab[1] = -(-(at + size) // 64) * 64
                self.sealed.add((generation, at))
                self.store.handle(process, AdoptObject(object_id, OWNER, generation, at, size))
                return

    def created_by(self) -> dict[tuple[bytes, bytes], int]:
        return {(self.writers[g], place.object_id): g for g, place in self.places.items()}

    @rule(
        seat=SEAT,
        generation=st.integers(0, 30),
        offset=st.integers(0, CAPACITY // 64),
        size=st.integers(0, MIB),
    )
    def adopt_what_is_not_ones_own(self, seat: int, generation: int, offset: int, size: int) -> None:
        process = self.seats[seat]
        for own, at, end in self.slabs.get(process, []):
            if own == generation and at < offset * 64 + size and offset * 64 < end:
                return
        if generation not in [slab[0] for slab in self.slabs.get(process, [])]:
            before = self.store.stats()
            self.store.handle(process, AdoptObject(OBJECTS[0], OWNER, generation, offset * 64, size))
            assert self.store.stats() == before

    @rule(seat=SEAT)
    def return_slab(self, seat: int) -> None:
        if self.slabs.get(self.seats[seat]):
            generation = self.slabs[self.seats[seat]].pop()[0]
            self.store.handle(self.seats[seat], ReturnSlab(generation))

    @rule()
    def recall_idle_slabs(self) -> None:
        self.store.recall_idle_slabs()
        while self.recalled:
            process, generation = self.recalled.pop()
            self.slabs[process] = [slab for slab in self.slabs[process] if slab[0] != generation]
            self.store.handle(process, ReturnSlab(generation))

    @rule(seat=SEAT, object_id=OBJECT)
    def abort_what_was_not_answered(self, seat: int, object_id: bytes) -> None:
        if self.asked.pop((self.seats[seat], object_id), None) is not None:
            self.store.handle(self.seats[seat], AbortObject(object_id))

    @rule(object_id=OBJECT)
    def free(self, object_id: bytes) -> None:
        self.store.handle(OWNER, FreeObjects([object_id]))

    @rule(seat=SEAT, object_id=OBJECT)
    def get(self, seat: int, object_id: bytes) -> None:
        self.store.handle(self.seats[seat], GetObjects([(object_id, OWNER)]))

    @rule(pick=st.integers(0, 20))
    def drop_view(self, pick: int) -> None:
        if self.views:
            process, place = self.views.pop(pick % len(self.views))
            self.store.handle(process, UnpinObjects([place.object_id]))

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 9))
    def finish_backing(self, pick: int) -> None:
        work, done = self.jobs.pop(pick % len(self.jobs))
        error: BaseException | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        done(error)

    @rule()
    def pass_time(self) -> None:
        self.now_s += 1
        timers, self.timers = self.timers, []
        for callback in timers:
            callback()

    @rule(limit=st.sampled_from([0, MIB, 4 * MIB, CAPACITY]))
    def squeeze(self, limit: int) -> None:
        self.limit = limit

    @rule(size=st.integers(0, CAPACITY))
    def cool(self, size: int) -> None:
        self.store.cool(size)

    @rule(seat=SEAT)
    def lose(self, seat: int) -> None:
        process = self.seats[seat]
        self.born += 1
        self.seats[seat] = f"p{self.born}".encode()
        self.asked = {key: size for key, size in self.asked.items() if key[0] != process}
        for generation in [g for g, writer in self.writers.items() if writer == process]:
            del self.writers[generation]
            self.back_as_writer(self.places.pop(generation), whole=False)
        self.views = [view for view in self.views if view[0] != process]
        self.slabs.pop(process, None)
        self.slab_asked.discard(process)
        self.recalled = [pair for pair in self.recalled if pair[0] != process]
        self.store.process_lost(process)
        self.store.handle(process, CreateObject(OBJECTS[0], OWNER, 100))

    @invariant()
    def books_match_the_arena(self) -> None:
        stats = self.store.stats()
        assert stats["backed_bytes"] == len(self.arena.backed) * PAGE
        assert stats["creations_backing"] == len(self.jobs)
        assert stats["slab_bytes"] >= sum(end - at for slabs in self.slabs.values() for _, at, end in slabs)
        assert stats["set_aside_bytes"] == sum(self.unbacked.values())
        for place in [*self.places.values(), *(view for _, view in self.views)]:
            if place.generation not in self.unbacked:
                self.check_backed(place)

    def teardown(self) -> None:
        self.limit = CAPACITY
        self.pass_time()
        while self.jobs:
            self.finish_backing(0)
        assert not self.asked, "a creation was never answered"
        for object_id in OBJECTS:
            self.free(object_id)
        for seat in range(3):
            self.lose(seat)
        assert self.store.stats()["used_bytes"] == 0
        assert self.store.stats()["slab_bytes"] == 0
        assert self.store.stats()["objects"] == 0
        self.store.cool(CAPACITY)
        assert not self.arena.backed


class StoreWhoseWritersBackMachine(StoreMachine):
    """Large objects get their memory from those who write them."""

    writers_back = True


TestStoreMachine = pytest.mark.stateful(StoreMachine.TestCase)
TestStoreMachine.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStoreWhoseWritersBackMachine = pytest.mark.stateful(StoreWhoseWritersBackMachine.TestCase)
TestStoreWhoseWritersBackMachine.settings = TestStoreMachine.settings
