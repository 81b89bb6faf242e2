"""Attempts that run too long are ended once, and time in which the owner did not run does not count.

Called by:  pytest.
Imports:    nbray.runtime.{relief,time_limits,notices}.
Never:      reads a clock: time is a number here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from nbray.core.leases import Command, LeasePool, LeaseState
from nbray.core.memory_watch import ROOM_PATIENCE_S
from nbray.core.tasks import Task, TaskSpec, TaskState, TaskTable
from nbray.runtime.notices import Notices
from nbray.runtime.relief import Relief
from nbray.runtime.time_limits import TimeLimits
from nbray.wire.base import Message
from nbray.wire.messages import LeaseInfeasible, WorkerLost
from nbray.wire.waiting_messages import BY_MEMORY, BY_TIMEOUT, EndAttempt, Notice


def task(name: str = "t", timeout_s: float = 0.0) -> Task:
    spec = TaskSpec(1, b"f", name, 1, (("CPU", 10_000),), 3, 0, "", timeout_s)
    made = Task(name.encode(), spec, b"", False)
    made.state = TaskState.QUEUED
    return made


class Owner:
    """A pool with one lease, and what was told to the daemon."""

    def __init__(self, *tasks: Task) -> None:
        self.told: list[Message] = []
        self.pool = LeasePool(lambda: b"lease", lambda _shape: 1)
        self.limits = TimeLimits(self.pool, self.told.append)
        self.limits.are_used = True
        out: list[Command] = []
        for each in tasks:
            self.pool.place(each, 0.0, out)
        lease = self.pool.granted(b"lease", 0.0, out)
        assert lease is not None
        self.lease = lease
        self.pool.feed(lease, 0.0, out)

    def pass_until(self, until_s: float, step_s: float = 0.5, from_s: float = 0.0) -> None:
        now_s = from_s
        while now_s < until_s:
            now_s += step_s
            self.limits.check(now_s)


def test_attempt_that_runs_too_long_is_ended_once() -> None:
    owner = Owner(task(timeout_s=3.0))

    owner.pass_until(3.0)
    assert owner.told == []
    owner.pass_until(9.0, from_s=3.0)

    assert owner.told == [EndAttempt(b"lease", BY_TIMEOUT, {"limit_s": 3.0})]


def test_task_without_a_limit_runs_on() -> None:
    owner = Owner(task())

    owner.pass_until(1000.0)

    assert owner.told == []


def test_the_next_task_of_a_lease_has_its_own_time() -> None:
    owner = Owner(task("a", 3.0), task("b", 3.0))
    owner.pass_until(2.5)
    out: list[Command] = []
    owner.pool.answered(owner.lease, owner.lease.inflight[0], 2.5)
    owner.pool.feed(owner.lease, 2.5, out)

    owner.pass_until(5.0, from_s=2.5)
    assert owner.told == []
    owner.pass_until(6.0, from_s=5.0)

    assert len(owner.told) == 1


def test_time_in_which_the_owner_slept_does_not_count() -> None:
    owner = Owner(task(timeout_s=3.0))
    owner.pass_until(1.0)

    owner.limits.check(3601.0)
    owner.pass_until(3602.0, from_s=3601.0)
    assert owner.told == []
    owner.pass_until(3604.0, from_s=3602.0)

    assert len(owner.told) == 1


def test_attempt_that_waits_inside_has_no_more_time() -> None:
    owner = Owner(task(timeout_s=3.0))
    owner.lease.state = LeaseState.PAUSED

    owner.pass_until(4.0)

    assert len(owner.told) == 1


# --- tasks that wait for memory ---------------------------------------------------------------------------


def lost(cause: str = BY_MEMORY) -> WorkerLost:
    return WorkerLost(b"lease", b"worker", 7, 0, 9, "", cause=cause)


class Waiting:
    def __init__(self) -> None:
        self.placed: list[Task] = []
        self.armed: list[float] = []
        self.relief = Relief(TaskTable(), self.placed.append, self.armed.append)


def test_task_that_died_of_something_else_does_not_wait() -> None:
    waiting = Waiting()

    assert not waiting.relief.keeps(task(), lost(""), 10.0)
    assert not waiting.relief.keeps(task(), None, 10.0)


def test_task_that_was_ended_for_want_of_memory_waits_until_there_is_some() -> None:
    waiting, kept = Waiting(), task()

    assert waiting.relief.keeps(kept, lost(), 10.0)
    waiting.relief.housekeeping(20.0)
    assert waiting.placed == []
    assert kept in waiting.relief
    waiting.relief.eased()
    waiting.relief.housekeeping(20.0)

    assert waiting.placed == [kept]
    assert kept not in waiting.relief


def test_task_does_not_wait_for_ever() -> None:
    waiting, kept = Waiting(), task()
    waiting.relief.keeps(kept, lost(), 10.0)

    waiting.relief.housekeeping(10.0 + ROOM_PATIENCE_S + 11.0)

    assert waiting.placed == [kept]


def test_task_that_was_ended_meanwhile_does_not_run_again() -> None:
    waiting, kept = Waiting(), task()
    waiting.relief.keeps(kept, lost(), 10.0)
    kept.state = TaskState.FAILED

    waiting.relief.housekeeping(10_000.0)

    assert waiting.placed == []
    assert kept not in waiting.relief


# --- notices ------------------------------------------------------------------------------------------------


class Later:
    def __init__(self) -> None:
        self.later: deque[Callable[[], None]] = deque()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[Notices, list[str], list[float]]:
    loop, texts, now_s = Later(), list[str](), [0.0]
    monkeypatch.setattr("nbray.runtime.notices.time.monotonic", lambda: now_s[0])
    notices = Notices(cast("Any", loop), texts.append)

    def tell(text: str) -> None:
        notices.infeasible(LeaseInfeasible(b"lease", text))
        while loop.later:
            loop.later.popleft()()

    notices.tell = tell  # type: ignore[attr-defined]  # for tests
    return notices, texts, now_s


def test_the_same_is_told_again_after_a_minute_only(told: tuple[Any, list[str], list[float]]) -> None:
    notices, texts, now_s = told

    for now_s[0] in (0.0, 1.0, 59.0, 61.0):
        notices.tell("no GPU")
    notices.tell("no TPU")

    assert texts == ["no GPU", "no GPU", "no TPU"]


def test_worker_has_nobody_to_tell() -> None:
    loop = Later()

    Notices(cast("Any", loop), None).arrived(Notice("deadlock", "text"))

    assert not loop.later
