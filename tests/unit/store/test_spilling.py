"""A store under pressure, with a real arena and a real file, and processes that the test plays."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.core.spilling import DISK_REST_S
from nbray.store import disk_io, disk_jobs
from nbray.store.creating import PRESSED_WAIT_S
from nbray.store.disk_jobs import RESTORE_WAIT_S
from nbray.store.server import SpillPlan
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import (
    AbortObject,
    CreateFailed,
    DropObjects,
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
from tests.support.store_node import MIB, OWNER, READER, WRITER, Node, oid


class Pressed(Node):
    """A store of 8 MiB whose processes answer at once: the owner yields all but what it uses."""

    def __init__(self, plan: SpillPlan) -> None:
        super().__init__(8 * MIB, plan)
        self.uses: set[bytes] = set()
        self.silent = False

    def tell(self, process: bytes, message: Message) -> list[Message]:
        before = len(self.sent)
        super().tell(process, message)
        self.answer_recalls(before)
        return [message for _, message in self.sent[before:] if not isinstance(message, RecallObjects)]

    def pass_time(self, seconds: float = 10.0) -> None:
        """In small steps: who is asked answers soon."""
        for _ in range(round(seconds / 0.05)):
            before = len(self.sent)
            super().pass_time(0.05)
            self.answer_recalls(before)

    def answer_recalls(self, since: int) -> None:
        at = since
        while at < len(self.sent) and not self.silent:
            process, message = self.sent[at]
            if isinstance(message, RecallObjects):
                free = [object_id for object_id in message.object_ids if object_id not in self.uses]
                self.store.handle(process, ObjectsYielded(message.number, free))
            at += 1

    def put(self, n: int, size_bytes: int = 2 * MIB, *, weak: bool = False) -> Descriptor:
        """Store an object whose bytes are known."""
        created = self.create(n, size_bytes, weak=weak)[-1]
        assert isinstance(created, ObjectCreated), created
        place = created.descriptor
        with open(place.path or f"/proc/self/fd/{self.arena.fd}", "r+b") as file:
            file.seek(place.offset)
            file.write(bytes_of(n, size_bytes))
        super().tell(WRITER, SealObject(oid(n)))
        return place

    def get(self, n: int, reader: bytes = READER) -> list[Message]:
        return self.tell(reader, GetObjects([(oid(n), OWNER)]))

    def bytes_at(self, place: Descriptor) -> bytes:
        with open(place.path or f"/proc/self/fd/{self.arena.fd}", "rb") as file:
            file.seek(place.offset)
            return file.read(place.size_bytes)

    def read(self, n: int, reader: bytes = READER) -> Descriptor:
        """Ask for an object, look at its bytes, and return where they are. It stays pinned."""
        ready = self.get(n, reader)[-1]
        assert isinstance(ready, ObjectReady), ready
        assert self.bytes_at(ready.descriptor) == bytes_of(n, ready.descriptor.size_bytes)
        return ready.descriptor

    def unpin(self, n: int, reader: bytes = READER) -> None:
        self.tell(reader, UnpinObjects([oid(n)]))

    def free(self, *numbers: int) -> None:
        self.tell(OWNER, FreeObjects([oid(n) for n in numbers]))

    def last(self) -> tuple[bytes, Message]:
        """What was sent last, questions for room left out."""
        return next(sent for sent in reversed(self.sent) if not isinstance(sent[1], RecallObjects))

    def stat(self, name: str) -> int:
        return self.store.stats()[name]

    def corrupt(self, n: int) -> None:
        """Change a byte of what lies on the disk."""
        record = self.store._table.record(oid(n))
        assert record is not None
        assert record.current is not None
        assert record.current.disk is not None
        file = self.store._jobs.file
        assert file is not None
        os.pwrite(file.open().fd, b"?", record.current.disk.extent.offset + 7)

    def left(self) -> dict[str, int]:
        """The figures that should be 0 when nothing is stored."""
        constant = ("capacity_bytes", "backed_bytes", "largest_free_bytes")
        return {
            name: number
            for name, number in self.store.stats().items()
            if number and name not in constant and not name.startswith("total_")
        }


def bytes_of(n: int, size_bytes: int) -> bytes:
    return bytes([n, n + 1, n + 2, 0]) * (size_bytes // 4) + bytes(size_bytes % 4)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Pressed]:
    node = Pressed(SpillPlan(tmp_path / "spill"))
    yield node
    node.store.close()


def test_objects_that_do_not_fit_together_are_all_kept_and_read_back(node: Pressed) -> None:
    for n in range(1, 11):
        node.put(n)
    assert node.stat("spilled") >= 6

    for n in range(1, 11):
        assert node.read(n).path == ""
        node.unpin(n)

    assert node.stat("total_objects_restored") >= 6
    node.free(*range(1, 11))
    assert node.left() == {}


def test_the_file_has_no_name_is_private_and_takes_no_disk_when_all_is_freed(
    node: Pressed, tmp_path: Path
) -> None:
    for n in range(1, 7):
        node.put(n)
    file = node.store._jobs.file
    assert file is not None
    fd = file.open().fd

    assert list((tmp_path / "spill").iterdir()) == []
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    assert os.fstat(fd).st_blocks * 512 >= 4 * MIB
    node.free(*range(1, 7))

    assert os.fstat(fd).st_blocks == 0
    assert os.fstat(fd).st_size == 0


def test_disk_space_returns_with_each_object(node: Pressed) -> None:
    for n in range(1, 7):
        node.put(n)
    before = node.stat("spill_file_bytes")

    node.free(1)

    assert node.stat("spill_file_bytes") == before - 2 * MIB


def test_what_came_back_from_the_disk_goes_again_without_being_written(node: Pressed) -> None:
    for n in range(1, 7):
        node.put(n)
    for n in range(1, 7):
        node.read(n)
        node.unpin(n)
    written = node.stat("total_objects_spilled")

    for n in range(1, 7):
        node.read(n)
        node.unpin(n)

    assert node.stat("total_objects_spilled") == written


def test_a_creation_waits_while_objects_are_written_and_goes_on_then(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.threads_wait = True

    assert node.create(5, 2 * MIB) == []
    node.pass_time(PRESSED_WAIT_S * 2)
    node.run_jobs()

    assert isinstance(node.last()[1], ObjectCreated)


def test_a_store_full_of_arrays_that_are_used_says_so_and_names_them(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.uses = {oid(n) for n in range(1, 5)}

    assert node.create(5, 2 * MIB) == []
    node.pass_time(PRESSED_WAIT_S - 0.1)
    assert not any(isinstance(message, CreateFailed) for _, message in node.sent)
    node.pass_time(0.2)

    failed = node.last()[1]
    assert isinstance(failed, CreateFailed)
    assert failed.reason == "full"
    assert "All of it is in use" in failed.text
    assert failed.text.count("2.0 MiB  sealed, in its owner's hand") == 4


def test_who_says_nothing_is_not_waited_for_for_ever(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.silent = True

    node.create(5, 2 * MIB)
    node.pass_time(PRESSED_WAIT_S + 0.1)

    assert isinstance(node.last()[1], CreateFailed)


def test_arrays_that_are_dropped_while_somebody_waits_make_room(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.uses = {oid(n) for n in range(1, 5)}
    node.create(5, 2 * MIB)
    node.pass_time(0.3)
    node.uses.clear()

    node.pass_time(0.2)

    assert isinstance(node.last()[1], ObjectCreated)


def test_the_eldest_is_not_starved_by_many_small_ones(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.uses = {oid(n) for n in range(1, 5)}
    node.create(10, 4 * MIB)
    node.pass_time(0.2)

    node.free(1)
    assert node.create(11, MIB) == []
    node.free(2)
    created = [m.descriptor.object_id for _, m in node.sent[-3:] if isinstance(m, ObjectCreated)]

    assert created == [oid(10)]


def test_a_reader_that_finds_no_room_reads_the_object_where_it_lies(node: Pressed) -> None:
    for n in range(1, 6):
        node.put(n)
    for n in range(2, 6):
        node.read(n, OWNER)
    node.uses = {oid(n) for n in range(2, 6)}
    assert node.stat("spilled") == 1

    assert node.get(1) == []
    node.pass_time(RESTORE_WAIT_S + 0.1)

    ready = node.last()[1]
    assert isinstance(ready, ObjectReady)
    assert ready.descriptor.path.startswith("/proc/")
    assert node.bytes_at(ready.descriptor) == bytes_of(1, 2 * MIB)
    # and the next one finds it there at once
    assert node.read(1, OWNER).path == ready.descriptor.path
    node.free(*range(1, 6))
    assert node.stat("spill_file_bytes") >= 2 * MIB
    for n in range(1, 6):
        node.unpin(n, OWNER)
    node.unpin(1)
    assert node.left() == {}


def test_only_the_first_of_many_readers_waits_in_vain(node: Pressed) -> None:
    for n in range(1, 9):
        node.put(n)
    for n in range(5, 9):
        node.read(n, OWNER)
    node.uses = {oid(n) for n in range(1, 9)}
    node.get(1)
    node.pass_time(RESTORE_WAIT_S + 0.1)

    ready = [node.get(n)[-1] for n in (2, 3, 4)]

    assert all(isinstance(m, ObjectReady) and m.descriptor.path for m in ready)
    node.free(8)
    node.unpin(8, OWNER)
    assert node.read(5).path == ""
    node.uses.clear()
    node.unpin(2)
    assert node.read(2).path == ""


def test_bundles_of_arguments_that_exceed_the_store_do_not_block_each_other(node: Pressed) -> None:
    """Two readers take six objects each, and let go of none: together more than the store holds."""
    for n in range(1, 13):
        node.put(n, MIB)
    node.uses = {oid(n) for n in range(1, 13)}
    first, second = b"first", b"second"

    for n in range(1, 7):
        node.get(n, first)
        node.get(n + 6, second)
    node.pass_time(5)

    got = {process: set[bytes]() for process in (first, second)}
    for process, message in node.sent:
        if isinstance(message, ObjectReady):
            got[process].add(message.descriptor.object_id)
            assert node.bytes_at(message.descriptor)[:1] == message.descriptor.object_id[:1]
    assert [len(got[first]), len(got[second])] == [6, 6]


def test_damaged_bytes_are_never_shown_and_the_owner_makes_the_object_again(node: Pressed) -> None:
    for n in range(1, 6):
        node.put(n)
    node.corrupt(1)

    assert node.get(1) == [ObjectsLost([oid(1)])]
    assert node.get(1, OWNER) == [ObjectGone(oid(1), "lost")]
    assert node.stat("lost") == 1
    assert "damaged" in node.told[-1]

    node.put(1)
    assert [process for process, message in node.sent if isinstance(message, ObjectReady)] == [READER]


def test_damaged_bytes_are_not_shown_where_they_lie_either(node: Pressed) -> None:
    for n in range(1, 6):
        node.put(n)
    for n in range(2, 6):
        node.read(n, OWNER)
    node.uses = {oid(n) for n in range(2, 6)}
    node.corrupt(1)

    node.get(1)
    node.pass_time(RESTORE_WAIT_S + 0.1)

    assert node.last() == (OWNER, ObjectsLost([oid(1)]))


def test_weak_objects_are_evicted_and_their_owner_is_asked_to_make_them_again(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n, weak=n == 2)
    node.put(5)

    assert node.stat("evicted") + node.stat("spilled") >= 1
    node.put(6)
    assert node.stat("evicted") == 1
    assert node.get(2) == [ObjectsLost([oid(2)])]
    assert node.get(2, OWNER) == [ObjectGone(oid(2), "evicted")]
    assert [m for m in node.get(2) if not isinstance(m, RecallObjects)] == []


def test_where_objects_are_evicted_nothing_is_written(tmp_path: Path) -> None:
    node = Pressed(SpillPlan(tmp_path, evicts=True))
    for n in range(1, 8):
        node.put(n)

    assert node.stat("evicted") >= 3
    assert node.stat("spill_file_bytes") == node.stat("total_objects_spilled") == 0
    node.free(*range(1, 8))
    assert node.left() == {}
    node.store.close()


def test_an_object_larger_than_the_store_lies_on_the_disk_and_people_are_told_once(node: Pressed) -> None:
    place = node.put(1, 9 * MIB)
    node.put(2, 10 * MIB)

    assert place.path
    assert node.read(1) == place
    assert len(node.told) == 1
    assert "larger than the whole object store of 8.0 MiB" in node.told[0]
    node.free(1, 2)
    assert node.stat("spill_file_bytes") == 9 * MIB
    node.unpin(1)
    assert node.left() == {}


@pytest.mark.parametrize("end", ["abort", "free", "death of the writer", "death of the owner"])
def test_an_object_larger_than_the_store_that_comes_to_nothing_leaves_nothing(
    node: Pressed, end: str
) -> None:
    node.threads_wait = True
    assert node.create(1, 9 * MIB) == []
    if end == "abort":
        node.tell(WRITER, AbortObject(oid(1)))
    elif end == "free":
        node.free(1)
    else:
        node.store.process_lost(WRITER if end == "death of the writer" else OWNER)
    node.run_jobs()
    if end in {"free", "death of the owner"}:  # its writer does not know
        node.tell(WRITER, SealObject(oid(1)))
        node.run_jobs()

    assert node.left() == {}


def test_where_the_machine_has_no_memory_objects_make_room_for_others(node: Pressed) -> None:
    node.store._space._available = lambda: 5 * MIB - node.memory()
    for n in range(1, 6):
        node.put(n)

    assert node.memory() <= 5 * MIB
    assert node.stat("spilled") >= 3
    for n in range(1, 6):
        node.read(n)
        node.unpin(n)


def test_where_the_machine_has_no_memory_and_nothing_may_leave_the_reason_is_told(node: Pressed) -> None:
    node.store._space._available = lambda: 5 * MIB - node.memory()
    node.put(1)
    node.put(2)
    node.uses = {oid(1), oid(2)}

    assert node.create(3, 2 * MIB) == []
    node.pass_time(PRESSED_WAIT_S + 0.1)

    failed = node.last()[1]
    assert isinstance(failed, CreateFailed)
    assert failed.reason == "memory"
    assert "2097152 more bytes are needed and 1048576 may be taken" in failed.text


# --- the disk refuses -------------------------------------------------------------------------------------


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_typed_and_everything_stored_stays_readable(
    node: Pressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1, 7):
        node.put(n)
    monkeypatch.setattr(disk_io, "reserve", no_space)
    monkeypatch.setattr("nbray.store.spill_file.reserve", no_space)

    node.create(7, 4 * MIB)
    node.pass_time(PRESSED_WAIT_S + 0.2)

    failed = node.last()[1]
    assert isinstance(failed, CreateFailed)
    assert "has no room for objects" in failed.text
    assert len(node.told) == 1
    for n in range(1, 7):
        assert [type(message) for message in node.get(n)][-1:] in ([ObjectReady], [])
        node.pass_time(RESTORE_WAIT_S + 0.2)
        ready = [m.descriptor for _, m in node.sent if isinstance(m, ObjectReady)][-1]
        assert ready.object_id == oid(n)
        assert node.bytes_at(ready) == bytes_of(n, 2 * MIB)

    # when there is room again, so is there in the store
    monkeypatch.undo()
    for n in range(1, 7):
        node.unpin(n)
    node.now_s += DISK_REST_S
    assert node.put(8).path == ""


def test_a_failing_disk_is_tried_again_after_a_rest_and_told_once_a_minute(
    node: Pressed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def broken(*_: object) -> list[int]:
        tried.append(node.now_s)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(disk_jobs, "write_out", broken)
    for n in range(1, 5):
        node.put(n)
    for n in range(5, 9):
        node.create(n, 2 * MIB)
        node.pass_time(PRESSED_WAIT_S + 0.2)

    assert len(node.told) == 1
    assert 2 <= len(tried) <= 5
    assert all(later - earlier >= DISK_REST_S for earlier, later in itertools.pairwise(tried))
    assert node.stat("spill_file_bytes") == 0


def test_a_directory_that_cannot_be_made_is_typed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    node = Pressed(SpillPlan(tmp_path / "file" / "spill"))
    for n in range(1, 5):
        node.put(n)

    node.create(5, 2 * MIB)
    node.pass_time(PRESSED_WAIT_S + 0.2)

    failed = node.last()[1]
    assert isinstance(failed, CreateFailed)
    assert "Not a directory" in failed.text
    (refused,) = node.create(6, 9 * MIB)
    assert isinstance(refused, CreateFailed)
    assert "cannot lie on the disk instead" in refused.text
    node.store.close()


def test_a_directory_that_is_removed_while_it_is_used_does_no_harm(node: Pressed, tmp_path: Path) -> None:
    for n in range(1, 6):
        node.put(n)
    (tmp_path / "spill").rmdir()

    for n in range(6, 10):
        node.put(n)
    for n in range(1, 10):
        node.read(n)
        node.unpin(n)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
def test_people_are_told_when_the_disk_is_memory(tmp_path: Path) -> None:
    node = Pressed(SpillPlan(Path("/dev/shm")))
    for n in range(1, 7):
        node.put(n)

    assert [line for line in node.told if "in memory, too (tmpfs)" in line] == node.told[:1] != []
    node.store.close()


def test_the_limit_holds_and_is_named(tmp_path: Path) -> None:
    node = Pressed(SpillPlan(tmp_path, limit_bytes=4 * MIB))
    for n in range(1, 7):
        node.put(n)
    assert node.stat("spill_file_bytes") == 4 * MIB

    node.create(7, 2 * MIB)
    node.pass_time(PRESSED_WAIT_S + 0.2)

    failed = node.last()[1]
    assert isinstance(failed, CreateFailed)
    assert "object_spilling_limit is reached: 4.0 MiB" in failed.text
    node.store.close()


def test_places_on_the_disk_that_are_not_needed_make_room_for_others(tmp_path: Path) -> None:
    node = Pressed(SpillPlan(tmp_path, limit_bytes=4 * MIB))
    for n in range(1, 7):
        node.put(n)
    node.free(3)
    node.read(1)  # it is in both places now
    node.uses = {oid(1)}

    node.put(7)

    assert node.stat("spilled") == 2
    assert node.stat("spill_file_bytes") == 4 * MIB
    node.store.close()


def test_an_object_is_freed_while_it_is_written(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.threads_wait = True
    node.create(5, 2 * MIB)
    node.free(1, 2, 3, 4)
    node.run_jobs()
    node.tell(WRITER, SealObject(oid(5)))
    node.free(5)

    assert node.left() == {}


def test_the_end_of_the_session_stops_threads(node: Pressed) -> None:
    for n in range(1, 5):
        node.put(n)
    node.threads_wait = True
    node.create(5, 2 * MIB)
    assert node.jobs

    node.store.close()
    node.run_jobs()

    assert node.stat("spilled") == 0


def test_an_orphan_is_dropped_here_and_others_by_their_owners(node: Pressed) -> None:
    node.put(1)
    held = [(oid(1), OWNER), (oid(9), OWNER)]  # the latter is its owner's secret
    assert node.tell(READER, DropObjects(held)) == [DropObjects(held)]
    assert node.sent[-1][0] == OWNER
    node.tell(READER, HoldObjects([(oid(1), OWNER)]))
    node.store.process_lost(OWNER)
    assert node.stat("sealed") == 1

    node.tell(READER, DropObjects([(oid(1), OWNER), (oid(9), OWNER)]))

    assert node.get(1) == [ObjectGone(oid(1), "owner_died")]
    assert node.stat("used_bytes") == 0


def looks_under_way(node: Pressed, objects: int) -> None:
    """Nothing can leave the arena, and readers wait until threads have looked at what lies on the disk."""
    for n in range(1, objects + 5):
        node.put(n)
    for n in range(objects + 1, objects + 5):
        node.read(n, OWNER)
    node.uses = {oid(n) for n in range(objects + 1, objects + 5)}
    node.threads_wait = True
    for n in range(1, objects + 1):
        node.get(n)
    node.pass_time(RESTORE_WAIT_S + 0.1)


def test_readers_are_served_though_others_before_them_need_it_no_more(node: Pressed) -> None:
    looks_under_way(node, 9)
    assert len(node.jobs) == 3  # six wait for a thread

    node.free(*range(4, 9))
    node.run_jobs()

    served = [message.descriptor.object_id for _, message in node.sent if isinstance(message, ObjectReady)]
    assert {oid(1), oid(2), oid(3), oid(9)} <= set(served)


def test_object_that_is_freed_while_a_thread_looks_at_it_is_not_called_damaged(node: Pressed) -> None:
    looks_under_way(node, 1)
    (look,) = node.jobs

    node.free(1)
    node.jobs.remove(look)
    node.run_jobs()  # its place on the disk is given back
    node.jobs.append(look)
    node.run_jobs()

    assert node.told == []
    assert node.stat("total_spill_failures") == 0


def test_reader_hears_only_of_what_is_lost_when_it_asks_for_that(tmp_path: Path) -> None:
    node = Pressed(SpillPlan(tmp_path, evicts=True))
    for n in range(1, 6):
        node.put(n)

    wanted = [(oid(n), OWNER) for n in (1, 2, 5, 9)]

    assert node.tell(OWNER, GetObjects(wanted, True)) == [ObjectGone(oid(1), "evicted")]
    assert node.stat("pinned") == node.stat("waited_for") == 0
    node.store.close()
