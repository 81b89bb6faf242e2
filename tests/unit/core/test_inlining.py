"""Who runs the task that it waits for by itself, and which one."""

from __future__ import annotations

import itertools

from nbray.core.inlining import AskOwner, Command, Relief, StartOneMore, to_run
from nbray.core.tasks import Task, TaskSpec, TaskState
from nbray.core.worker_process import Command as PoolCommand
from nbray.core.workers import WorkerPool
from nbray.model import ids

SPEC = TaskSpec(1, b"f", "f", 1, (), 3, 0, "")
JOB = b"job"
DRIVER = b"driver"


class Node:
    """A pool of blocked workers; each has a lease of ``owners``."""

    def __init__(self, cap: int = 2, cap_in_need: int = 4) -> None:
        self.pool = WorkerPool(0, cap, cap_in_need)
        self.owners: dict[bytes, bytes] = {}
        self.relief = Relief(self.pool, self.owners.get)
        self.made = 0
        for number in range(cap):
            self.serve(b"lease %d" % number, DRIVER)

    def serve(self, lease_id: bytes, owner: bytes) -> None:
        self.owners[lease_id] = owner
        out: list[PoolCommand] = []
        self.pool.need(lease_id, JOB, out)
        self.start()

    def start(self) -> None:
        out: list[PoolCommand] = []
        process_id = b"worker %d" % self.made
        self.made += 1
        self.pool.started(process_id, 0.0)
        assert self.pool.registered(process_id, 1, 0.0, out)

    def wait_for(self, lease_id: bytes, owner: bytes) -> None:
        self.owners[lease_id] = owner
        self.pool.need(lease_id, JOB, [])

    def block(self, *numbers: int) -> list[Command]:
        for number in numbers:
            self.pool.blocked(b"worker %d" % number)
            self.relief.blocked(b"worker %d" % number)
        return self.look()

    def look(self) -> list[Command]:
        out: list[Command] = []
        self.relief.look(out)
        return out

    def decline(self, lease_id: bytes) -> list[Command]:
        out: list[Command] = []
        self.relief.declined(lease_id, out)
        return out


def test_blocked_owner_of_a_lease_without_process_is_asked_once() -> None:
    node = Node()
    node.wait_for(b"child", b"worker 1")

    assert node.block(1) == [AskOwner(b"worker 1", b"child")]
    assert node.block(0) == []


def test_owner_that_runs_is_asked_when_it_blocks() -> None:
    node = Node()
    node.wait_for(b"child", b"worker 1")
    assert node.block(0) == []

    assert node.block(1) == [AskOwner(b"worker 1", b"child")]


def test_nobody_is_asked_below_the_cap() -> None:
    node = Node(cap=2)
    node.pool = WorkerPool(0, 3)
    node.relief = Relief(node.pool, node.owners.get)
    node.made = 0
    for number in range(2):
        node.serve(b"lease %d" % number, DRIVER)
    node.wait_for(b"child", b"worker 1")

    assert node.block(0, 1) == []


def test_one_more_is_started_when_who_was_asked_declines_and_nobody_runs() -> None:
    node = Node()
    node.wait_for(b"child", b"worker 1")
    node.block(1)
    assert node.decline(b"child") == []  # worker 0 runs: it may end, or block
    assert node.block(0) == [StartOneMore()]


def test_one_more_is_started_for_a_lease_whose_owner_cannot_be_asked() -> None:
    node = Node()
    node.wait_for(b"for the driver", DRIVER)

    assert node.block(0, 1) == [StartOneMore()]
    node.pool.exceed([])
    assert node.look() == [], "it is coming"


def test_no_more_are_started_than_there_may_be_in_need() -> None:
    node = Node(cap=2, cap_in_need=2)
    node.wait_for(b"for the driver", DRIVER)

    assert node.block(0, 1) == []


def test_owner_that_declined_is_asked_again_when_it_waits_again() -> None:
    node = Node()
    node.wait_for(b"child", b"worker 1")
    node.block(1)
    node.decline(b"child")
    node.pool.unblocked(b"worker 1")
    assert node.look() == []

    assert node.block(1) == [AskOwner(b"worker 1", b"child")]


def test_answer_of_a_lease_that_waits_no_more_is_forgotten() -> None:
    node = Node()
    node.wait_for(b"child", b"worker 1")
    node.block(0, 1)
    node.pool.abandon(b"child")
    node.wait_for(b"another", b"worker 1")
    assert node.look() == [AskOwner(b"worker 1", b"another")]

    assert node.decline(b"child") == []
    assert node.decline(b"another") == [StartOneMore()]


# --- which one ----------------------------------------------------------------------------------------


def tasks(*states: TaskState) -> list[Task]:
    made = []
    for number, state in enumerate(states):
        task = Task(number.to_bytes(16, "big"), SPEC, b"", False)
        task.state = state
        made.append(task)
    return made


def chosen(some: list[Task], wanted: list[bytes], needs_all: bool = True) -> Task | None:
    return to_run({task.task_id: task for task in some}, wanted, needs_all, lambda object_id: True)


def result(task: Task) -> bytes:
    return ids.result_id(task.task_id, 0)


def test_the_first_unstarted_task_that_is_waited_for_is_chosen_and_no_other() -> None:
    pushed, queued, second, other = some = tasks(
        TaskState.PUSHED, TaskState.QUEUED, TaskState.QUEUED, TaskState.QUEUED
    )

    assert chosen(some, [result(pushed), result(queued), result(second)]) is queued
    assert chosen(some, [result(pushed)]) is None
    assert chosen(some, [b"somebody else's object"]) is None
    assert other.state is TaskState.QUEUED


def test_what_a_waiting_task_lacks_is_run_before_it_however_long_the_chain() -> None:
    some = tasks(TaskState.QUEUED, *[TaskState.WAITING] * 5_000)
    for before, after in itertools.pairwise(some):
        after.dependencies = [result(before)]

    assert chosen(some, [result(some[-1])]) is some[0]


def test_a_wait_that_something_else_may_end_is_left_alone() -> None:
    pushed, queued, second = some = tasks(TaskState.PUSHED, TaskState.QUEUED, TaskState.QUEUED)

    assert chosen(some, [result(pushed), result(queued)], needs_all=False) is None
    assert chosen(some, [b"somebody else's object", result(queued)], needs_all=False) is None
    assert chosen(some, [result(queued), result(second)], needs_all=False) is queued
