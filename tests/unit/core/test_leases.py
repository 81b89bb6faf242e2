"""An owner's leases, one decision a sentence: when to ask, push, pipeline, take back and give back.

Called by:  pytest.
Imports:    nbray.core.{leases,tasks}.
Never:      reads a clock: the time is a number here.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

import pytest

from nbray.core.leases import (
    LINGER_S,
    SLOW_S,
    CancelRequest,
    Command,
    GiveBack,
    Lease,
    LeasePool,
    LeaseState,
    Push,
    RequestLease,
    TakeBack,
)
from nbray.core.task_queue import PIPELINE_MAX, PIPELINE_US, ShapeQueue
from nbray.core.tasks import Task, TaskEvent, TaskSpec, TaskState
from nbray.model.resources import Shape

ONE: Shape = (("CPU", 10_000),)
TWO: Shape = (("CPU", 20_000),)
C = TypeVar("C", bound=Command)


class Owner:
    """A pool on two CPUs, and short words to speak to it."""

    def __init__(self, parallelism: int = 2) -> None:
        numbers = itertools.count(1)
        self.pool = LeasePool(lambda: b"lease%d" % next(numbers), lambda shape: parallelism)
        self.now = 10.0
        self.out: list[Command] = []
        self._tasks = itertools.count(1)

    def place(self, count: int = 1, shape: Shape = ONE, max_retries: int = 3) -> list[Task]:
        tasks = []
        for _ in range(count):
            name = f"t{next(self._tasks)}"
            spec = TaskSpec(1, b"f", name, 1, shape, max_retries, 0, "")
            task = Task(name.encode(), spec, b"", not max_retries)
            task.state = TaskState.QUEUED
            self.pool.place(task, self.now, self.out)
            tasks.append(task)
        self.pool.feed_ripe(self.now, self.out)
        return tasks

    def open(self, execution_us: int = -1, shape: Shape = ONE) -> Lease:
        """An idle lease of a shape whose tasks took that long."""
        (task,) = self.place(shape=shape)
        lease = self.grant()
        self.answer(lease, task, max(0, execution_us))
        self.tasks_take(execution_us, shape)
        self.out.clear()
        return lease

    def tasks_take(self, execution_us: int, shape: Shape = ONE) -> None:
        """All that is known of their duration; -1: nothing."""
        queue = self.pool.shapes[shape]
        queue.execution_us, queue.depth = -1, 1
        if execution_us >= 0:
            queue.measured(execution_us)

    def grant(self) -> Lease:
        """The oldest request is served."""
        (lease_id, *_rest) = (i for i, x in self.pool.by_id.items() if x.state is LeaseState.REQUESTED)
        lease = self.pool.granted(lease_id, self.now, self.out)
        assert lease is not None
        self.pool.feed(lease, self.now, self.out)
        return lease

    def answer(self, lease: Lease, task: Task, execution_us: int = 10) -> None:
        assert self.pool.answered(lease, task, self.now)
        self.pool.measured(lease, execution_us)
        task.step(TaskEvent.ANSWERED)
        self.pool.feed(lease, self.now, self.out)

    def hand_back(self, lease: Lease, tasks: list[Task]) -> None:
        self.pool.handed_back(lease, tasks, self.now, self.out)

    def reclaim(self, lease: Lease) -> None:
        self.pool.reclaim(lease.lease_id, self.out)

    def later(self, passed_s: float) -> None:
        self.now += passed_s
        self.pool.housekeeping(self.now, self.out)

    def heard(self) -> list[Command]:
        out, self.out = self.out, []
        return out

    def queue(self, shape: Shape = ONE) -> list[Task]:
        return list(self.pool.shapes[shape].queue)


def only(kind: type[C], commands: list[Command]) -> list[C]:
    return [command for command in commands if type(command) is kind]


# --- asking ----------------------------------------------------------------------------------------------


def test_first_task_asks_for_a_worker() -> None:
    owner = Owner()

    owner.place()

    (request,) = only(RequestLease, owner.heard())
    assert request.backlog == 1
    assert request.lease.shape == ONE
    assert request.lease.state is LeaseState.REQUESTED


def test_as_many_workers_are_asked_for_as_tasks_wait_up_to_what_the_cluster_has() -> None:
    owner = Owner(parallelism=3)

    owner.place(2)
    assert len(only(RequestLease, owner.heard())) == 2
    owner.place(10)

    assert len(only(RequestLease, owner.heard())) == 1


def test_shape_that_no_node_can_run_is_still_asked_for() -> None:
    """The daemon then says that it is infeasible; here, silence would be a hang."""
    owner = Owner(parallelism=0)

    owner.place(2)

    assert len(only(RequestLease, owner.heard())) == 1


def test_shapes_have_leases_of_their_own() -> None:
    owner = Owner()
    owner.place(shape=ONE)
    owner.place(shape=TWO)

    requests = only(RequestLease, owner.heard())

    assert [request.lease.shape for request in requests] == [ONE, TWO]


def test_grant_that_nobody_waits_for_any_more_is_refused() -> None:
    owner = Owner()

    assert owner.pool.granted(b"unknown", owner.now, owner.out) is None


def test_grant_counts_once() -> None:
    owner = Owner()
    owner.place()
    lease = owner.grant()

    assert owner.pool.granted(lease.lease_id, owner.now, owner.out) is None
    assert lease.state is LeaseState.OPEN


def test_requests_are_cancelled_when_nothing_waits_any_more() -> None:
    owner = Owner()
    first, second = owner.place(2)
    lease = owner.grant()
    owner.answer(lease, first)
    owner.answer(lease, second)
    owner.heard()

    owner.later(0.01)

    (cancelled,) = only(CancelRequest, owner.heard())
    assert cancelled.lease.lease_id not in owner.pool.by_id
    assert owner.pool.granted(cancelled.lease.lease_id, owner.now, owner.out) is None


# --- pushing ---------------------------------------------------------------------------------------------


def test_worker_gets_the_oldest_task() -> None:
    owner = Owner()
    first, second = owner.place(2)

    lease = owner.grant()

    assert only(Push, owner.heard()) == [Push(lease, [first])]
    assert (first.state, second.state) == (TaskState.PUSHED, TaskState.QUEUED)


def test_task_for_an_idle_worker_is_pushed_at_once() -> None:
    owner = Owner()
    lease = owner.open()

    (task,) = owner.place()

    assert owner.heard() == [Push(lease, [task])]


def test_one_task_at_a_time_while_nobody_knows_how_long_they_take() -> None:
    owner = Owner(parallelism=1)
    owner.place(3)

    lease = owner.grant()

    assert len(lease.inflight) == 1


def test_short_tasks_are_pushed_ahead() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=1_000)

    owner.place(10)

    assert len(lease.inflight) == 4, "what fits into five milliseconds"
    assert len(owner.queue()) == 6


def test_tasks_that_may_run_only_once_are_not_pushed_ahead() -> None:
    """If the worker died, nobody would know which of several ran."""
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)

    once, again = owner.place(1, max_retries=0) + owner.place(1)
    assert list(lease.inflight) == [once]
    owner.answer(lease, once)

    assert list(lease.inflight) == [again]
    owner.place(1, max_retries=0)
    assert list(lease.inflight) == [again]


def test_least_busy_worker_gets_the_next_task() -> None:
    owner = Owner()
    owner.place(2)
    one, other = owner.grant(), owner.grant()
    owner.tasks_take(10)

    owner.place(4)

    assert len(one.inflight) == len(other.inflight) == 3


@pytest.mark.parametrize(
    ("execution_us", "depth"), [(-1, 1), (0, PIPELINE_MAX), (999, 5), (PIPELINE_US, 1), (10**9, 1)]
)
def test_depth_is_what_fits_into_the_pipeline(execution_us: int, depth: int) -> None:
    owner = Owner()
    owner.pool.shapes[ONE] = shape = ShapeQueue(ONE)

    owner.tasks_take(execution_us)

    assert shape.depth == depth


def test_slower_counts_at_once_and_faster_gradually() -> None:
    owner = Owner()
    lease = owner.open(execution_us=1_000)
    shape = owner.pool.shapes[ONE]

    owner.answer(lease, owner.place()[0], execution_us=100_000)
    slow = shape.execution_us
    owner.answer(lease, owner.place()[0], execution_us=0)

    assert slow > 50_000
    assert shape.execution_us == pytest.approx(0.8 * slow)


def test_answer_from_another_lease_does_not_count() -> None:
    owner = Owner()
    (first, _second) = owner.place(2)
    _one, other = owner.grant(), owner.grant()

    assert not owner.pool.answered(other, first, owner.now)


def test_answers_may_come_out_of_order() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)
    first, second = owner.place(2)

    owner.answer(lease, second)

    assert list(lease.inflight) == [first]


# --- taking back -----------------------------------------------------------------------------------------


def busy_behind_a_slow_one(owner: Owner) -> tuple[Lease, list[Task]]:
    """A lease with three tasks, of which the first turns out to take long."""
    lease = owner.open(execution_us=10)
    tasks = owner.place(3)
    owner.heard()
    owner.now += 2 * SLOW_S
    return lease, tasks


def test_tasks_behind_a_slow_one_are_taken_back_once() -> None:
    owner = Owner()
    lease, _tasks = busy_behind_a_slow_one(owner)

    owner.later(0)
    owner.later(0)

    assert only(TakeBack, owner.heard()) == [TakeBack(lease, 2)]


def test_worker_that_idles_has_others_relieved() -> None:
    owner = Owner()
    lease, _tasks = busy_behind_a_slow_one(owner)
    owner.tasks_take(-1)
    (extra,) = owner.place()
    idle = owner.grant()
    owner.heard()

    owner.answer(idle, extra)

    assert only(TakeBack, owner.heard()) == [TakeBack(lease, 2)]


def test_what_is_handed_back_goes_first_and_in_order() -> None:
    owner = Owner(parallelism=1)
    lease, (_slow, second, third) = busy_behind_a_slow_one(owner)
    owner.tasks_take(10_000)
    (late,) = owner.place()

    owner.hand_back(lease, [second, third])

    assert owner.queue() == [second, third, late]
    assert {task.state for task in owner.queue()} == {TaskState.QUEUED}


def test_what_is_handed_back_asks_for_another_worker() -> None:
    owner = Owner()
    lease, (_slow, *others) = busy_behind_a_slow_one(owner)

    owner.hand_back(lease, others)

    assert len(only(RequestLease, owner.heard())) == 1


def test_nothing_overtakes_what_is_being_taken_back() -> None:
    owner = Owner(parallelism=1)
    lease, (slow, second, third) = busy_behind_a_slow_one(owner)
    owner.later(0)
    owner.answer(lease, slow)
    later = owner.place(3)
    assert only(Push, owner.heard()) == [], "the worker may have given back the second already"

    owner.hand_back(lease, [second, third])

    assert [push.tasks for push in only(Push, owner.heard())] == [[second, third, *later]]


def test_empty_hand_back_allows_to_ask_again() -> None:
    owner = Owner()
    lease, _tasks = busy_behind_a_slow_one(owner)
    owner.later(0)
    owner.heard()

    owner.hand_back(lease, [])
    owner.later(0)

    assert only(TakeBack, owner.heard()) == [TakeBack(lease, 2)]


def test_answer_overtakes_a_hand_back() -> None:
    """The worker ended the task before it heard of the take back; it hands back only the rest."""
    owner = Owner(parallelism=1)
    lease, (slow, second, third) = busy_behind_a_slow_one(owner)
    owner.later(0)
    owner.answer(lease, slow)
    owner.answer(lease, second)

    owner.hand_back(lease, [third])

    assert list(lease.inflight) == [third], "it was the only one, so it goes there again"


# --- pausing ---------------------------------------------------------------------------------------------


def test_nothing_is_pushed_to_a_worker_that_waits() -> None:
    owner = Owner()
    lease = owner.open(execution_us=10)
    owner.place()
    owner.pool.paused(lease, owner.now, owner.out)
    owner.heard()

    (task,) = owner.place()

    assert only(Push, owner.heard()) == []
    assert owner.queue() == [task]


def test_another_worker_is_asked_for_in_place_of_one_that_waits() -> None:
    owner = Owner(parallelism=1)
    owner.place(2)
    lease = owner.grant()
    owner.heard()

    owner.pool.paused(lease, owner.now, owner.out)

    assert len(only(RequestLease, owner.heard())) == 1


def test_worker_that_goes_on_gets_tasks_again() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)
    owner.place()
    owner.pool.paused(lease, owner.now, owner.out)
    (task,) = owner.place()
    owner.heard()

    owner.pool.resumed(lease, owner.now, owner.out)

    assert only(Push, owner.heard()) == [Push(lease, [task])]


def test_worker_that_goes_on_and_its_stand_in_are_not_both_kept() -> None:
    owner = Owner(parallelism=1)
    owner.place(2)
    first = owner.grant()
    owner.pool.paused(first, owner.now, owner.out)
    second = owner.grant()
    owner.heard()

    owner.pool.resumed(first, owner.now, owner.out)

    states = sorted(lease.state.name for lease in (first, second))
    assert states == ["CLOSING", "OPEN"]  # else every burst within the linger would run twice as wide


def test_worker_that_is_to_leave_stays_so_when_it_goes_on() -> None:
    owner = Owner()
    owner.place(2)
    lease = owner.grant()
    owner.reclaim(lease)
    owner.pool.paused(lease, owner.now, owner.out)

    owner.pool.resumed(lease, owner.now, owner.out)

    assert lease.state is LeaseState.CLOSING


# --- giving back -----------------------------------------------------------------------------------------


def test_idle_lease_lingers_and_goes_back() -> None:
    owner = Owner()
    lease = owner.open()

    owner.later(LINGER_S / 2)
    assert owner.heard() == []
    owner.later(LINGER_S / 2)

    assert owner.heard() == [GiveBack(lease)]
    assert lease.lease_id not in owner.pool.by_id


def test_busy_lease_does_not_go_back() -> None:
    owner = Owner()
    owner.open()
    owner.place()

    owner.later(100.0)

    assert only(GiveBack, owner.heard()) == []


def test_housekeeping_wants_to_be_called_as_long_as_there_are_leases() -> None:
    owner = Owner()
    owner.open()

    assert owner.pool.housekeeping(owner.now, owner.out)
    assert not owner.pool.housekeeping(owner.now + 2 * LINGER_S, owner.out)


def test_idle_lease_goes_back_at_once_when_the_daemon_asks() -> None:
    owner = Owner()
    lease = owner.open()

    owner.reclaim(lease)

    assert owner.heard() == [GiveBack(lease)]


def test_busy_lease_goes_back_after_its_running_task() -> None:
    owner = Owner()
    lease = owner.open(execution_us=10)
    running, waiting = owner.place(2)
    owner.heard()

    owner.reclaim(lease)
    assert only(TakeBack, owner.heard()) == [TakeBack(lease, 1)]
    owner.hand_back(lease, [waiting])
    assert only(GiveBack, owner.heard()) == []
    owner.answer(lease, running)

    assert only(GiveBack, owner.heard()) == [GiveBack(lease)]


def test_lease_whose_last_tasks_are_handed_back_goes_back() -> None:
    """The running task ended first: no answer will follow that could set off the return."""
    owner = Owner()
    lease = owner.open(execution_us=10)
    running, waiting = owner.place(2)
    owner.reclaim(lease)
    owner.answer(lease, running)
    owner.heard()

    owner.hand_back(lease, [waiting])

    assert only(GiveBack, owner.heard()) == [GiveBack(lease)]


def test_lease_that_is_to_leave_gets_no_more_tasks() -> None:
    owner = Owner(parallelism=1)
    running, waiting = owner.place(2)
    lease = owner.grant()
    owner.heard()

    owner.reclaim(lease)
    owner.answer(lease, running)

    assert only(Push, owner.heard()) == []
    assert waiting.state is TaskState.QUEUED


def test_queue_of_a_lease_that_leaves_asks_for_another() -> None:
    """One lease, tasks that still wait, no request: they would wait for ever."""
    owner = Owner(parallelism=1)
    owner.place(2)
    lease = owner.grant()
    owner.heard()

    owner.reclaim(lease)

    assert len(only(RequestLease, owner.heard())) == 1


def test_asking_twice_for_a_lease_is_asking_once() -> None:
    owner = Owner()
    lease = owner.open(execution_us=10)
    owner.place(3)
    owner.reclaim(lease)
    owner.heard()

    owner.reclaim(lease)
    owner.pool.reclaim(b"unknown", owner.out)

    assert owner.heard() == []


def test_idle_leases_of_other_shapes_make_room() -> None:
    owner = Owner()
    lease = owner.open(shape=ONE)

    owner.place(shape=TWO)

    assert only(GiveBack, owner.heard()) == [GiveBack(lease)]


def test_lease_that_is_idle_for_a_moment_does_not_make_room() -> None:
    """Its answer came in the batch that is being read, and tasks of its shape still wait."""
    owner = Owner(parallelism=1)
    done, waiting = owner.place(2, shape=ONE)
    lease = owner.grant()
    owner.heard()
    owner.pool.answered(lease, done, owner.now)

    owner.place(shape=TWO)
    owner.pool.feed(lease, owner.now, owner.out)

    commands = owner.heard()
    assert only(GiveBack, commands) == []
    assert only(Push, commands) == [Push(lease, [waiting])]


def test_idle_lease_that_others_wait_for_goes_back_at_once() -> None:
    owner = Owner()
    lease = owner.open()

    owner.pool.spare(lease.lease_id, owner.out)

    assert owner.heard() == [GiveBack(lease)]


def test_busy_lease_that_others_wait_for_goes_back_when_it_has_nothing_left_to_do() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open()
    first, second = owner.place(2)
    owner.pool.spare(lease.lease_id, owner.out)
    owner.heard()

    owner.answer(lease, first)
    assert only(GiveBack, owner.heard()) == []
    owner.answer(lease, second)

    assert only(GiveBack, owner.heard()) == [GiveBack(lease)]


# --- losing ----------------------------------------------------------------------------------------------


def test_tasks_of_a_lost_lease_come_back_the_running_one_first() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)
    tasks = owner.place(3)

    assert owner.pool.lost(lease) == tasks

    assert lease.lease_id not in owner.pool.by_id
    assert {task.state for task in tasks} == {TaskState.PUSHED}


def test_tasks_that_never_started_go_first_and_ask_for_another_worker() -> None:
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)
    running, second, third = owner.place(3)
    owner.tasks_take(-1)
    (last,) = owner.place()
    owner.heard()
    owner.pool.lost(lease)

    owner.pool.requeue_unstarted([second, third], ONE, owner.now, owner.out)

    assert owner.queue() == [second, third, last]
    assert [task.attempt for task in (second, third)] == [0, 0]
    assert len(only(RequestLease, owner.heard())) == 1
    assert running.state is TaskState.PUSHED, "the caller retries it or gives it up"


def test_tasks_from_a_worker_that_died_travel_alone() -> None:
    """One of them may have killed it: the next death names the culprit."""
    owner = Owner(parallelism=1)
    lease = owner.open(execution_us=10)
    running, *others = owner.place(3)
    owner.pool.lost(lease)
    owner.pool.requeue_unstarted(others, ONE, owner.now, owner.out)
    running.step(TaskEvent.WORKER_LOST)
    owner.pool.requeue(running, owner.now, owner.out)

    lease = owner.grant()

    assert list(lease.inflight) == [running]
    owner.answer(lease, running)
    assert list(lease.inflight) == others[:1]


def test_retried_task_goes_to_an_idle_worker_at_once() -> None:
    owner = Owner()
    (task, other) = owner.place(2)
    lost, healthy = owner.grant(), owner.grant()
    owner.answer(healthy, other)
    owner.pool.lost(lost)
    task.step(TaskEvent.WORKER_LOST)
    owner.heard()

    owner.pool.requeue(task, owner.now, owner.out)

    assert only(Push, owner.heard()) == [Push(healthy, [task])]
