"""Tasks wait their turn when what they take was moved out of a full store.

Called by:  pytest.
Imports:    nbray.runtime.task_arguments inside a submitter, on the still world of tests.support.
Never:      opens a socket.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nbray.model import ids
from nbray.model.resources import UNIT, Shape
from nbray.runtime.task_arguments import PATIENCE_S
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import GetObjects, ObjectReady, ObjectsYielded, RecallObjects
from tests.support.owner_world import SHORT_US, Worker, World

ONE: Shape = (("CPU", UNIT),)
CAPACITY_BYTES = 1000


class Desk:
    """An owner whose store was full: all that it has, it has yielded."""

    def __init__(self, world: World, sizes: list[int]) -> None:
        self.world = world
        self.sent: list[Message] = []
        objects = world.objects
        objects.mapping = SimpleNamespace(capacity_bytes=CAPACITY_BYTES)  # type: ignore[assignment]
        objects._tell_daemon = self.sent.append
        self.refs = [objects.own(bytes([n]) * 20) for n in range(len(sizes))]
        self.sizes = {ref.binary(): size for ref, size in zip(self.refs, sizes, strict=True)}
        for object_id in self.sizes:
            objects.deliver(object_id, self.place(object_id), False)
        self.yielded_of(list(range(len(sizes))))

    def place(self, object_id: bytes) -> Descriptor:
        return Descriptor(object_id, b"n" * 16, 0, self.sizes[object_id], 1)

    def submit(self, number: int, takes: list[int]) -> Any:
        return self.world.submit(number, ONE, [self.refs[n].binary() for n in takes], 3, 1)[0]

    def asked(self) -> list[int]:
        """What the owner has asked for since the last call."""
        wanted = [o for m in self.sent if isinstance(m, GetObjects) for o, _owner in m.wanted]
        self.sent.clear()
        return [object_id[0] for object_id in wanted]

    def comes(self, *numbers: int) -> None:
        for n in numbers:
            self.world.objects.on_ready(ObjectReady(self.place(self.refs[n].binary())))
        self.world.after_batch()

    def yielded_of(self, numbers: list[int]) -> list[int]:
        """The store needs room."""
        self.world.objects.on_recall(RecallObjects(1, [self.refs[n].binary() for n in numbers]))
        answer = self.sent.pop()
        assert isinstance(answer, ObjectsYielded)
        return [object_id[0] for object_id in answer.object_ids]


@pytest.fixture
def world() -> Iterator[World]:
    world = World(cpus=2 * UNIT)
    yield world
    world.close()


def worker_of(world: World) -> Worker:
    world.grant(next(iter(world.waiting)))
    world.read_daemon()
    return world.workers[-1]


def received(worker: Worker) -> list[int]:
    """The tasks that it got."""
    assert worker.wire is not None
    while worker.wire.to_worker:
        worker.receive()
    return [number for number in range(10) if _task_id(number) in {call.task_id for call in worker.inbox}]


def _task_id(number: int) -> bytes:
    return ids.task_id(b"s" * 12, number)


def finish(world: World, worker: Worker) -> None:
    world.start(worker)
    world.finish(worker, SHORT_US, False)
    worker.flush()
    assert worker.wire is not None
    world.read_worker(worker.wire, 1)


def test_only_the_eldest_are_brought_back_and_the_next_when_they_are_over(world: World) -> None:
    desk = Desk(world, [200, 200, 200, 200])
    results = [desk.submit(n, [n]) for n in range(4)]
    worker = worker_of(world)
    assert desk.asked() == [0, 1]  # 400 of the 500 that they may have

    desk.comes(0, 1)
    assert received(worker) == [0]
    assert desk.asked() == []
    finish(world, worker)

    assert desk.asked() == [2]
    assert len(results) == 4


def test_task_that_takes_more_than_its_share_has_the_store_for_itself(world: World) -> None:
    desk = Desk(world, [400, 400, 100])
    results = [desk.submit(0, [0, 1]), desk.submit(1, [2])]
    worker = worker_of(world)
    assert desk.asked() == [0, 1]

    desk.comes(0, 1)
    received(worker)
    finish(world, worker)

    assert desk.asked() == [2]
    assert len(results) == 2


def test_eldest_does_not_wait_for_ever_for_a_task_that_may_look_for_its_result(world: World) -> None:
    desk = Desk(world, [400, 400])
    results = [desk.submit(0, [0]), desk.submit(1, [1])]
    worker = worker_of(world)
    desk.asked()
    desk.comes(0)
    assert received(worker) == [0]
    world.pass_time(PATIENCE_S / 2)
    assert desk.asked() == []

    for _ in range(3):
        world.pass_time(PATIENCE_S)

    assert desk.asked() == [1]
    assert len(results) == 2


def test_what_an_admitted_task_takes_stays_and_the_rest_is_yielded(world: World) -> None:
    desk = Desk(world, [300, 300, 300])
    results = [desk.submit(0, [0, 1]), desk.submit(1, [1, 2])]
    worker_of(world)
    assert desk.asked() == [0, 1]
    desk.comes(0)

    assert desk.yielded_of([0]) == []
    desk.comes(1)
    assert desk.yielded_of([0, 1]) == []
    assert len(results) == 2


def test_what_a_task_that_waits_its_turn_takes_is_yielded_again(world: World) -> None:
    desk = Desk(world, [300, 300])
    results = [desk.submit(0, [0]), desk.submit(1, [1])]
    worker = worker_of(world)
    assert desk.asked() == [0]
    read = world.objects.table.entries[desk.refs[1].binary()]
    world.objects.ask([read])  # somebody reads it meanwhile
    assert desk.asked() == [1]
    desk.comes(1)

    assert desk.yielded_of([1]) == [1]

    desk.comes(0)
    received(worker)
    finish(world, worker)
    assert desk.asked() == [1]
    desk.comes(1)
    assert received(worker) == [1]
    assert len(results) == 2


def test_tasks_that_take_the_same_go_together(world: World) -> None:
    desk = Desk(world, [400])
    results = [desk.submit(n, [0]) for n in range(3)]
    worker_of(world)
    worker_of(world)

    assert desk.asked() == [0]
    desk.comes(0)

    assert [received(worker) for worker in world.workers] == [[0], [1]]
    assert len(results) == 3


def test_blocked_task_keeps_nobody_from_his_turn(world: World) -> None:
    desk = Desk(world, [400, 400])
    results = [desk.submit(0, [0]), desk.submit(1, [1])]
    worker = worker_of(world)
    desk.comes(0)
    received(worker)
    assert desk.asked() == [0]
    world.start(worker)

    worker.block()
    assert worker.wire is not None
    world.read_worker(worker.wire, 1)

    assert desk.asked() == [1]
    assert len(results) == 2


def test_nothing_is_remembered_of_tasks_that_are_over(world: World) -> None:
    desk = Desk(world, [400, 400])
    results = [desk.submit(0, [0]), desk.submit(1, [1])]
    worker = worker_of(world)
    desk.comes(0)
    received(worker)
    finish(world, worker)
    desk.comes(1)
    received(worker)
    finish(world, worker)

    arguments = world.submitter.arguments
    assert (list(arguments.parked), arguments.admitted) == ([], {})
    assert len(results) == 2


def test_books_of_what_tasks_take_are_balanced_when_all_are_over(world: World) -> None:
    desk = Desk(world, [200, 200, 100])
    results = [desk.submit(n, [n % 3, (n + 1) % 3]) for n in range(6)]
    worker = worker_of(world)
    while world.submitter.tasks.tasks:
        desk.comes(*set(desk.asked()))
        for _ in received(worker):
            finish(world, worker)

    arguments = world.submitter.arguments
    assert (arguments._used, arguments._used_bytes) == ({}, 0)
    assert len(results) == 6


def test_task_is_not_pushed_while_its_argument_is_being_made_again(world: World) -> None:
    # given a task in the queue, whose argument somebody else found lost
    desk = Desk(world, [100])
    result = desk.submit(0, [0])
    entry = world.objects.table.entries[desk.refs[0].binary()]
    world.objects.forget_value(entry)

    # when there is a worker for it, then it waits until the argument is there
    worker = worker_of(world)
    assert received(worker) == []
    world.objects.deliver(entry.object_id, desk.place(entry.object_id), False)
    world.after_batch()
    assert received(worker) == [0]
    assert result is not None
