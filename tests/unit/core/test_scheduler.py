"""The scheduler's decisions, one sentence each.

Called by:  pytest.
Imports:    nbray.core.
Never:      starts a process.
"""

from __future__ import annotations

import pytest

from nbray.core.lease_requests import (
    TABLE,
    Admit,
    Command,
    Infeasible,
    Reclaim,
    RequestEvent,
    RequestState,
    Spare,
)
from nbray.core.ledger import Ledger
from nbray.core.scheduler import REMEMBERED, Scheduler
from nbray.model.errors import ProtocolError
from nbray.model.resources import UNIT, Shape


class Node:
    """A scheduler, and short words to speak to it. Amounts are whole CPUs and so on."""

    def __init__(self, bypass_limit: int = 64, **total: int) -> None:
        self.scheduler = Scheduler({name: amount * UNIT for name, amount in total.items()}, bypass_limit)
        self.out: list[Command] = []

    def ask(self, lease: str, owner: str = "driver", depth: int = 0, **needs: float) -> list[Command]:
        units = {name: round(amount * UNIT) for name, amount in (needs or {"CPU": 1}).items()}
        self.scheduler.request(lease.encode(), owner.encode(), units, depth, 1, f"task {lease}", self.out)
        return self.heard()

    def run(self, lease: str, owner: str = "driver", depth: int = 0, **needs: float) -> None:
        """Ask for a lease that must be admitted at once, and grant it."""
        assert self.ask(lease, owner, depth, **needs) == [Admit(lease.encode())]
        self.grant(lease)

    def grant(self, lease: str) -> list[Command]:
        assert self.scheduler.granted(lease.encode(), self.out)
        return self.heard()

    def end(self, lease: str) -> list[Command]:
        assert self.scheduler.ended(lease.encode(), self.out)
        return self.heard()

    def block(self, lease: str) -> list[Command]:
        assert self.scheduler.blocked(lease.encode(), self.out)
        return self.heard()

    def unblock(self, lease: str) -> list[Command]:
        assert self.scheduler.unblocked(lease.encode(), self.out)
        return self.heard()

    def heard(self) -> list[Command]:
        out, self.out = self.out, []
        return out

    def free(self, name: str = "CPU") -> float:
        return self.scheduler.free()[name] / UNIT


def admits(*leases: str) -> list[Command]:
    return [Admit(lease.encode()) for lease in leases]


def admissions(commands: list[Command]) -> list[Command]:
    return [command for command in commands if isinstance(command, Admit)]


# --- asking and ending ---------------------------------------------------------------------------


def test_request_that_fits_is_admitted_at_once() -> None:
    node = Node(CPU=2)

    assert node.ask("a") == admits("a")

    assert node.free() == 1


def test_request_waits_until_an_earlier_lease_ends() -> None:
    node = Node(CPU=1)
    node.run("a")
    assert node.ask("b") == []

    assert node.end("a") == admits("b")


def test_same_id_never_makes_a_second_lease_at_any_phase() -> None:
    node = Node(CPU=1)
    node.ask("a")
    node.ask("b")

    assert node.ask("a") == []  # admitted: the grant will follow
    assert node.ask("b") == []  # queued
    node.grant("a")
    assert node.ask("a") == admits("a")  # granted: said again
    node.block("a")
    assert node.ask("a") == admits("a")
    node.end("a")
    assert node.ask("a") == []  # over

    assert node.scheduler.state(b"a") is None
    assert node.free() == 0  # b's, and nobody else's


def test_lease_id_of_another_owner_is_refused() -> None:
    node = Node(CPU=1)
    node.ask("a", "one")

    with pytest.raises(ProtocolError, match="Lease IDs must not be shared"):
        node.ask("a", "two")


def test_negative_quantity_is_refused_before_anything_is_booked() -> None:
    node = Node(CPU=1)

    with pytest.raises(ProtocolError, match="neither can be negative"):
        node.ask("a", CPU=-1)

    assert node.scheduler.state(b"a") is None


def test_lease_ends_once_however_often_it_is_said() -> None:
    node = Node(CPU=1)
    node.run("a")

    assert node.scheduler.ended(b"a", node.out)
    assert not node.scheduler.ended(b"a", node.out)
    assert not node.scheduler.ended(b"unknown", node.out)

    assert node.free() == 1


def test_grant_of_a_lease_that_ended_meanwhile_is_refused() -> None:
    node = Node(CPU=1)
    node.ask("a")
    node.end("a")

    assert not node.scheduler.granted(b"a", node.out)


