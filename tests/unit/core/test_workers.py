"""The worker pool's decisions, one sentence each.

Called by:  pytest.
Imports:    nbray.core.
Never:      starts a process.
"""

from __future__ import annotations

import pytest

from nbray.core.worker_process import Assign, Command, Dismiss, Kill, Retire, Start, StartsFailing
from nbray.core.workers import START_FAILURES, WorkerPool
from nbray.model.errors import ProtocolError


class Host:
    """A pool, and short words to speak to it."""

    def __init__(self, target_idle: int = 0, cap: int = 8) -> None:
        self.pool = WorkerPool(target_idle, cap)
        self.out: list[Command] = []
        self.now = 0.0

    def need(self, lease: str, job: str = "job") -> list[Command]:
        self.pool.need(lease.encode(), job.encode(), self.out)
        return self.heard()

    def start(self, *processes: str) -> None:
        for process in processes:
            self.pool.started(process.encode(), self.now)

    def register(self, process: str) -> list[Command]:
        assert self.pool.registered(process.encode(), 100, self.now, self.out)
        return self.heard()

    def release(self, process: str) -> list[Command]:
        self.pool.released(process.encode(), self.now, self.out)
        return self.heard()

    def lose(self, process: str) -> list[Command]:
        self.pool.lost(process.encode(), self.out)
        return self.heard()

    def serve(self, lease: str, process: str, job: str = "job") -> None:
        """Start a process for a lease, all the way."""
        assert self.need(lease, job) == [Start(1)]
        self.start(process)
        assert self.register(process) == [assign(lease, process, True)]

    def heard(self) -> list[Command]:
        out, self.out = self.out, []
        return out


def assign(lease: str, process: str, new_to_job: bool = False) -> Assign:
    return Assign(lease.encode(), process.encode(), new_to_job)


# --- processes that want to leave ------------------------------------------------------------------


def test_process_that_wants_to_leave_serves_its_lease_to_the_end_and_no_other() -> None:
    host = Host()
    host.serve("a", "p")

    assert host.pool.leave(b"p", host.out) == b"a"
    assert host.heard() == []
    assert host.need("b") == [Start(1)]

    assert host.release("p") == [Dismiss(b"p")]
    assert host.pool.snapshot()["retiring"] == 1
    assert host.lose("p") == []


def test_process_whose_lease_ended_before_it_said_that_it_leaves_is_dismissed_at_once() -> None:
    host = Host()
    host.serve("a", "p")
    host.release("p")

    assert host.pool.leave(b"p", host.out) is None
    assert host.heard() == [Dismiss(b"p")]
    assert host.need("b") == [Start(1)]


def test_process_that_was_given_another_lease_before_it_said_so_leaves_after_that_one() -> None:
    host = Host()
    host.serve("a", "p")
    host.release("p")
    host.need("b")

    assert host.pool.leave(b"p", host.out) == b"b"
    assert host.release("p") == [Dismiss(b"p")]


# --- serving leases --------------------------------------------------------------------------------


def test_lease_without_an_idle_process_starts_one_and_gets_it() -> None:
    host = Host()

    assert host.need("a") == [Start(1)]
    host.start("p")

    assert host.register("p") == [assign("a", "p", new_to_job=True)]
    assert host.pool.serves(b"p") == b"a"
    assert host.pool.worker_of(b"a") == b"p"


def test_same_need_gets_the_same_process() -> None:
    host = Host()
    host.need("a")
    assert host.need("a") == []
    host.start("p")
    host.register("p")

    assert host.need("a") == [assign("a", "p")]

    assert host.pool.snapshot()["leased"] == 1


def test_released_process_serves_the_next_lease_of_its_job() -> None:
    host = Host()
    host.serve("a", "p")
    host.release("p")

    assert host.need("b") == [assign("b", "p")]


def test_last_used_process_serves_first() -> None:
    host = Host()
    host.serve("a", "p")
    host.serve("b", "q")
    host.release("q")
    host.release("p")

    assert host.need("c") == [assign("c", "p")]
    assert host.need("d") == [assign("d", "q")]


def test_process_of_another_job_is_not_used() -> None:
    host = Host()
    host.serve("a", "p", "one")
    host.release("p")

    assert host.need("b", "two") == [Start(1)]


def test_process_of_no_job_yet_serves_any() -> None:
    host = Host(target_idle=1)
    host.pool.warm_up(host.out)
    assert host.heard() == [Start(1)]
    host.start("p")
    host.register("p")

    assert host.need("a", "any") == [assign("a", "p", new_to_job=True)]


