"""Does the running task wait? Its blocking calls and its awaits may overlap: they are counted.

Called by:  worker.executor (makes one), runtime.gets and runtime.awaiting (enter and leave).
Imports:    core.references, runtime.waiting.
Never:      is used in a driver, whose CPUs are nobody's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbray.core.references import Entry
from nbray.runtime.waiting import Waiter


class Wait:
    """A wait of the running task: for what, and what its thread should do meanwhile.

    ``errand`` is set, and the waiter completed, with the loop's lock held; the thread calls it without, and
    waits on. If the wait ends first, ``give_up`` is called with the lock held.
    """

    __slots__ = ("entries", "errand", "give_up", "waiter")

    def __init__(self, entries: list[Entry], waiter: Waiter) -> None:
        self.entries = entries
        self.waiter = waiter
        self.errand: Callable[[], None] | None = None
        self.give_up: Callable[[], None] | None = None


class BlockingCount:
    """Tells when the first of several waits begins and when the last one ends.

    Args:
        told: called with True when the task begins to wait, and with False when it goes on.
    """

    def __init__(self, told: Callable[[bool], None]) -> None:
        self._told = told
        self._depth = 0
        self._lock = threading.Lock()

    def __call__(self, blocking: bool) -> None:
        with self._lock:
            before = self._depth
            self._depth = before + 1 if blocking else max(0, before - 1)
            changed = not before if blocking else before == 1
        if changed:
            self._told(blocking)

    def set_aside(self) -> int:
        """Another task runs on top of the one that waits; returns what ``take_up`` needs."""
        with self._lock:
            left, self._depth = self._depth, 0
        return left

    def take_up(self, left: int) -> None:
        """That one is over."""
        with self._lock:
            self._depth = left

    @property
    def is_waiting(self) -> bool:
        """Whether any wait is under way."""
        return self._depth > 0

    def end(self) -> None:
        """The task is over. Waits that it left unfinished, in an event loop say, are nobody's any more."""
        with self._lock:
            left, self._depth = self._depth, 0
        if left:
            self._told(False)
