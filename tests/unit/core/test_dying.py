"""Leases whose worker closed the connection: how long the last task ran, and when to ask."""

from __future__ import annotations

from nbray.core.dying import CAUSE_DEADLINE_S, CAUSE_LATE_S, Dying
from nbray.core.leases import Lease


def lease_of_a_task_since(head_since_s: float) -> Lease:
    lease = Lease(b"lease", ())
    lease.head_since_s = head_since_s
    return lease


def test_a_task_ran_until_the_connection_closed_however_late_the_cause_comes() -> None:
    dying, lease = Dying(), lease_of_a_task_since(10.0)
    dying.closed(lease, 10.5)

    assert dying.buried(lease, 13.0) == 0.5
    assert lease.lease_id not in dying


def test_a_task_ran_until_the_cause_came_when_that_was_first() -> None:
    assert Dying().buried(lease_of_a_task_since(10.0), 10.25) == 0.25


def test_a_cause_that_is_late_is_asked_for_once_and_given_up_in_the_end() -> None:
    dying, lease = Dying(), lease_of_a_task_since(0.0)
    dying.closed(lease, 1.0)

    assert dying.late(1.0 + CAUSE_LATE_S / 2) == []
    assert dying.late(1.0 + CAUSE_LATE_S) == [lease]
    assert dying.late(2.0) == []
    assert dying.given_up(2.0) == []
    assert dying.given_up(1.0 + CAUSE_DEADLINE_S) == [lease]

    dying.buried(lease, 12.0)
    assert not dying
    assert dying.given_up(100.0) == []