def test_leases_get_processes_first_come_first_served() -> None:
    host = Host(cap=1)
    host.need("a")
    host.need("b")
    host.need("c")
    host.start("p")

    served = [host.register("p"), host.release("p"), host.release("p")]

    assert served == [[assign("a", "p", True)], [assign("b", "p")], [assign("c", "p")]]


def test_abandoned_lease_gets_no_process() -> None:
    host = Host()
    host.need("a")
    host.start("p")

    assert host.pool.abandon(b"a")
    assert not host.pool.abandon(b"a")

    assert host.register("p") == []
    assert host.pool.snapshot()["idle"] == 1


def test_processes_that_are_coming_are_not_started_again() -> None:
    host = Host()

    assert host.need("a") == [Start(1)]
    host.pool.abandon(b"a")

    assert host.need("b") == []
    assert host.need("c") == [Start(1)]


# --- the cap -----------------------------------------------------------------------------------------


def test_no_more_processes_than_the_cap_are_started() -> None:
    host = Host(cap=2)

    started = [host.need(lease) for lease in "abcd"]

    assert started == [[Start(1)], [Start(1)], [], []]
    assert host.pool.waiting() == [b"a", b"b", b"c", b"d"]


def test_idle_process_of_another_job_makes_room_at_the_cap() -> None:
    host = Host(cap=1)
    host.serve("a", "p", "one")
    host.release("p")

    assert host.need("b", "two") == [Retire(b"p")]
    assert host.need("c", "two") == []  # it is still there
    assert host.lose("p") == [Start(1)]


def test_process_of_another_job_that_becomes_idle_at_the_cap_makes_room() -> None:
    host = Host(cap=1)
    host.serve("a", "p", "one")
    host.need("b", "two")

    assert host.release("p") == [Retire(b"p")]


def test_retiring_process_serves_no_more() -> None:
    host = Host(cap=1)
    host.serve("a", "p", "one")
    host.release("p")
    host.need("b", "two")

    assert host.need("c", "one") == []
    assert host.release("p") == []


def test_blocked_processes_count_as_processes() -> None:
    host = Host(cap=1)
    host.serve("a", "p")
    host.pool.blocked(b"p")

    assert host.need("child") == []
    assert host.pool.snapshot()["blocked"] == 1
    host.pool.unblocked(b"p")
    assert host.pool.snapshot()["leased"] == 1


def test_in_need_there_may_be_more_than_the_cap_until_they_idle() -> None:
    host = Host(cap=1)
    host.pool = WorkerPool(0, 1, 2)
    host.serve("a", "p")
    host.pool.blocked(b"p")
    assert host.need("child") == []
    assert host.pool.is_exhausted()
    assert host.pool.may_exceed()

    host.pool.exceed(host.out)

    assert host.heard() == [Start(1)]
    assert not host.pool.is_exhausted()
    assert not host.pool.may_exceed()
    host.start("q")
    assert host.register("q") == [assign("child", "q", True)]
    assert host.release("q") == []
    host.pool.trim(0.5, 60.0, host.out)
    assert host.heard() == []
    host.pool.trim(1.5, 60.0, host.out)
    assert host.heard() == [Retire(b"q")]


def test_no_more_idle_processes_are_retired_early_than_exceed_the_cap() -> None:
    host = Host()
    host.pool = WorkerPool(0, 2, 4)
    for lease, process in (("a", "p"), ("b", "q")):
        host.serve(lease, process)
        host.pool.blocked(process.encode())
    assert host.need("c") == []
    host.pool.exceed(host.out)
    host.start("r")
    host.register("r")
    for process in "pqr":
        host.release(process)

    host.heard()
    host.pool.trim(10.0, 60.0, host.out)

    assert len(host.heard()) == 1


# --- death ---------------------------------------------------------------------------------------------


def test_lost_process_names_the_lease_it_served_once() -> None:
    host = Host()
    host.serve("a", "p")

    assert host.pool.lost(b"p", host.out) == b"a"
    assert host.pool.lost(b"p", host.out) is None

    assert host.pool.worker_of(b"a") is None


def test_idle_process_that_died_serves_nobody() -> None:
    host = Host()
    host.serve("a", "p")
    host.release("p")
    host.lose("p")

    assert host.need("b") == [Start(1)]


def test_process_that_died_while_starting_is_replaced() -> None:
    host = Host()
    host.need("a")
    host.start("p")

    assert host.lose("p") == [Start(1)]


def test_starts_that_fail_in_a_row_are_told_once_and_then_stop() -> None:
    host = Host()
    host.need("a")
    commands: list[Command] = []

    for number in range(START_FAILURES):
        host.start(f"p{number}")
        commands += host.lose(f"p{number}")

    assert commands == [Start(1), Start(1), StartsFailing(3)]


