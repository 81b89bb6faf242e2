"""The scheduler against a plain model: the books, the order, and that everything ends once.

Called by:  pytest.
Imports:    nbray.core.scheduler, hypothesis.
Never:      starts a process.

The model recomputes every sum from the list of all leases, and counts by itself how often a queued
request was delayed by the admission of one that comes after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.lease_requests import Admit, Command, Infeasible, Reclaim, RequestState, Spare
from nbray.core.scheduler import Scheduler
from nbray.model.resources import Quantities, Shape, to_shape

LIMIT = 2
TOTAL: Quantities = {"CPU": 2, "GPU": 1}
SMALL: Quantities = {"CPU": 1}
SHAPES: list[Quantities] = [
    SMALL, {"CPU": 2}, {"CPU": 2, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"GPU": 1}, {}, {"CPU": 4}, {"disk": 1},
]  # fmt: skip
OWNERS = ["one", "two", "three"]
S = RequestState

picks = st.integers(0, 1000)


@dataclass
class Lease:
    lease_id: bytes
    owner: bytes
    shape: Shape
    depth: int
    arrival: int
    state: RequestState = S.QUEUED
    delayed: int = 0
    told: bool = False
    asked: bool = False
    spared: bool = False
    resumed: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.depth, self.arrival)

    @property
    def holds(self) -> bool:
        return self.state in (S.ADMITTED, S.GRANTED, S.BLOCKED)

    def needs(self, name: str) -> int:
        return dict(self.shape).get(name, 0)


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(dict(TOTAL), bypass_limit=LIMIT)
        self.total = dict(TOTAL)
        self.leases: list[Lease] = []
        self.lives = dict.fromkeys(OWNERS, 1)
        self.out: list[Command] = []

    # --- the model's own sums ---------------------------------------------------------------------

    def among(self, *states: RequestState) -> list[Lease]:
        return [lease for lease in self.leases if lease.state in states]

    def leased(self, name: str) -> int:
        return sum(lease.needs(name) for lease in self.leases if lease.holds)

    def lent(self, name: str) -> int:
        return sum(lease.needs(name) for lease in self.among(S.BLOCKED)) if name == "CPU" else 0

    def free(self, name: str) -> int:
        return self.total.get(name, 0) - self.leased(name) + self.lent(name)

    def names(self) -> set[str]:
        return self.total.keys() | {name for lease in self.leases for name, _ in lease.shape}

    def feasible(self, lease: Lease) -> bool:
        return all(self.total.get(name, 0) >= amount for name, amount in lease.shape)

    def fits(self, lease: Lease) -> bool:
        return all(self.free(name) >= amount for name, amount in lease.shape)

    def delayed_by(self, lease: Lease) -> list[Lease]:
        """Queued feasible requests that come before ``lease`` and would be left short by it."""
        return [
            other
            for other in self.among(S.QUEUED)
            if other.rank < lease.rank
            and self.feasible(other)
            and any(other.needs(n) and self.free(n) - need < other.needs(n) for n, need in lease.shape)
        ]

    def comes_free(self, lease: Lease) -> bool:
        kept = {n: sum(b.needs(n) for b in self.among(S.BLOCKED)) if n != "CPU" else 0 for n in self.names()}
        return all(self.total.get(name, 0) - kept[name] >= amount for name, amount in lease.shape)

    # --- commands ------------------------------------------------------------------------------------

    def follow(self, repeated: bytes | None = None) -> None:
        """Check each command against the model, and let the model follow it."""
        out, self.out = self.out, []
        for command in out:
            lease = next(lease for lease in self.leases if lease.lease_id == command.lease_id)
            if isinstance(command, Admit):
                if lease.state in (S.GRANTED, S.BLOCKED):
                    assert lease.lease_id == repeated, "LE1: granted twice"
                    continue
                self.follow_admission(lease)
            elif isinstance(command, Infeasible):
                assert lease.lease_id == repeated or not lease.told
                assert lease.state is S.QUEUED
                assert not self.feasible(lease)
                lease.told = True
            elif isinstance(command, Spare):
                assert lease.state is S.GRANTED
                assert not lease.spared, "asked once"
                assert command.owner == lease.owner
                assert any(other.depth < lease.depth for other in self.among(S.QUEUED)), "for nobody"
                lease.spared = True
            else:
                assert isinstance(command, Reclaim)
                assert lease.state is S.GRANTED, "asked for a lease whose worker is blocked, or has none"
                assert not lease.asked
                assert command.owner == lease.owner
                lease.asked = True

    def follow_admission(self, lease: Lease) -> None:
        assert lease.state is S.QUEUED
        assert self.fits(lease), "SC2: admitted what does not fit"
        for other in self.among(S.QUEUED):
            same_kind = (other.depth, other.shape) == (lease.depth, lease.shape)
            assert not same_kind or other.arrival >= lease.arrival, "SC5: overtaken by its equal"
            ahead = other.rank < lease.rank and self.fits(other)
            assert not ahead or self.delayed_by(other), "not its turn"
        for other in self.delayed_by(lease):
            assert other.delayed < LIMIT or not self.comes_free(other), "SC5: passed over too often"
            other.delayed += 1
        lease.state = S.ADMITTED

    # --- what owners do -------------------------------------------------------------------------------

    def request_as(self, owner: bytes, needs: Quantities, depth: int, state: RequestState) -> None:
        lease_id = len(self.leases).to_bytes(16, "big")
        self.leases.append(Lease(lease_id, owner, to_shape(needs), depth, len(self.leases), state))
        self.scheduler.request(lease_id, owner, dict(needs), depth, 1, "task", self.out)
        self.follow()

    @rule(owner=st.sampled_from(OWNERS), needs=st.sampled_from(SHAPES), depth=st.integers(0, 2))
    def request(self, owner: str, needs: Quantities, depth: int) -> None:
        self.request_as(f"{owner} {self.lives[owner]}".encode(), needs, depth, S.QUEUED)

    @rule(owner=st.sampled_from(OWNERS), blocks=st.booleans())
    def small_tasks_come_and_go(self, owner: str, blocks: bool) -> None:
        """The load under which large requests starve, or wait for what a blocked worker keeps."""
        self.request(owner, SMALL, 0)
        for _ in self.among(S.ADMITTED):
            self.grant(0)
        running = self.among(S.GRANTED)
        if running and blocks:
            self.block(self.among(S.GRANTED, S.BLOCKED).index(running[0]))
        elif running:
            self.end(self.leases.index(running[0]))

    @precondition(lambda self: self.lives["two"] > 1)
    @rule()
    def request_of_a_lost_owner_arrives(self) -> None:  # LE2
        self.request_as(b"two 1", {"CPU": 1}, 0, S.ENDED)

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def request_again(self, pick: int) -> None:
        lease = self.leases[pick % len(self.leases)]
        self.scheduler.request(lease.lease_id, lease.owner, {"CPU": 1}, 0, 1, "again", self.out)
        answered = [command.lease_id for command in self.out]
        due = lease.state in (S.GRANTED, S.BLOCKED) or (lease.state is S.QUEUED and lease.told)
        assert answered == [lease.lease_id] * due
        self.follow(repeated=lease.lease_id)

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        lease = self.leases[pick % len(self.leases)]
        ends = lease.state in (S.QUEUED, S.ADMITTED)
        if ends:
            lease.state = S.ENDED
        assert self.scheduler.cancel(lease.lease_id, self.out) is ends
        self.follow()

    @precondition(lambda self: self.among(S.GRANTED))
    @rule(name=st.sampled_from(OWNERS))
    def lose_owner(self, name: str) -> None:
        owner = f"{name} {self.lives[name]}".encode()
        held = [lease.lease_id for lease in self.leases if lease.owner == owner and lease.holds]
        for lease in self.leases:
            if lease.owner == owner:
                lease.state = S.ENDED
        self.lives[name] += 1
        assert self.scheduler.owner_lost(owner, self.out) == held
        self.follow()

    # --- what the node does -----------------------------------------------------------------------------

    @precondition(lambda self: self.among(S.ADMITTED))
    @rule(pick=picks)
    def grant(self, pick: int) -> None:
        admitted = self.among(S.ADMITTED)
        lease = admitted[pick % len(admitted)]
        lease.state = S.GRANTED
        assert self.scheduler.granted(lease.lease_id, self.out)
        self.follow()

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def end(self, pick: int) -> None:
        """Any lease: what is over already does not end again."""
        lease = self.leases[pick % len(self.leases)]
        ends = lease.state is not S.ENDED
        lease.state = S.ENDED
        assert self.scheduler.ended(lease.lease_id, self.out) is ends
        self.follow()

    @precondition(lambda self: self.among(S.GRANTED, S.BLOCKED))
    @rule(pick=picks)
    def block(self, pick: int) -> None:
        running = self.among(S.GRANTED, S.BLOCKED)
        lease = running[pick % len(running)]
        changes = lease.state is S.GRANTED
        lease.state = S.BLOCKED
        assert self.scheduler.blocked(lease.lease_id, self.out) is changes
        self.follow()

    @precondition(lambda self: self.among(S.GRANTED, S.BLOCKED))
    @rule(pick=picks)
    def unblock(self, pick: int) -> None:
        running = self.among(S.GRANTED, S.BLOCKED)
        lease = running[pick % len(running)]
        changes = lease.state is S.BLOCKED
        lease.state = S.GRANTED
        lease.resumed = lease.resumed or changes
        assert self.scheduler.unblocked(lease.lease_id, self.out) is changes
        self.follow()

    @rule(name=st.sampled_from(["CPU", "GPU", "disk"]), more=st.integers(0, 1))
    def capacity_joins(self, name: str, more: int) -> None:
        self.total[name] = self.total.get(name, 0) + more
        for lease in self.leases:
            lease.told = lease.told and not self.feasible(lease)
        self.scheduler.set_total(dict(self.total), self.out)
        self.follow()

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def books_agree_with_the_leases_and_nothing_is_oversubscribed(self) -> None:  # SC1, SC2, SC3
        books = self.scheduler.snapshot()
        for name in self.names():
            free = self.free(name)
            assert books["free"].get(name, 0) == free
            assert books["leased"].get(name, 0) == self.leased(name)
            assert books["lent"].get(name, 0) == self.lent(name)
            assert books["overshoot"].get(name, 0) == max(0, -free)
            resumed = sum(lease.needs(name) for lease in self.among(S.GRANTED) if lease.resumed)
            assert free >= (-resumed if name == "CPU" else 0)
        assert sum(entry["count"] for entry in books["queued"]) == len(self.among(S.QUEUED))
        assert all(entry["reason"] for entry in books["queued"])

    @invariant()
    def every_lease_is_in_one_state(self) -> None:  # SC8
        for lease in self.leases:
            expected = None if lease.state is S.ENDED else lease.state
            assert self.scheduler.state(lease.lease_id) is expected

    @invariant()
    def queued_requests_wait_for_a_reason(self) -> None:  # SC6
        for lease in self.among(S.QUEUED):
            reserved = [other for other in self.delayed_by(lease) if self.comes_free(other)]
            assert not self.fits(lease) or reserved
            assert lease.told or self.feasible(lease)

    def teardown(self) -> None:
        """All feasible requests are served as leases end; then all is free and nothing is kept."""
        for _ in self.leases:
            waiting = [lease for lease in self.among(S.QUEUED) if self.feasible(lease)]
            if not waiting:
                break
            held = [lease for lease in self.leases if lease.holds]
            assert held, f"SC5: {waiting} wait for nothing"
            held[0].state = S.ENDED
            assert self.scheduler.ended(held[0].lease_id, self.out)
            self.follow()
        assert not [lease for lease in self.among(S.QUEUED) if self.feasible(lease)]
        for lease in self.leases:
            lease.state = S.ENDED
            self.scheduler.ended(lease.lease_id, self.out)
        assert to_shape(self.scheduler.free()) == to_shape(self.total)  # SC4
        snapshot = self.scheduler.snapshot()
        assert (snapshot["leased"], snapshot["lent"], snapshot["queued"]) == ({}, {}, [])
        reclaimer = self.scheduler._reclaimer
        kept = [self.scheduler._requests, self.scheduler._of_owner, self.scheduler._queues]
        assert not any([*kept, *(getattr(reclaimer, slot) for slot in reclaimer.__slots__)])


SchedulerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
TestScheduler = pytest.mark.stateful(SchedulerMachine.TestCase)
