"""Does the running task wait? Its blocking calls and its awaits may overlap: they are counted.

Called by:  worker.executor (makes one), runtime.process and runtime.awaiting (enter and leave).
Imports:    the standard library.
Never:      is used in a driver, whose CPUs are nobody's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


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