def test_cancelled_request_makes_room_for_the_next() -> None:
    node = Node(CPU=2)
    node.run("a")
    node.ask("big", CPU=2)
    node.scheduler.request(b"b", b"driver", {"CPU": UNIT}, 0, 1, "b", node.out)
    assert node.heard() == admits("b")

    assert node.scheduler.cancel(b"big", node.out)
    assert not node.scheduler.cancel(b"big", node.out)

    assert node.scheduler.snapshot()["queued"] == []


def test_cancel_of_an_admitted_lease_frees_its_resources() -> None:
    node = Node(CPU=1)
    node.ask("a")
    node.ask("b")

    assert node.scheduler.cancel(b"a", node.out)

    assert node.heard() == admits("b")


def test_cancel_that_crosses_with_the_grant_does_nothing() -> None:
    node = Node(CPU=1)
    node.run("a")

    assert not node.scheduler.cancel(b"a", node.out)

    assert node.scheduler.state(b"a") is RequestState.GRANTED


def test_lost_owner_ends_all_its_leases_and_names_those_with_workers() -> None:
    node = Node(CPU=3)
    node.run("granted", "x")
    node.run("blocked", "x")
    node.block("blocked")
    node.ask("admitted", "x")
    node.ask("queued", "x", CPU=3)
    node.ask("other", "y", CPU=2)

    held = node.scheduler.owner_lost(b"x", node.out)

    assert held == [b"granted", b"blocked", b"admitted"]
    assert Admit(b"other") in node.heard()
    assert node.free() == 1


def test_request_of_a_lost_owner_that_arrives_late_is_ignored() -> None:
    node = Node(CPU=1)
    node.scheduler.owner_lost(b"x", node.out)

    assert node.ask("a", "x") == []

    assert node.scheduler.owner_of(b"a") is None


def test_memory_of_ended_leases_is_bounded() -> None:
    node = Node(CPU=1)

    for number in range(REMEMBERED + 10):
        node.run(f"{number:08}")
        node.end(f"{number:08}")

    assert len(node.scheduler._ended._ids) == REMEMBERED
    assert node.ask(f"{REMEMBERED + 9:08}") == []


def test_every_event_is_in_the_table_or_raises_naming_what_was_allowed() -> None:
    node = Node(CPU=1)
    node.ask("a")
    node.ask("b")

    with pytest.raises(ProtocolError, match=r"waits for a worker process\) cannot be blocked; possible is: "):
        node.scheduler.blocked(b"a", node.out)
    with pytest.raises(ProtocolError, match=r"waits for resources\) cannot be granted"):
        node.scheduler.granted(b"b", node.out)

    assert all(state is not RequestState.ENDED for state, _ in TABLE)
    assert {event for _, event in TABLE} == set(RequestEvent)


# --- order ---------------------------------------------------------------------------------------


def test_equal_requests_are_served_first_come_first_served() -> None:
    node = Node(CPU=1)
    node.run("a")
    for lease in "bcd":
        node.ask(lease)

    served = [node.end("a")]
    for lease in "bc":
        node.grant(lease)
        served.append(node.end(lease))

    assert served == [admits("b"), admits("c"), admits("d")]


def test_children_go_before_new_parents() -> None:
    node = Node(CPU=1)
    node.run("a")
    node.ask("parent")
    node.ask("child", "worker", depth=1)

    assert node.end("a") == admits("child")


def test_what_fits_goes_ahead_of_what_does_not() -> None:
    node = Node(CPU=2)
    node.run("a")
    node.ask("big", CPU=2)

    assert node.ask("small", CPU=1) == admits("small")


def test_large_request_is_not_passed_over_more_often_than_the_limit() -> None:
    node = Node(bypass_limit=3, CPU=2)
    node.run("0")
    node.ask("big", CPU=2)
    for lease in "1234":
        node.ask(lease)
    node.grant("1")

    assert admissions(node.end("0")) == admits("2")
    node.grant("2")
    assert admissions(node.end("1")) == admits("3")
    node.grant("3")
    assert admissions(node.end("2")) == []  # passed over by 1, 2 and 3: now the CPU is kept for it
    reason = node.scheduler.snapshot()["queued"][1]["reason"]
    assert node.end("3") == admits("big")

    assert reason == "what it needs is reserved for task big, which waited longer"


def test_reservation_lets_through_what_does_not_delay_it() -> None:
    node = Node(bypass_limit=0, CPU=4, GPU=1)
    node.run("gpu", GPU=1, CPU=1)
    node.ask("waits for the gpu", GPU=1, CPU=2)

    assert node.ask("a") == admits("a")  # leaves two CPUs
    assert node.ask("b") == []  # would leave one
    assert node.ask("none", CPU=0) == admits("none")
    assert node.ask("deep", depth=1) == admits("deep")


