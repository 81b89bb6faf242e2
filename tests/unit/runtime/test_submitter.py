"""The submitter's own part: connections that fail, last words, repeated messages, long chains.

Called by:  pytest.
Imports:    nbray.runtime.submitter, on the still world of tests.support.
Never:      opens a socket. The decisions are tested with core.leases; whole lives with the owner machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbray.core.leases import Lease, LeaseState
from nbray.core.tasks import TaskState
from nbray.model import ids
from nbray.model.resources import UNIT, Shape
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.messages import (
    LeaseGranted,
    TaskAnswer,
    TasksDone,
)
from nbray.wire.object_messages import FreeObjects
from nbray.wire.waiting_messages import BY_MEMORY
from tests.support.owner_world import Worker, World

ONE: Shape = (("CPU", UNIT),)
ANYWHERE = b"n" * 16


@pytest.fixture
def world() -> Iterator[World]:
    world = World(cpus=UNIT)
    yield world
    world.close()


def granted(world: World) -> Worker:
    """The first request is served, by a worker that the owner has not heard of yet."""
    world.grant(next(iter(world.waiting)))
    return world.workers[-1]


def joined(world: World) -> Worker:
    worker = granted(world)
    world.read_daemon()
    while worker.wire is not None and worker.wire.to_worker:
        worker.receive()
    return worker


def only_lease(world: World) -> Lease:
    (lease,) = world.submitter.pool.by_id.values()
    return lease


def states(world: World) -> list[TaskState]:
    return [task.state for task in world.submitter.tasks.tasks.values()]


def outcome(world: World, ref: Any) -> tuple[bool, bool]:
    """(is there, is an error)"""
    entry = world.objects.table.entries[ref._id]
    return entry.value is not None, entry.failed


def test_worker_that_died_before_it_was_reached_costs_no_task_an_attempt(world: World) -> None:
    """A task that may run once would otherwise fail without ever having been sent."""
    world.submit(1, ONE, [], max_retries=0, num_returns=1)
    worker = granted(world)
    world.kill(worker)

    world.read_daemon()
    assert states(world) == [TaskState.QUEUED]
    world.read_daemon()
    joined(world)

    assert states(world) == [TaskState.PUSHED]
    assert not world.retries


def test_cause_of_a_death_that_never_arrives_is_not_waited_for_without_end(world: World) -> None:
    (ref,) = world.submit(1, ONE, [], max_retries=0, num_returns=1)
    worker = joined(world)
    world.kill(worker)
    world.from_daemon.clear()
    assert worker.wire is not None
    world.read_worker(worker.wire, 1)

    world.pass_time(9.0)
    assert outcome(world, ref) == (False, False)
    world.pass_time(1.5)

    assert outcome(world, ref) == (True, True)


def test_task_that_is_cancelled_while_it_waits_for_memory_leaves_its_queue_as_it_was(world: World) -> None:
    (ref,) = world.submit(1, ONE, [], max_retries=3, num_returns=1)
    worker = joined(world)
    world.start(worker)
    world.kill(worker, BY_MEMORY)
    world.read_daemon()
    assert states(world) == [TaskState.WAITING]
    assert not world.waiting, "no worker is asked for until there is memory"

    world.cancel(ref._id[: ids.TASK_ID_BYTES], force=False)
    world.submit(2, ONE, [], max_retries=3, num_returns=1)

    assert outcome(world, ref) == (True, True)
    assert world.waiting, "the next one gets a worker"


def test_task_that_waits_for_memory_runs_again_when_there_is_some(world: World) -> None:
    world.submit(1, ONE, [], max_retries=3, num_returns=1)
    worker = joined(world)
    world.start(worker)
    world.kill(worker, BY_MEMORY)
    world.read_daemon()

    world.submitter.relief.eased()
    world.pass_time(0.6)

    assert states(world) == [TaskState.QUEUED]
    assert world.waiting


def test_last_answer_of_a_dead_worker_counts(world: World) -> None:
    """The daemon's word that it died may be read before its own last words."""
    (ref,) = world.submit(1, ONE, [], max_retries=0, num_returns=1)
    worker = joined(world)
    world.start(worker)
    world.finish(worker, 10, failed=False)
    world.kill(worker)

    world.read_daemon()

    assert outcome(world, ref) == (True, False)


