"""What follows a cancel of a task that a worker has, in virtual time."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from nbray.core.cancellation import Cancellations, Command, Signal, Tell
from nbray.core.leases import Lease
from nbray.core.task_queue import ShapeQueue
from nbray.core.tasks import IllegalTransitionError, Task, TaskEvent, TaskSpec, TaskState, TaskTable

SPEC = TaskSpec(1, b"f", "f", 1, (), 3, 0, "")
INT, TERM, KILL = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGKILL)


def task_in(state: TaskState, number: int = 1) -> Task:
    task = Task(number.to_bytes(16, "big"), SPEC, b"", False)
    task.state = state
    return task


def lease_with(*tasks: Task) -> Lease:
    lease = Lease(b"lease", ())
    lease.inflight.extend(tasks)
    return lease


def signals(cancellations: Cancellations, until_s: float) -> list[tuple[float, int]]:
    """What is sent, and when, if the host looks whenever it was told to."""
    sent, now_s = [], 0.0
    while now_s <= until_s:
        out: list[Command] = []
        next_s = cancellations.due(now_s, out)
        sent += [(round(now_s, 3), command.number) for command in out if isinstance(command, Signal)]
        if next_s is None:
            break
        assert next_s > now_s
        now_s = next_s
    return sent


def test_a_task_that_does_not_end_gets_one_signal_after_the_other() -> None:
    task, out, cancellations = task_in(TaskState.CANCELLING), list[Command](), Cancellations()
    lease = lease_with(task)

    cancellations.begin(task, lease, False, 0.0, out)

    assert out == [Tell(lease, task, False)]
    assert signals(cancellations, 5.0) == [(0.25, INT), (1.0, TERM), (2.0, KILL)]


def test_a_forced_cancel_kills_soon_what_does_not_kill_itself() -> None:
    task, cancellations = task_in(TaskState.CANCELLING), Cancellations()

    cancellations.begin(task, lease_with(task), True, 0.0, [])

    assert signals(cancellations, 5.0) == [(0.1, KILL)]
    assert cancellations.is_forced(task)


def test_force_may_follow_a_cancel_and_not_the_other_way_round() -> None:
    task, out, cancellations = task_in(TaskState.CANCELLING), list[Command](), Cancellations()
    lease = lease_with(task)

    for force in (False, False, True, False):
        cancellations.begin(task, lease, force, 0.0, out)

    assert out == [Tell(lease, task, False), Tell(lease, task, True)]
    assert cancellations.is_forced(task)


def test_signals_count_from_when_the_task_could_begin_and_spare_the_one_before_it() -> None:
    before, task = task_in(TaskState.PUSHED, 1), task_in(TaskState.CANCELLING, 2)
    lease, cancellations = lease_with(before, task), Cancellations()
    cancellations.begin(task, lease, False, 0.0, [])
    assert signals(cancellations, 10.0) == []

    lease.inflight.popleft()
    lease.head_since_s = 10.0

    out: list[Command] = []
    cancellations.due(10.2, out)
    assert not out
    cancellations.due(10.25, out)
    assert out == [Signal(lease, INT)]


def test_nothing_is_sent_once_the_task_is_over() -> None:
    task, cancellations = task_in(TaskState.CANCELLING), Cancellations()
    cancellations.begin(task, lease_with(task), False, 0.0, [])

    task.step(TaskEvent.ANSWERED)

    assert signals(cancellations, 5.0) == []
    assert not len(cancellations)


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED])
@pytest.mark.parametrize("event", list(TaskEvent))
def test_terminal_states_are_final(state: TaskState, event: TaskEvent) -> None:
    with pytest.raises(IllegalTransitionError):
        task_in(state).step(event)


def test_a_task_that_is_to_be_cancelled_gets_no_other_attempt_but_its_answer_counts() -> None:
    for event, after in (
        (TaskEvent.HANDED_BACK, TaskState.CANCELLED),
        (TaskEvent.WORKER_LOST, TaskState.CANCELLED),
        (TaskEvent.ANSWERED, TaskState.DONE),
    ):
        task, table = task_in(TaskState.PUSHED), TaskTable()
        table.tasks[task.task_id] = task
        assert not table.cancel(task)
        assert table.current(task.task_id, 0) is task
        task.step(event)
        assert task.state is after


# --- the queue ------------------------------------------------------------------------------------------


def cancelled(task: Task, shape: ShapeQueue) -> None:
    task.state = TaskState.CANCELLED
    shape.drop()


def test_cancelled_tasks_vanish_from_the_queue_whatever_the_order() -> None:
    orders: list[Any] = [lambda x: x, reversed, lambda x: x[1::2], lambda x: x[::-3]]
    for order in orders:
        shape = ShapeQueue(())
        tasks = [task_in(TaskState.QUEUED, n) for n in range(500)]
        shape.queue.extend(tasks)
        gone = list(order(tasks))
        for task in gone:
            cancelled(task, shape)

        left = [task for task in tasks if task.state is TaskState.QUEUED]
        assert len(shape.queue) - shape.gone == len(left)
        assert shape.gone <= max(33, len(left) + 1)
        assert [shape.take() for _ in left] == left
        assert not shape.queue


def test_what_is_taken_at_once_has_no_cancelled_task_in_it() -> None:
    shape = ShapeQueue(())
    tasks = [task_in(TaskState.QUEUED, n) for n in range(4)]
    shape.queue.extend(tasks)
    cancelled(tasks[2], shape)

    assert shape.take_all() == [tasks[0], tasks[1], tasks[3]]
    assert (len(shape.queue), shape.gone) == (0, 0)