def test_reservation_rests_while_a_blocked_worker_keeps_what_it_needs() -> None:
    node = Node(bypass_limit=0, CPU=1, GPU=1)
    node.run("parent", CPU=1, GPU=1)
    node.ask("next", depth=1, GPU=1, CPU=1)

    node.block("parent")

    # The parent may wait for this child: held back for "next", both would wait for ever.
    assert node.ask("child", "parent's worker", depth=1) == admits("child")


# --- blocked workers ------------------------------------------------------------------------------


def test_blocked_worker_lends_its_cpu_and_keeps_its_gpu() -> None:
    node = Node(CPU=1, GPU=1)
    node.run("a", CPU=1, GPU=1)
    node.ask("cpu")
    node.ask("gpu", GPU=1)

    assert node.block("a") == admits("cpu")

    assert (node.free("CPU"), node.free("GPU")) == (0, 0)
    assert node.scheduler.snapshot()["lent"] == {"CPU": UNIT}


def test_unblocked_worker_takes_its_cpu_back_even_if_it_is_in_use() -> None:
    node = Node(CPU=1)
    node.run("a")
    node.block("a")
    node.run("b")
    node.ask("c")

    node.unblock("a")

    assert node.free() == -1
    assert node.scheduler.snapshot()["overshoot"] == {"CPU": UNIT}
    assert node.end("b") == []  # the overshoot is paid back first
    assert node.end("a") == admits("c")


def test_nothing_that_needs_a_cpu_is_admitted_during_an_overshoot() -> None:
    node = Node(CPU=1)
    node.run("a")
    node.block("a")
    node.run("b")
    node.unblock("a")

    assert admissions(node.ask("small", CPU=0.0001)) == []
    assert node.ask("nothing", CPU=0) == admits("nothing")


def test_blocking_twice_lends_once() -> None:
    node = Node(CPU=1)
    node.run("a")
    node.block("a")

    assert not node.scheduler.blocked(b"a", node.out)
    node.unblock("a")
    assert not node.scheduler.unblocked(b"a", node.out)

    assert node.free() == 0


def test_crash_while_blocked_returns_the_cpu_once() -> None:
    node = Node(CPU=2)
    node.run("a")
    node.block("a")

    node.end("a")

    assert node.free() == 2
    assert node.scheduler.snapshot()["lent"] == {}


def test_news_of_a_lease_that_is_over_changes_nothing() -> None:
    node = Node(CPU=1)
    node.run("a")
    node.end("a")

    assert not node.scheduler.blocked(b"a", node.out)
    assert not node.scheduler.unblocked(b"a", node.out)
    assert not node.scheduler.cancel(b"a", node.out)

    assert node.free() == 1


def test_nested_tasks_finish_on_one_cpu() -> None:
    node = Node(CPU=1)
    node.run("depth 0")
    for depth in range(1, 6):
        node.ask(f"depth {depth}", f"worker {depth - 1}", depth)
        assert node.block(f"depth {depth - 1}") == admits(f"depth {depth}")
        node.grant(f"depth {depth}")

    for depth in range(5, 0, -1):
        node.end(f"depth {depth}")
        node.unblock(f"depth {depth - 1}")

    assert node.free() == 0


# --- infeasible requests ----------------------------------------------------------------------------


def test_infeasible_request_is_named_once_and_stays_queued() -> None:
    node = Node(CPU=1)

    (command,) = node.ask("a", CPU=1, GPU=2)
    node.run("b")

    assert isinstance(command, Infeasible)
    assert command.text == (
        "task a needs 2 GPU; this node has 0 GPU. "
        "It waits until there is enough: ask for less, or add a node."
    )
    assert node.end("b") == []
    assert node.scheduler.state(b"a") is RequestState.QUEUED


def test_infeasible_request_runs_when_capacity_joins() -> None:
    node = Node(CPU=1)
    node.ask("a", GPU=1)

    node.scheduler.set_total({"CPU": UNIT, "GPU": UNIT}, node.out)

    assert node.heard() == admits("a")


def test_queued_request_that_becomes_infeasible_is_named() -> None:
    node = Node(CPU=2)
    node.run("a")
    node.ask("big", CPU=2)

    node.scheduler.set_total({"CPU": UNIT}, node.out)

    assert [type(command) for command in node.heard()] == [Infeasible]
    assert node.free() == 0


def test_repeated_infeasible_request_gets_the_same_answer() -> None:
    node = Node(CPU=1)

    assert node.ask("a", GPU=1) == node.ask("a", GPU=1)


# --- fairness between owners ----------------------------------------------------------------------------


def test_lease_is_asked_back_for_an_owner_that_has_none() -> None:
    node = Node(CPU=1)
    node.run("a", "one")

    assert node.ask("b", "two") == [Reclaim(b"a", b"one")]