def test_last_words_of_a_dead_worker_push_nothing_to_it(world: World) -> None:
    """It said that it goes on and answered, then died: the next task must not be counted as running there."""
    world.submit(1, ONE, [], max_retries=3, num_returns=1)
    worker = joined(world)
    world.start(worker)
    worker.block()
    assert worker.wire is not None
    world.read_worker(worker.wire, 10)
    world.submit(2, ONE, [], max_retries=0, num_returns=1)
    worker.go_on()
    world.finish(worker, 10, failed=False)
    world.kill(worker)

    world.read_daemon()

    assert states(world) == [TaskState.QUEUED]
    assert world.waiting, "and another worker is asked for"


def test_repeated_grant_does_not_give_the_lease_back(world: World) -> None:
    world.submit(1, ONE, [], max_retries=0, num_returns=1)
    granted(world)
    (grant,) = world.from_daemon
    assert isinstance(grant, LeaseGranted)
    world.from_daemon.append(grant)

    world.read_daemon()
    world.read_daemon()

    assert world.returned == set()
    assert only_lease(world).state is LeaseState.OPEN


def test_grant_to_an_owner_with_nothing_left_to_push_goes_back_by_itself(world: World) -> None:
    """No command is due, so nothing but the clock will look at it again."""
    world.submit(1, ONE, [], max_retries=0, num_returns=1)
    granted(world)
    world.submitter.pool.shapes[ONE].queue.clear()
    world.loop.deadline_s = None

    world.read_daemon()
    assert world.loop.deadline_s is not None
    for _ in range(10):
        world.pass_time(0.03)

    assert len(world.returned) == 1


def test_repeated_answer_does_not_free_the_object_that_the_first_one_named(world: World) -> None:
    heard: list[Message] = []
    (ref,) = world.submit(1, ONE, [], max_retries=0, num_returns=1)
    worker = joined(world)
    world.start(worker)
    descriptor = Descriptor(ref._id, ANYWHERE, 0, 1 << 20, 1)
    answer = TasksDone([TaskAnswer(ref._id[:16], 0, False, [descriptor], 10, 0)])
    worker.say(answer)
    worker.say(answer)
    assert worker.wire is not None
    world.submitter._tell_daemon = heard.append

    world.read_worker(worker.wire, 2)

    assert not [message for message in heard if isinstance(message, FreeObjects)]


def test_answer_that_nobody_wants_frees_its_object(world: World) -> None:
    """The last reference was dropped while the task ran, and the answer came twice."""
    heard: list[Message] = []
    (ref,) = world.submit(1, ONE, [], max_retries=0, num_returns=1)
    object_id = ref._id
    worker = joined(world)
    world.start(worker)
    del ref
    world.objects.drain()
    descriptor = Descriptor(object_id, ANYWHERE, 0, 1 << 20, 1)
    worker.say(TasksDone([TaskAnswer(object_id[:16], 0, False, [descriptor], 10, 0)]))
    assert worker.wire is not None
    world.objects._tell_daemon = heard.append

    world.read_worker(worker.wire, 1)

    assert heard == [FreeObjects([object_id])]


def test_error_runs_down_a_long_chain(world: World) -> None:
    """Each task takes the result of the one before; the first fails."""
    (first,) = refs = world.submit(0, ONE, [], max_retries=0, num_returns=1)
    for number in range(1, 3_000):
        refs += world.submit(number, ONE, [refs[-1]._id], max_retries=0, num_returns=1)

    world.objects.deliver(first._id, b"an error", True)

    assert {outcome(world, ref) for ref in refs} == {(True, True)}
    assert len(world.submitter.tasks) == 1, "only the first is still with a worker"


def test_no_worker_can_be_started_and_everything_that_waits_for_one_fails(world: World) -> None:
    refs = [ref for n in range(3) for ref in world.submit(n, ONE, [], max_retries=3, num_returns=1)]
    world.refuse(next(iter(world.waiting)))

    world.read_daemon()

    assert {outcome(world, ref) for ref in refs} == {(True, True)}
    assert not world.submitter.pool.by_id
