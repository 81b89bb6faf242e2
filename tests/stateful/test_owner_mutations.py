"""The owner machine notices mistakes: each of these is planted in the core, and must be found.

Called by:  pytest.
Imports:    tests.stateful.test_owner_machine, nbray.core.{tasks,leases,references} to break them.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from nbray.core import cancellation
from nbray.core.cancellation import Cancellations
from nbray.core.leases import (
    CancelRequest,
    Command,
    GiveBack,
    Lease,
    LeasePool,
    LeaseState,
    RequestLease,
)
from nbray.core.references import Entry, ReferenceTable
from nbray.core.task_queue import ShapeQueue
from nbray.core.tasks import Task, TaskEvent, TaskState, TaskTable
from tests.stateful.test_owner_machine import walks

WALKS = 500

# Each takes the place of a method; the originals are at hand below their classes' names.
original: dict[str, Any] = {
    name: getattr(cls, name)
    for cls in (LeasePool, TaskTable, Cancellations)
    for name in vars(cls)
    if not name.startswith("__")
}


def forget_to_release_arguments(table: ReferenceTable, object_id: bytes, freed: list[Entry]) -> None:
    pass


def forget_that_arguments_hold(entry: Entry) -> bool:
    return bool(entry.handles)


def count_dropped_handles_twice(table: ReferenceTable, object_id: bytes) -> Entry:
    entry = table.entries[object_id]
    entry.arguments += 1
    entry.handles -= 1
    return entry


def push_to_a_paused_lease(pool: LeasePool, lease: Lease, now_s: float, out: list[Command]) -> None:
    pool._ask(pool.shapes[lease.shape], out)


def never_resume(pool: LeasePool, lease: Lease, now_s: float, out: list[Command]) -> None:
    pass


def push_without_looking_at_the_depth(
    pool: LeasePool, lease: Lease, now_s: float, out: list[Command]
) -> None:
    queue = pool.shapes[lease.shape].queue
    while queue and lease.state is LeaseState.OPEN:
        pool._push(lease, queue.popleft(), now_s, out)
    original["feed"](pool, lease, now_s, out)


def push_to_a_closing_lease(pool: LeasePool, lease: Lease, now_s: float, out: list[Command]) -> None:
    queue = pool.shapes[lease.shape].queue
    if queue and lease.state is LeaseState.CLOSING and not lease.inflight:
        pool._push(lease, queue.popleft(), now_s, out)
    original["feed"](pool, lease, now_s, out)


def accept_an_old_attempt(table: TaskTable, task_id: bytes, attempt: int) -> Task | None:
    task = table.tasks.get(task_id)
    return task if task is not None and task.state is TaskState.PUSHED else None


def accept_an_answer_twice(table: TaskTable, task: Task) -> None:
    task.step(TaskEvent.ANSWERED)
    task.state = TaskState.PUSHED


def retry_without_counting(table: TaskTable, task: Task) -> bool:
    task.step(TaskEvent.WORKER_LOST)
    return True


def keep_the_number_of_the_attempt(table: TaskTable, task: Task) -> bool:
    if not task.may_retry():
        return False
    task.step(TaskEvent.WORKER_LOST)
    task.spec.max_retries -= 1
    return True


def lose_tasks_that_are_handed_back(
    pool: LeasePool, lease: Lease, tasks: list[Task], now_s: float, out: list[Command]
) -> None:
    lease.taking_back = False
    lease.inflight = deque(task for task in lease.inflight if task not in tasks)
    for task in tasks:
        task.step(TaskEvent.HANDED_BACK)


def keep_a_closing_lease_whose_tasks_were_handed_back(
    pool: LeasePool, lease: Lease, tasks: list[Task], now_s: float, out: list[Command]
) -> None:
    shape = pool.shapes[lease.shape]
    lease.inflight = deque(task for task in lease.inflight if task not in tasks)
    for task in reversed(tasks):
        task.step(TaskEvent.HANDED_BACK)
        shape.queue.appendleft(task)
    pool._spread(shape, now_s, out)


def forget_tasks_behind_the_lost_one(pool: LeasePool, lease: Lease) -> list[Task]:
    return original["lost"](pool, lease)[:1]  # type: ignore[no-any-return]


def give_back_twice(pool: LeasePool, lease: Lease, out: list[Command]) -> None:
    original["_give_back"](pool, lease, out)
    out.append(GiveBack(lease))


def give_back_at_once_when_asked(pool: LeasePool, lease_id: bytes, out: list[Command]) -> None:
    lease = pool.by_id.get(lease_id)
    if lease is not None and lease.state is not LeaseState.REQUESTED:
        pool._give_back(lease, out)


def spread_and_ask_for_no_other(pool: LeasePool, shape: ShapeQueue, now_s: float, out: list[Command]) -> None:
    with mock.patch.object(LeasePool, "_ask"):
        original["_spread"](pool, shape, now_s, out)


def give_back_what_answered_a_moment_ago(pool: LeasePool, wanting: ShapeQueue, out: list[Command]) -> None:
    for shape in pool.shapes.values():
        for lease in list(shape.leases.values()):
            if shape is not wanting and not lease.inflight and lease.state is LeaseState.OPEN:
                pool._give_back(lease, out)


def never_give_back(pool: LeasePool, now_s: float, out: list[Command]) -> bool:
    return any(shape.leases for shape in pool.shapes.values())


def forget_to_cancel_requests(pool: LeasePool, now_s: float, out: list[Command]) -> bool:
    commands: list[Command] = []
    again: bool = original["housekeeping"](pool, now_s, commands)
    out += [command for command in commands if type(command) is not CancelRequest]
    return again


def ask_for_more_than_there_is(pool: LeasePool, shape: ShapeQueue, out: list[Command]) -> None:
    for _ in range(len(shape.queue) - len(shape.requests)):
        lease = Lease(pool._new_lease_id(), shape.shape)
        shape.requests[lease.lease_id] = pool.by_id[lease.lease_id] = lease
        out.append(RequestLease(lease, len(shape.queue)))


def push_ahead_what_may_run_only_once(task: Task) -> bool:
    return False


def leave_cancelled_tasks_where_they_are(shape: ShapeQueue) -> None:
    pass


def forget_the_cancel_of_a_pushed_task(table: TaskTable, task: Task) -> bool:
    if task.state is TaskState.PUSHED:
        return False
    return bool(original["cancel"](table, task))


def signal_whoever_runs(
    some: Cancellations, cancel: Any, now_s: float, out: list[cancellation.Command]
) -> float | None:
    with mock.patch.object(cancel.lease, "inflight", deque([cancel.task])):
        return original["_advance"](some, cancel, now_s, out)  # type: ignore[no-any-return]


def queue_again_what_comes_back(
    pool: LeasePool, lease: Lease, tasks: list[Task], now_s: float, out: list[Command]
) -> None:
    for task in tasks:
        task.state = TaskState.PUSHED
    original["handed_back"](pool, lease, tasks, now_s, out)


def ignore(task: Task, value: object) -> None:
    pass


MUTATIONS: list[tuple[type, str, Callable[..., Any] | property]] = [
    (ReferenceTable, "release_argument", forget_to_release_arguments),
    (ReferenceTable, "hold_argument", count_dropped_handles_twice),
    (Entry, "held", property(forget_that_arguments_hold)),
    (LeasePool, "paused", push_to_a_paused_lease),
    (LeasePool, "resumed", never_resume),
    (LeasePool, "feed", push_without_looking_at_the_depth),
    (LeasePool, "feed", push_to_a_closing_lease),
    (TaskTable, "current", accept_an_old_attempt),
    (TaskTable, "answered", accept_an_answer_twice),
    (TaskTable, "worker_lost", retry_without_counting),
    (TaskTable, "worker_lost", keep_the_number_of_the_attempt),
    (LeasePool, "handed_back", lose_tasks_that_are_handed_back),
    (LeasePool, "handed_back", keep_a_closing_lease_whose_tasks_were_handed_back),
    (LeasePool, "lost", forget_tasks_behind_the_lost_one),
    (LeasePool, "_give_back", give_back_twice),
    (LeasePool, "reclaim", give_back_at_once_when_asked),
    (LeasePool, "_spread", spread_and_ask_for_no_other),
    (LeasePool, "_return_idle_of_others", give_back_what_answered_a_moment_ago),
    (LeasePool, "housekeeping", never_give_back),
    (LeasePool, "housekeeping", forget_to_cancel_requests),
    (Task, "alone", property(push_ahead_what_may_run_only_once, ignore)),
    (LeasePool, "_ask", ask_for_more_than_there_is),
    (ShapeQueue, "drop", leave_cancelled_tasks_where_they_are),
    (ShapeQueue, "_uncover", leave_cancelled_tasks_where_they_are),
    (TaskTable, "cancel", forget_the_cancel_of_a_pushed_task),
    (LeasePool, "handed_back", queue_again_what_comes_back),
    (Cancellations, "_advance", signal_whoever_runs),
]


def name_of(mistake: object) -> str:
    function = mistake.fget if isinstance(mistake, property) else mistake
    return str(getattr(function, "__name__", ""))


NAMES = [name_of(mistake) for _cls, _method, mistake in MUTATIONS]


@pytest.mark.stateful
@pytest.mark.parametrize(
    ("cls", "method", "mistake"), MUTATIONS, ids=[name_of(mistake) for *_, mistake in MUTATIONS]
)
def test_the_machine_finds(cls: type, method: str, mistake: Any) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError)):
        walks(WALKS)