def test_owner_with_most_leases_is_asked() -> None:
    node = Node(CPU=3)
    node.run("a", "one")
    node.run("b", "two")
    node.run("c", "two")

    assert node.ask("d", "three") == [Reclaim(b"b", b"two")]


def test_no_lease_is_asked_for_twice() -> None:
    node = Node(CPU=2)
    node.run("a", "one")
    node.run("b", "one")

    asked = [node.ask("c", "two"), node.ask("d", "three"), node.ask("e", "four"), node.ask("f", "two")]

    assert asked == [[Reclaim(b"a", b"one")], [Reclaim(b"b", b"one")], [], []]


def test_owner_that_has_a_lease_does_not_make_others_give_theirs() -> None:
    node = Node(CPU=2)
    node.run("a", "one")
    node.run("b", "two")

    assert node.ask("c", "one") == []


def test_blocked_lease_is_not_asked_for_until_it_goes_on() -> None:
    node = Node(CPU=1)
    node.run("a", "one")
    node.block("a")
    node.run("b", "two")

    assert node.ask("c", "three") == [Reclaim(b"b", b"two")]
    assert node.ask("d", "four") == []
    assert node.unblock("a") == [Reclaim(b"a", b"one")]


def test_lease_is_asked_for_once_it_is_granted() -> None:
    node = Node(CPU=1)
    node.ask("a", "one")
    assert node.ask("b", "two") == []

    assert node.grant("a") == [Reclaim(b"a", b"one")]


def test_new_parent_does_not_ask_for_a_childs_lease_but_for_it_not_to_idle() -> None:
    node = Node(CPU=1)
    node.run("child", "worker", depth=1)

    assert node.ask("parent", "driver") == [Spare(b"child", b"worker")]
    assert node.ask("sibling", "other worker", depth=1) == [Reclaim(b"child", b"worker")]


def test_owner_is_asked_once_not_to_keep_an_idle_lease() -> None:
    node = Node(CPU=1)
    node.run("child", "worker", depth=1)

    assert node.ask("parent", "driver") == [Spare(b"child", b"worker")]
    assert node.ask("another", "second driver") == []


def test_lease_of_a_child_that_comes_while_its_elders_wait_is_not_to_idle() -> None:
    node = Node(CPU=1)
    node.run("parent", "driver")
    node.block("parent")
    node.ask("child", "worker", depth=1)
    assert node.ask("elder", "second driver") == []

    assert node.grant("child") == [Spare(b"child", b"worker")]


def test_lease_that_holds_nothing_of_what_is_missing_is_not_asked_for() -> None:
    node = Node(CPU=1, GPU=1)
    node.run("cpu", "one")

    node.run("gpu", "two", GPU=1, CPU=0)

    assert node.ask("x", "three", GPU=1) == [Reclaim(b"gpu", b"two")]


def test_other_shape_of_the_same_owner_gets_its_turn_too() -> None:
    node = Node(CPU=1)
    node.run("a", "one", CPU=1)

    assert node.ask("b", "one", CPU=0.5) == [Reclaim(b"a", b"one")]


def test_next_lease_is_asked_for_when_the_first_did_not_help() -> None:
    node = Node(CPU=2)
    node.run("a", "one")
    node.run("b", "one")
    assert node.ask("big", "two", CPU=2) == [Reclaim(b"a", b"one")]

    assert node.end("a") == [Reclaim(b"b", b"one")]

    assert node.end("b") == admits("big")


# --- what people see ------------------------------------------------------------------------------------


def test_snapshot_says_per_shape_how_many_wait_and_why() -> None:
    node = Node(CPU=2)
    node.run("a")
    node.ask("big", CPU=2)
    node.ask("big too", CPU=2)

    snapshot = node.scheduler.snapshot()

    assert snapshot == {
        "total": {"CPU": 2 * UNIT},
        "free": {"CPU": UNIT},
        "leased": {"CPU": UNIT},
        "lent": {},
        "overshoot": {},
        "queued": [
            {
                "shape": {"CPU": 2 * UNIT},
                "depth": 0,
                "count": 2,
                "backlog": 2,
                "name": "task big",
                "reason": "waits for 2 CPU; free are 1 CPU, 1 leases use the rest",
            }
        ],
    }


class CountingLedger(Ledger):
    looks = 0

    def fits(self, shape: Shape) -> bool:
        self.looks += 1
        return super().fits(shape)


def test_decisions_do_not_look_at_every_queued_request() -> None:
    node = Node(CPU=1)
    ledger = node.scheduler._ledger = CountingLedger({"CPU": UNIT})
    node.run("a", "x")
    for number in range(10_000):
        node.ask(f"{number:05}", "y")
    ledger.looks = 0

    node.ask("last", "y")
    assert admissions(node.end("a")) == admits("00000")

    assert ledger.looks == 2  # the admission, and that the next one does not fit
