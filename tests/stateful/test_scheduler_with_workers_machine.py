"""Scheduler and worker pool together, as the node joins them: processes and owners die at any point.

Called by:  pytest.
Imports:    nbray.core.scheduler, nbray.core.workers, hypothesis.
Never:      starts a process.

``TinyNode`` is the least host: it performs each command at once, and keeps no state of its own but
the processes that exist.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core import lease_requests, worker_process
from nbray.core.lease_requests import Admit, Infeasible, Reclaim, RequestState, Spare
from nbray.core.scheduler import Scheduler
from nbray.core.worker_process import Assign, Retire, Start, StartsFailing
from nbray.core.workers import WorkerPool
from nbray.model.resources import Quantities

TOTAL: Quantities = {"CPU": 2, "GPU": 1}
CAP = 5
SHAPES: list[Quantities] = [{"CPU": 1}, {"CPU": 2}, {"CPU": 1, "GPU": 1}, {}]
OWNERS = [b"owner 0", b"owner 1", b"owner 2", b"owner 3"]
S = RequestState

picks = st.integers(0, 1000)


class TinyNode:
    """Performs what the two machines order, until neither orders anything more."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(dict(TOTAL), bypass_limit=2)
        self.pool = WorkerPool(1, CAP)
        self.leases_out: list[lease_requests.Command] = []
        self.workers_out: list[worker_process.Command] = []
        self.made = 0
        self.starting: list[bytes] = []
        self.alive: list[bytes] = []
        self.retiring: list[bytes] = []
        self.job_seen: dict[bytes, bytes] = {}
        self.failed: list[bytes] = []

    def perform(self) -> None:
        while self.leases_out or self.workers_out:
            if self.leases_out:
                self.perform_lease_command(self.leases_out.pop(0))
            else:
                self.perform_worker_command(self.workers_out.pop(0))

    def perform_lease_command(self, command: lease_requests.Command) -> None:
        if isinstance(command, Admit):
            owner = self.scheduler.owner_of(command.lease_id)
            if owner is not None:
                self.pool.need(command.lease_id, job_of(owner), self.workers_out)
        else:
            assert isinstance(command, (Reclaim, Spare, Infeasible))

    def perform_worker_command(self, command: worker_process.Command) -> None:
        if isinstance(command, Assign):
            owner = self.scheduler.owner_of(command.lease_id)
            if self.scheduler.granted(command.lease_id, self.leases_out):
                assert owner is not None
                assert self.job_seen.setdefault(command.process_id, job_of(owner)) == job_of(owner)
            else:
                self.pool.released(command.process_id, 0.0, self.workers_out)
        elif isinstance(command, Start):
            for _ in range(command.number):
                self.made += 1
                process_id = self.made.to_bytes(16, "big")
                self.starting.append(process_id)
                self.pool.started(process_id, 0.0)
        elif isinstance(command, Retire):
            self.alive.remove(command.process_id)
            self.retiring.append(command.process_id)
        else:
            assert isinstance(command, StartsFailing)
            for lease_id in self.pool.waiting():
                self.end(lease_id)
                self.failed.append(lease_id)

    def end(self, lease_id: bytes) -> None:
        """The lease is over; its worker, if it has one, is healthy."""
        self.pool.abandon(lease_id)
        process_id = self.pool.worker_of(lease_id)
        if self.scheduler.ended(lease_id, self.leases_out) and process_id is not None:
            self.pool.released(process_id, 0.0, self.workers_out)

    def die(self, process_id: bytes) -> None:
        for some in (self.starting, self.alive, self.retiring):
            if process_id in some:
                some.remove(process_id)
        lease_id = self.pool.lost(process_id, self.workers_out)
        if lease_id is not None:
            assert self.scheduler.ended(lease_id, self.leases_out)


def job_of(owner: bytes) -> bytes:
    return b"job one" if owner in OWNERS[:2] else b"job two"


class NodeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.node = TinyNode()
        self.asked: list[bytes] = []
        self.owners: dict[bytes, bytes] = {}
        self.lost_owners: set[bytes] = set()

    def in_state(self, *states: RequestState) -> list[bytes]:
        return [lease for lease in self.asked if self.node.scheduler.state(lease) in states]

    @rule(owner=st.sampled_from(OWNERS), needs=st.sampled_from(SHAPES), depth=st.integers(0, 1))
    def request(self, owner: bytes, needs: Quantities, depth: int) -> None:
        lease_id = len(self.asked).to_bytes(16, "big")
        self.asked.append(lease_id)
        self.owners[lease_id] = owner
        self.node.scheduler.request(lease_id, owner, needs, depth, 1, "task", self.node.leases_out)
        self.node.perform()

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def request_again(self, pick: int) -> None:
        lease_id = self.asked[pick % len(self.asked)]
        before = self.node.pool.worker_of(lease_id)
        owner = self.owners[lease_id]
        self.node.scheduler.request(lease_id, owner, {"CPU": 1}, 0, 1, "task", self.node.leases_out)
        self.node.perform()
        assert self.node.pool.worker_of(lease_id) == before  # LE1

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def end_or_end_again(self, pick: int) -> None:
        self.node.end(self.asked[pick % len(self.asked)])
        self.node.perform()

    @precondition(lambda self: self.asked)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        lease_id = self.asked[pick % len(self.asked)]
        if self.node.scheduler.cancel(lease_id, self.node.leases_out):
            self.node.pool.abandon(lease_id)
        self.node.perform()

    @precondition(lambda self: self.in_state(S.GRANTED, S.BLOCKED))
    @rule(pick=picks, goes_on=st.booleans())
    def block(self, pick: int, goes_on: bool) -> None:
        leases = self.in_state(S.GRANTED, S.BLOCKED)
        lease_id = leases[pick % len(leases)]
        process_id = self.node.pool.worker_of(lease_id)
        assert process_id is not None
        if goes_on:
            self.node.scheduler.unblocked(lease_id, self.node.leases_out)
            self.node.pool.unblocked(process_id)
        else:
            self.node.scheduler.blocked(lease_id, self.node.leases_out)
            self.node.pool.blocked(process_id)
        self.node.perform()

    @precondition(lambda self: self.node.starting)
    @rule(pick=picks)
    def register(self, pick: int) -> None:
        process_id = self.node.starting.pop(pick % len(self.node.starting))
        self.node.alive.append(process_id)
        assert self.node.pool.registered(process_id, 1, 0.0, self.node.workers_out)
        self.node.perform()

    @precondition(lambda self: self.node.starting)
    @rule(pick=picks)
    def crash_at_start(self, pick: int) -> None:
        self.node.die(self.node.starting[pick % len(self.node.starting)])
        self.node.perform()

    @precondition(lambda self: self.node.alive or self.node.retiring)
    @rule(pick=picks)
    def crash(self, pick: int) -> None:
        there = self.node.alive + self.node.retiring
        self.node.die(there[pick % len(there)])
        self.node.perform()

    @precondition(lambda self: len(self.lost_owners) < 2)
    @rule(owner=st.sampled_from(OWNERS))
    def lose_owner(self, owner: bytes) -> None:
        """Its workers run nobody's task now: they are killed."""
        self.lost_owners.add(owner)
        for lease_id in self.node.scheduler.owner_lost(owner, self.node.leases_out):
            process_id = self.node.pool.worker_of(lease_id)
            if process_id is None:
                assert self.node.pool.abandon(lease_id)
            else:
                self.die_of_lost_owner(process_id)
        self.node.perform()

    def die_of_lost_owner(self, process_id: bytes) -> None:
        self.node.alive.remove(process_id)
        lease_id = self.node.pool.lost(process_id, self.node.workers_out)
        assert lease_id is not None
        assert not self.node.scheduler.ended(lease_id, self.node.leases_out)  # SC4: it ended before

    @rule()
    def trim(self) -> None:
        self.node.pool.trim(100.0, 1.0, self.node.workers_out)
        self.node.perform()

    @invariant()
    def granted_leases_have_a_worker_each_and_admitted_ones_wait_for_one(self) -> None:
        pool = self.node.pool
        workers = [pool.worker_of(lease) for lease in self.in_state(S.GRANTED, S.BLOCKED)]
        assert None not in workers
        assert len(workers) == len(set(workers)) == sum(pool.serves(p) is not None for p in self.node.alive)
        assert sorted(pool.waiting()) == sorted(self.in_state(S.ADMITTED))
        blocked = pool.snapshot()["blocked"]
        assert blocked == len(self.in_state(S.BLOCKED))

    @invariant()
    def books_balance_and_processes_stay_below_the_cap(self) -> None:  # SC1, SC7
        books = self.node.scheduler.snapshot()
        for name, total in TOTAL.items():
            assert books["free"][name] + books["leased"].get(name, 0) - books["lent"].get(name, 0) == total
        assert len(self.node.starting) + len(self.node.alive) + len(self.node.retiring) <= CAP

    def teardown(self) -> None:
        """When processes start and tasks end, every request is served; then nothing is left."""
        failed = len(self.node.failed)
        for _ in range(20 * (len(self.asked) + CAP)):
            if not self.in_state(S.QUEUED, S.ADMITTED):
                break
            if self.node.starting:
                self.register(0)
            elif self.node.retiring:
                self.node.die(self.node.retiring[0])
            else:
                self.node.end(self.in_state(S.GRANTED, S.BLOCKED)[0])
            self.node.perform()
        assert not self.in_state(S.QUEUED, S.ADMITTED), "a request waits for nothing"
        assert len(self.node.failed) == failed
        for owner in OWNERS:
            self.lose_owner(owner)
        for process_id in self.node.starting + self.node.alive + self.node.retiring:
            self.node.die(process_id)
        assert {name: self.node.scheduler.free()[name] for name in TOTAL} == TOTAL  # SC4
        assert not self.node.pool._workers


NodeMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True
)
TestSchedulerWithWorkers = pytest.mark.stateful(NodeMachine.TestCase)
