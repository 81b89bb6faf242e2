"""Attempts that run for longer than their task allows: their worker is ended, and they run again or fail.

Called by:  runtime.submitter, with the loop's lock held, some times a second while leases are out.
Imports:    core.leases, wire.
Never:      counts time in which this process itself did not run: a machine that slept ends nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core.leases import LeasePool, LeaseState
from nbray.wire.base import Message
from nbray.wire.waiting_messages import BY_TIMEOUT, EndAttempt

#: A longer pause between two looks was no time of ours.
_PAUSE_MAX_S = 1.0


class TimeLimits:
    """Of the tasks of one owner. ``are_used``: some of them have one."""

    def __init__(self, pool: LeasePool, tell_daemon: Callable[[Message], None]) -> None:
        self.are_used = False
        self._pool = pool
        self._tell_daemon = tell_daemon
        self._last_s: float | None = None
        self._lost_s = 0.0  # time in which we did not run, all together
        #: By lease: (task, attempt) that runs, ``_lost_s`` when it was first seen, whether it was ended.
        self._seen: dict[bytes, tuple[tuple[bytes, int], float, bool]] = {}

    def check(self, now_s: float) -> None:
        """End the attempts whose time is over."""
        if not self.are_used:
            return
        if self._last_s is not None and now_s - self._last_s > _PAUSE_MAX_S and self._seen:
            self._lost_s += now_s - self._last_s
        self._last_s = now_s
        before, self._seen = self._seen, {}
        for lease in self._pool.by_id.values():
            if not lease.inflight or lease.state is LeaseState.REQUESTED:
                continue
            task = lease.inflight[0]
            limit_s = task.spec.timeout_s
            if not limit_s:
                continue
            attempt = (task.task_id, task.attempt)
            seen = before.get(lease.lease_id)
            lost_s, is_ended = (seen[1], seen[2]) if seen and seen[0] == attempt else (self._lost_s, False)
            if not is_ended and now_s - lease.head_since_s - (self._lost_s - lost_s) > limit_s:
                is_ended = True
                self._tell_daemon(EndAttempt(lease.lease_id, BY_TIMEOUT, {"limit_s": limit_s}))
            self._seen[lease.lease_id] = (attempt, lost_s, is_ended)
