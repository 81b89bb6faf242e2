"""Events on their way to the daemon: appended now, shipped a few times a second.

Called by:  runtime.process, worker.executor.
Imports:    nbray.events, wire.
Never:      blocks work: a full ring loses its oldest events and counts them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nbray.events.ring import EventRing
from nbray.events.schema import TASK
from nbray.wire.messages import EventBatch, Message

PERIOD_S = 0.25
_PER_BATCH = 5_000
_KEPT = 50_000

_time_ns = time.time_ns
_monotonic = time.monotonic


class Recorder:
    """What this process notes about its tasks. All methods: lock held.

    Args:
        tell_daemon: sends a message.
        arm: has ``housekeeping`` called at a time.
    """

    def __init__(
        self, process_id: bytes, tell_daemon: Callable[[Message], None], arm: Callable[[float], None]
    ) -> None:
        self._process_id = process_id
        self._tell_daemon = tell_daemon
        self._arm = arm
        self._ring = EventRing(_KEPT)
        self._due_s: float | None = None

    def task(self, task_id: bytes, state: str, name: str, cell: str) -> None:
        """A task changed its state."""
        self._ring.append((_time_ns() // 1000, TASK, task_id, state, name, cell, None))
        if self._due_s is None:
            self._due_s = _monotonic() + PERIOD_S
            self._arm(self._due_s)

    def housekeeping(self, now_s: float) -> None:
        if self._due_s is not None:
            if now_s >= self._due_s:
                self.ship()
            else:
                self._arm(self._due_s)

    def ship(self) -> None:
        """Send what there is, up to one batch; more follows in time."""
        self._due_s = None
        rows, dropped = self._ring.take(_PER_BATCH)
        if rows or dropped:
            self._tell_daemon(EventBatch(self._process_id, dropped, [list(row) for row in rows]))
        if len(self._ring):
            self._due_s = _monotonic() + PERIOD_S
            self._arm(self._due_s)