def test_failures_of_processes_that_started_together_are_told_once() -> None:
    host = Host()
    for lease in "abcd":
        host.need(lease)
    host.start("p", "q", "r", "s")
    host.lose("p")
    host.lose("q")

    assert host.lose("r") == [StartsFailing(3)]
    for lease_id in host.pool.waiting():
        host.pool.abandon(lease_id)

    assert host.lose("s") == []


def test_next_lease_after_failed_starts_tries_once_more() -> None:
    host = Host()
    host.need("a")
    for process in "pqr":
        host.start(process)
        host.lose(process)
    host.pool.abandon(b"a")

    assert host.need("b") == [Start(1)]
    assert host.need("c") == []
    host.start("s")
    assert host.lose("s") == [StartsFailing(4)]


def test_trial_after_failed_starts_waits_for_room_at_the_cap() -> None:
    host = Host(cap=1)
    host.serve("a", "p", "one")
    host.release("p")
    host.pool._failures = START_FAILURES

    assert host.need("b", "two") == [Retire(b"p")]

    assert host.lose("p") == [Start(1)]
    host.start("q")
    assert host.lose("q") == [StartsFailing(4)]


def test_success_ends_the_row_of_failures() -> None:
    host = Host()
    host.need("a")
    host.need("b")
    for process in "pqr":
        host.start(process)
        host.lose(process)
    assert host.need("c") == []  # one is still ordered
    host.start("s")

    assert host.register("s") == [assign("a", "s", True), Start(2)]


def test_process_that_could_not_be_made_counts_as_a_failed_start() -> None:
    host = Host()
    host.need("a")

    for _ in range(START_FAILURES):
        host.pool.start_failed(host.out)

    assert host.heard() == [Start(1), Start(1), StartsFailing(3)]


def test_process_that_does_not_register_in_time_is_killed_once() -> None:
    host = Host()
    host.need("a")
    host.start("p")

    host.pool.expire_starts(9.0, 10.0, host.out)
    host.pool.expire_starts(11.0, 10.0, host.out)
    host.pool.expire_starts(12.0, 10.0, host.out)

    assert host.heard() == [Kill(b"p")]
    assert host.lose("p") == [Start(1)]


# --- letting go -------------------------------------------------------------------------------------------


def test_trim_retires_the_longest_idle_down_to_the_target() -> None:
    host = Host(target_idle=1)
    for lease, process in zip("abc", "pqr", strict=True):
        host.serve(lease, process)
    for now, process in enumerate("qrp"):
        host.now = float(now)
        host.release(process)

    host.pool.trim(1.5, 1.0, host.out)
    assert host.heard() == [Retire(b"q")]
    host.pool.trim(100.0, 1.0, host.out)
    assert host.heard() == [Retire(b"r")]
    host.pool.trim(200.0, 1.0, host.out)
    assert host.heard() == []


def test_trim_spares_who_has_others_work_for_it() -> None:
    host = Host(target_idle=0)
    for lease, process in zip("ab", "pq", strict=True):
        host.serve(lease, process)
    for process in "pq":
        host.release(process)

    host.pool.trim(100.0, 1.0, host.out, {b"p"})

    assert host.heard() == [Retire(b"q")]


def test_ended_job_lets_its_idle_processes_go_and_names_its_waiting_leases() -> None:
    host = Host(cap=2)
    host.serve("a", "p", "one")
    host.serve("b", "q", "two")
    host.need("c", "one")
    host.release("q")
    host.heard()

    waiting = host.pool.job_ended(b"one", host.out)

    assert waiting == [b"c"]
    host.pool.job_ended(b"two", host.out)
    assert host.pool.waiting() == []


def test_warm_up_starts_only_what_is_missing() -> None:
    host = Host(target_idle=3, cap=2)
    host.serve("a", "p")
    host.release("p")

    host.pool.warm_up(host.out)
    host.pool.warm_up(host.out)

    assert host.heard() == [Start(1)]


# --- messages out of order ----------------------------------------------------------------------------------


def test_unknown_process_changes_nothing() -> None:
    host = Host()

    assert not host.pool.registered(b"x", 1, 0.0, host.out)
    host.pool.blocked(b"x")
    host.pool.unblocked(b"x")
    host.release("x")

    assert host.pool.serves(b"x") is None
    assert host.heard() == []


def test_idle_process_cannot_block() -> None:
    host = Host()
    host.serve("a", "p")
    host.release("p")

    with pytest.raises(ProtocolError, match=r"pid 100, idle\) cannot be blocked; possible is: assigned"):
        host.pool.blocked(b"p")
