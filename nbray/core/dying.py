"""Leases whose worker closed the connection: dead, as a rule, and the node's daemon will tell how.

Called by:  runtime.submitter.
Imports:    core.leases.
Never:      reads a clock (times arrive as arguments, in seconds).
"""

from __future__ import annotations

from nbray.core.leases import Lease

#: How long the cause of a worker's death may take to arrive after its socket closed.
CAUSE_DEADLINE_S = 10.0
#: After so long its worker may well be alive, and has closed the socket.
CAUSE_LATE_S = 0.1


class Dying:
    """Those that were closed and whose cause is still to come."""

    def __init__(self) -> None:
        self._closed: dict[bytes, tuple[Lease, float]] = {}
        self._asked: set[bytes] = set()  # of these

    def __len__(self) -> int:
        return len(self._closed)

    def __contains__(self, lease_id: bytes) -> bool:
        return lease_id in self._closed

    def closed(self, lease: Lease, now_s: float) -> None:
        """Its worker is gone, it seems. Look again in ``CAUSE_LATE_S``."""
        self._closed[lease.lease_id] = (lease, now_s)

    def buried(self, lease: Lease, now_s: float) -> float:
        """The cause is known, or never will be. Returns how long its last task had run, in seconds."""
        self._asked.discard(lease.lease_id)
        _, closed_s = self._closed.pop(lease.lease_id, (lease, now_s))
        return closed_s - lease.head_since_s

    def given_up(self, now_s: float) -> list[Lease]:
        """Those whose cause does not come."""
        return [lease for lease, closed_s in self._closed.values() if now_s >= closed_s + CAUSE_DEADLINE_S]

    def late(self, now_s: float) -> list[Lease]:
        """Those whose worker the daemon should look at; each is named once."""
        late = [
            lease
            for lease, closed_s in self._closed.values()
            if now_s >= closed_s + CAUSE_LATE_S and lease.lease_id not in self._asked
        ]
        self._asked.update(lease.lease_id for lease in late)
        return late
