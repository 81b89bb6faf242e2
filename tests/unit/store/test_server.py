"""The store as the daemon drives it: creations that wait, fail typed, or are overtaken by bad luck."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nbray.store.creating import FULL_WAIT_S
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.messages import GetStatus
from nbray.wire.object_messages import (
    AbortObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    GetObjects,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsPinned,
    PinObjects,
    RequestSlab,
    SealObject,
    SlabGranted,
    UnpinObjects,
)
from tests.support.store_node import MIB, NODE, OWNER, READER, WRITER, Node, oid


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(8 * MIB)
    yield node
    node.store.close()


def refusal(messages: list[Message]) -> CreateFailed:
    (message,) = messages
    assert isinstance(message, CreateFailed)
    return message


def test_an_object_is_created_sealed_read_and_freed(node: Node) -> None:
    place = node.stored(1, 2 * MIB)
    assert node.memory() == 2 * MIB

    assert node.tell(READER, GetObjects([(oid(1), OWNER)])) == [ObjectReady(place)]
    node.tell(OWNER, FreeObjects([oid(1)]))
    assert node.store.stats()["used_bytes"] == 2 * MIB

    node.tell(READER, UnpinObjects([oid(1)]))
    assert node.store.stats()["used_bytes"] == 0
    assert node.store.stats()["objects"] == 0


def test_messages_of_other_conversations_are_left_to_others(node: Node) -> None:
    assert not node.store.handle(OWNER, GetStatus(1))


def test_the_descriptor_tells_the_true_size_and_the_node(node: Node) -> None:
    place = node.stored(1, 1000)

    assert place == Descriptor(oid(1), NODE, place.offset, 1000, 1)


def test_an_object_of_no_bytes_is_an_object(node: Node) -> None:
    place = node.stored(1, 0)

    assert place.size_bytes == 0
    assert node.tell(READER, GetObjects([(oid(1), OWNER)])) == [ObjectReady(place)]


def test_freed_space_is_used_again_without_taking_more_memory(node: Node) -> None:
    first = node.stored(1, 2 * MIB)
    node.tell(OWNER, FreeObjects([oid(1)]))

    again = node.stored(2, 2 * MIB)

    assert again.offset == first.offset
    assert again.generation > first.generation
    assert node.memory() == 2 * MIB


def test_small_backing_is_done_at_once_and_large_backing_in_a_thread(node: Node) -> None:
    node.threads_wait = True

    assert len(node.create(1, 200 * 1024)) == 1
    assert node.create(2, 2 * MIB) == []
    node.run_jobs()

    assert isinstance(node.sent[-1][1], ObjectCreated)


def test_an_object_larger_than_the_store_is_refused_at_once(node: Node) -> None:
    failed = refusal(node.create(1, 9 * MIB))

    assert failed.reason == "full"
    assert "larger than the whole object store of 8.0 MiB" in failed.text
    assert not node.timers


def test_a_negative_size_is_refused(node: Node) -> None:
    assert refusal(node.create(1, -1)).reason == "full"


def test_the_second_request_for_one_object_is_refused(node: Node) -> None:
    node.create(1, 100)

    assert refusal(node.create(1, 100)).reason == "exists"


def test_a_full_store_says_so_after_a_short_wait_and_names_the_largest(node: Node) -> None:
    node.stored(1, 6 * MIB)

    assert node.create(2, 3 * MIB) == []
    node.pass_time(FULL_WAIT_S / 2)
    assert len(node.sent) == 1
    node.pass_time(FULL_WAIT_S)

    process, failed = node.sent[-1]
    assert process == WRITER
    assert isinstance(failed, CreateFailed)
    assert failed.reason == "full"
    assert "6.0 MiB of 8.0 MiB are in use" in failed.text
    assert "object_spilling=False" in failed.text
    assert "01010101     6.0 MiB  sealed" in failed.text
    assert node.store.stats()["creations_waiting"] == 0


def test_a_full_store_waits_for_frees_that_are_on_their_way(node: Node) -> None:
    node.stored(1, 6 * MIB)
    node.create(2, 3 * MIB)

    answers = node.tell(OWNER, FreeObjects([oid(1)]))

    assert [type(answer) for answer in answers] == [ObjectCreated]
    node.pass_time()
    assert not any(isinstance(message, CreateFailed) for _, message in node.sent)


def test_who_waits_for_room_may_ask_once_give_up_or_die(node: Node) -> None:
    node.stored(1, 6 * MIB)
    node.create(2, 3 * MIB)
    assert refusal(node.create(2, 3 * MIB)).reason == "exists"
    node.create(3, 3 * MIB, READER)

    node.tell(WRITER, AbortObject(oid(2)))
    node.store.process_lost(READER)

    assert node.tell(OWNER, FreeObjects([oid(1)])) == []
    node.pass_time()
    assert node.store.stats()["used_bytes"] == 0


def test_an_object_freed_while_it_waits_for_room_goes_at_its_seal(node: Node) -> None:
    node.stored(1, 6 * MIB)
    node.create(2, 3 * MIB)

    node.tell(OWNER, FreeObjects([oid(2)]))
    answers = node.tell(OWNER, FreeObjects([oid(1)]))
    assert [type(answer) for answer in answers] == [ObjectCreated]
    node.tell(WRITER, SealObject(oid(2)))

    assert node.store.stats()["used_bytes"] == 0
    assert node.tell(READER, GetObjects([(oid(2), OWNER)])) == [ObjectGone(oid(2), "freed")]


def test_what_was_freed_while_it_waited_for_room_takes_no_newer_copy_along(node: Node) -> None:
    node.stored(1, 6 * MIB)
    node.create(2, 3 * MIB)
    node.tell(OWNER, FreeObjects([oid(2)]))
    place = node.stored(2, MIB, READER)

    node.tell(OWNER, FreeObjects([oid(1)]))
    node.tell(WRITER, SealObject(oid(2)))

    assert node.tell(OWNER, GetObjects([(oid(2), OWNER)])) == [ObjectReady(place)]
    assert node.store.stats()["used_bytes"] == MIB


def test_lack_of_memory_is_typed_and_leaves_the_store_usable(node: Node) -> None:
    node.available = MIB

    failed = refusal(node.create(1, 2 * MIB))

    assert failed.reason == "memory"
    assert f"{2 * MIB} more bytes are needed and {MIB} may be taken" in failed.text
    assert node.store.stats()["used_bytes"] == node.memory() == 0
    assert node.stored(2, 100).size_bytes == 100


def test_memory_that_vanishes_in_the_middle_of_growth_is_typed_too(node: Node) -> None:
    node.threads_wait = True
    node.create(1, 2 * MIB)
    node.available = 0

    node.run_jobs()

    failed = refusal([message for _, message in node.sent])
    assert failed.reason == "memory"
    assert node.store.stats()["used_bytes"] == node.memory() == 0


def test_a_kernel_that_has_no_memory_is_typed_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(start: int, end: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node.arena, "back", no_space)

    for n, size_bytes in enumerate((1000, 2 * MIB)):
        failed = refusal(node.create(n, size_bytes))
        assert failed.reason == "memory"
        assert "No space left on device" in failed.text


def test_stored_objects_stay_readable_when_there_is_neither_room_nor_memory(node: Node) -> None:
    place = node.stored(1, 2 * MIB)
    node.available = 0
    refusal(node.create(2, 2 * MIB))

    assert node.tell(READER, GetObjects([(oid(1), OWNER)])) == [ObjectReady(place)]


def test_free_memory_elsewhere_is_given_back_when_a_larger_object_needs_it(node: Node) -> None:
    node.stored(1, 2 * MIB)
    node.stored(2, MIB)
    node.tell(OWNER, FreeObjects([oid(1)]))
    limit = 5 * MIB

    node.store._space._available = lambda: limit - node.memory()
    place = node.stored(3, 4 * MIB)

    assert place.offset == 3 * MIB
    assert node.memory() == limit


@pytest.mark.parametrize("end", ["abort", "writer lost"])
def test_space_whose_backing_is_under_way_returns_when_that_is_done(node: Node, end: str) -> None:
    node.threads_wait = True
    node.create(1, 2 * MIB)

    if end == "abort":
        node.tell(WRITER, AbortObject(oid(1)))
    else:
        node.store.process_lost(WRITER)
    assert node.store.stats()["used_bytes"] == 2 * MIB
    node.run_jobs()

    assert node.store.stats()["used_bytes"] == 0
    assert node.store.stats()["backed_bytes"] == 2 * MIB
    assert node.sent == []


def test_failed_backing_of_an_object_that_nobody_wants_any_more_is_not_told(node: Node) -> None:
    node.threads_wait = True
    node.create(1, 2 * MIB)
    node.tell(WRITER, AbortObject(oid(1)))
    node.available = 0

    node.run_jobs()

    assert node.sent == []
    assert node.store.stats()["used_bytes"] == node.store.stats()["backed_bytes"] == 0


def test_a_creation_goes_on_when_backing_that_nobody_needs_makes_room(node: Node) -> None:
    node.threads_wait = True
    node.create(1, 6 * MIB)
    node.create(2, 6 * MIB)

    node.tell(WRITER, AbortObject(oid(1)))
    node.run_jobs()

    assert [type(message) for _, message in node.sent] == [ObjectCreated]


def test_a_seal_before_the_space_was_told_is_ignored(node: Node) -> None:
    node.threads_wait = True
    node.create(1, 2 * MIB)

    node.tell(WRITER, SealObject(oid(1)))

    assert node.store.stats()["sealed"] == 0


def test_pins_by_request_are_confirmed_after_they_hold(node: Node) -> None:
    node.stored(1, 100)

    assert node.tell(READER, PinObjects(7, [oid(1), oid(2)])) == [ObjectsPinned(7)]
    node.tell(OWNER, FreeObjects([oid(1)]))

    assert node.store.stats()["lingering"] == 1


def test_a_lost_process_leaves_nothing_and_its_late_messages_change_nothing(node: Node) -> None:
    node.stored(1, MIB)
    node.tell(READER, GetObjects([(oid(1), OWNER)]))
    node.tell(OWNER, FreeObjects([oid(1)]))
    node.create(2, MIB)

    for process in (READER, WRITER):
        node.store.process_lost(process)
        node.store.process_lost(process)
    after = node.store.stats()
    late = [
        CreateObject(oid(3), OWNER, 100),
        SealObject(oid(2)),
        GetObjects([(oid(3), OWNER)]),
        PinObjects(1, [oid(1)]),
    ]

    assert [node.tell(WRITER, message) for message in late] == [[], [], [], []]
    assert after["used_bytes"] == after["objects"] == 0
    assert node.store.stats() == after


def test_an_idle_store_gives_its_free_memory_back(node: Node) -> None:
    node.stored(1, 2 * MIB)
    kept = node.stored(2, MIB)
    os.pwrite(node.arena.fd, b"kept", kept.offset)
    node.tell(OWNER, FreeObjects([oid(1)]))

    assert node.store.cool(64 * MIB) == 2 * MIB

    assert node.memory() == node.store.stats()["backed_bytes"] == MIB
    assert os.pread(node.arena.fd, 4, kept.offset) == b"kept"


def test_the_largest_objects_are_known(node: Node) -> None:
    node.stored(1, 100)
    node.stored(2, MIB)

    assert [(h.object_id, h.size_bytes) for h in node.store.largest(1)] == [(oid(2), MIB)]


def test_a_closed_store_answers_nobody(node: Node) -> None:
    node.threads_wait = True
    node.create(1, 2 * MIB)
    node.stored(2, 100)
    sent = len(node.sent)

    node.store.close()
    node.store.close()
    node.run_jobs()
    node.pass_time()

    assert node.tell(READER, GetObjects([(oid(2), OWNER)])) == []
    node.store.process_lost(WRITER)
    assert node.store.cool(MIB) == 0
    assert len(node.sent) == sent


def test_slabs_and_small_objects_do_not_come_between_large_ones(node: Node) -> None:
    # given slabs of two processes and a small object, between large ones
    places = [node.stored(1, 2 * MIB)]
    slabs = [node.tell(process, RequestSlab(8 * 1024)) for process in (WRITER, OWNER)]
    small = node.stored(2, 1000)
    places += [node.stored(3, 2 * MIB), node.stored(4, 2 * MIB)]

    # then these lie side by side, and the others at the end
    assert [place.offset for place in places] == [0, 2 * MIB, 4 * MIB]
    assert [granted.size_bytes for (granted,) in slabs if isinstance(granted, SlabGranted)] == [
        128 * 1024
    ] * 2
    assert small.offset > 7 * MIB

    # and when one of the large ones goes, another takes its place, whatever small comes first
    node.tell(OWNER, FreeObjects([oid(3)]))
    node.stored(5, 500_000)
    assert node.stored(6, 2 * MIB).offset == 2 * MIB
