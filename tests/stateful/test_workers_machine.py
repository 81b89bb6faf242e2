"""The worker pool against a plain model: one lease a process, one job a process, never above the cap.

Called by:  pytest.
Imports:    nbray.core.workers, hypothesis.
Never:      starts a process.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.worker_process import (
    Assign,
    Command,
    Dismiss,
    Kill,
    Retire,
    Start,
    StartsFailing,
    WorkerState,
)  # fmt: skip
from nbray.core.workers import START_FAILURES, WorkerPool

CAP = 4
TARGET_IDLE = 1
JOBS = [b"job one", b"job two"]
W = WorkerState

picks = st.integers(0, 1000)


@dataclass
class Process:
    process_id: bytes
    started_at: float
    state: WorkerState = W.STARTING
    job: bytes | None = None
    lease: bytes | None = None
    killed: bool = False
    leaving: bool = False


class WorkersMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = WorkerPool(TARGET_IDLE, CAP)
        self.processes: list[Process] = []
        self.made = 0
        self.to_make = 0
        self.waiting: dict[bytes, bytes] = {}
        self.leases = 0
        self.now = 0.0
        self.failures = 0
        self.out: list[Command] = []

    def among(self, *states: WorkerState) -> list[Process]:
        return [process for process in self.processes if process.state in states]

    def pick(self, pick: int, *states: WorkerState) -> Process:
        some = self.among(*states)
        return some[pick % len(some)]

    def named(self, process_id: bytes) -> Process:
        return next(process for process in self.processes if process.process_id == process_id)

    def follow(self, repeated: bytes | None = None) -> None:
        out, self.out = self.out, []
        for command in out:
            if isinstance(command, Assign):
                self.follow_assignment(command, repeated)
            elif isinstance(command, Start):
                assert command.number > 0
                self.to_make += command.number
            elif isinstance(command, Retire):
                process = self.named(command.process_id)
                assert process.state is W.IDLE
                process.state = W.RETIRING
            elif isinstance(command, Dismiss):
                process = self.named(command.process_id)
                assert process.leaving
                assert process.state is W.IDLE
                process.state = W.RETIRING
            elif isinstance(command, Kill):
                process = self.named(command.process_id)
                assert process.state is W.STARTING
                assert not process.killed
                process.killed = True
            else:
                assert isinstance(command, StartsFailing)
                assert command.number == self.failures >= START_FAILURES
                for lease_id in self.pool.waiting():
                    assert self.pool.abandon(lease_id)
                self.waiting.clear()

    def follow_assignment(self, command: Assign, repeated: bytes | None) -> None:
        process = self.named(command.process_id)
        if process.lease == command.lease_id:
            assert command.lease_id == repeated, "assigned twice"
            return
        job = self.waiting.pop(command.lease_id)
        assert process.state is W.IDLE
        assert process.job in (None, job), "shown to another job"
        assert command.new_to_job is (process.job is None)
        process.state, process.job, process.lease = W.LEASED, job, command.lease_id

    # --- leases ----------------------------------------------------------------------------------------

    @rule(job=st.sampled_from(JOBS))
    def need(self, job: bytes) -> None:
        lease_id = self.leases.to_bytes(16, "big")
        self.leases += 1
        self.waiting[lease_id] = job
        self.pool.need(lease_id, job, self.out)
        self.follow()

    @precondition(lambda self: self.among(W.LEASED, W.BLOCKED))
    @rule(pick=picks)
    def need_again(self, pick: int) -> None:
        process = self.pick(pick, W.LEASED, W.BLOCKED)
        assert process.lease is not None
        assert process.job is not None
        self.pool.need(process.lease, process.job, self.out)
        assert self.out == [Assign(process.lease, process.process_id, False)]
        self.follow(repeated=process.lease)

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def abandon(self, pick: int) -> None:
        lease_id = list(self.waiting)[pick % len(self.waiting)]
        del self.waiting[lease_id]
        assert self.pool.abandon(lease_id)

    @precondition(lambda self: self.among(W.LEASED, W.BLOCKED))
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        process = self.pick(pick, W.LEASED, W.BLOCKED)
        first = next((lease for lease, job in self.waiting.items() if job == process.job), None)
        process.state, process.lease = W.IDLE, None
        self.pool.released(process.process_id, self.now, self.out)
        self.follow()
        if process.leaving:
            assert process.lease is None
            assert process.state is W.RETIRING
        else:
            assert process.lease == first, "first come, first served"

    @precondition(lambda self: self.among(W.IDLE, W.LEASED, W.BLOCKED, W.RETIRING))
    @rule(pick=picks)
    def leave(self, pick: int) -> None:
        process = self.pick(pick, W.IDLE, W.LEASED, W.BLOCKED, W.RETIRING)
        process.leaving = True
        assert self.pool.leave(process.process_id, self.out) == process.lease
        self.follow()
        assert process.state is not W.IDLE, "it may be given another lease"

    @rule(job=st.sampled_from(JOBS))
    def job_ends(self, job: bytes) -> None:
        waiting = [lease for lease, of_job in self.waiting.items() if of_job == job]
        assert self.pool.job_ended(job, self.out) == waiting
        for lease in waiting:
            del self.waiting[lease]
        self.follow()
        assert not any(process.job == job for process in self.among(W.IDLE))

    # --- processes ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.to_make)
    @rule()
    def make(self) -> None:
        self.to_make -= 1
        self.made += 1
        process = Process(self.made.to_bytes(16, "big"), self.now)
        self.processes.append(process)
        self.pool.started(process.process_id, self.now)

    @precondition(lambda self: self.to_make)
    @rule()
    def making_fails(self) -> None:
        self.to_make -= 1
        self.failures += 1
        self.pool.start_failed(self.out)
        self.follow()

    @precondition(lambda self: self.among(W.STARTING))
    @rule(pick=picks)
    def register(self, pick: int) -> None:
        process = self.pick(pick, W.STARTING)
        first = next(iter(self.waiting), None)
        process.state = W.IDLE
        self.failures = 0
        assert self.pool.registered(process.process_id, 1, self.now, self.out)
        self.follow()
        assert process.lease == first, "first come, first served"

    @precondition(lambda self: self.processes)
    @rule(pick=picks)
    def die(self, pick: int) -> None:
        process = self.processes.pop(pick % len(self.processes))
        self.failures += process.state is W.STARTING
        assert self.pool.lost(process.process_id, self.out) == process.lease
        assert self.pool.lost(process.process_id, self.out) is None
        self.follow()

    @precondition(lambda self: self.among(W.STARTING))
    @rule(pick=picks)
    def die_while_starting(self, pick: int) -> None:
        self.die(self.processes.index(self.pick(pick, W.STARTING)))

    @precondition(lambda self: self.among(W.LEASED, W.BLOCKED))
    @rule(pick=picks, goes_on=st.booleans())
    def block(self, pick: int, goes_on: bool) -> None:
        process = self.pick(pick, W.LEASED, W.BLOCKED)
        process.state = W.LEASED if goes_on else W.BLOCKED
        (self.pool.unblocked if goes_on else self.pool.blocked)(process.process_id)

    @rule(passed=st.floats(0, 5))
    def time_passes(self, passed: float) -> None:
        self.now += passed
        idle = len(self.among(W.IDLE))
        self.pool.trim(self.now, 4.0, self.out)
        self.pool.expire_starts(self.now, 6.0, self.out)
        self.follow()
        assert len(self.among(W.IDLE)) >= min(idle, TARGET_IDLE)
        assert all(p.killed for p in self.among(W.STARTING) if self.now - p.started_at > 6.0)  # SC7

    @rule()
    def warm_up(self) -> None:
        self.pool.warm_up(self.out)
        self.follow()

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def processes_stay_below_the_cap(self) -> None:  # SC7
        assert len(self.processes) + self.to_make <= CAP

    @invariant()
    def pool_agrees_with_the_processes(self) -> None:
        snapshot = self.pool.snapshot()
        for state in set(W) - {W.DEAD}:
            assert snapshot[state.value] == len(self.among(state))
        assert snapshot["ordered"] == self.to_make
        assert self.pool.waiting() == list(self.waiting)
        for process in self.processes:
            assert self.pool.serves(process.process_id) == process.lease
            assert process.lease is None or self.pool.worker_of(process.lease) == process.process_id

    @invariant()
    def waiting_leases_wait_for_something_that_comes(self) -> None:
        """No limbo: a process is coming or leaving, or all that may exist serve leases."""
        if not self.waiting:
            return
        idle = self.among(W.IDLE)
        assert not any(process.job is None or process.job in self.waiting.values() for process in idle)
        coming = self.among(W.STARTING, W.RETIRING)
        assert coming or self.to_make or len(self.among(W.LEASED, W.BLOCKED)) == CAP

    def teardown(self) -> None:
        """Everything that waits is served, then everything dies and nothing is kept."""
        for _ in range(10 * (CAP + self.leases)):
            if not self.waiting:
                break
            if self.to_make:
                self.make()
            elif self.among(W.STARTING):
                self.register(0)
            elif self.among(W.RETIRING):
                self.die(self.processes.index(self.among(W.RETIRING)[0]))
            else:
                self.release(0)
        assert not self.waiting
        while self.to_make:
            self.make()
        while self.processes:
            self.die(0)
        kept = [self.pool._workers, self.pool._serving, self.pool._idle, self.pool._waiting_of]
        assert not any(kept)
        assert not +self.pool._count


WorkersMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestWorkers = pytest.mark.stateful(WorkersMachine.TestCase)
