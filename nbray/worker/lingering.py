"""Threads that a task left behind: a worker where some go on for long takes no more tasks.

Called by:  worker.executor.
Imports:    the standard library.
Never:      waits for a thread, or minds daemonic ones: these are meant to be left.
"""

from __future__ import annotations

import _thread
import threading
import time

#: A thread that goes on for so long after its task is not about to end.
LINGER_S = 1.0
#: Not counted by ``_thread`` is the main thread, counted is the one that reads sockets.
OWN_THREADS = 1

count_threads = _thread._count  # noqa: SLF001  (threading.active_count takes a lock; this reads a number)


class Lingering:
    """Of one worker."""

    def __init__(self) -> None:
        self.since_s: float | None = None  # when threads were seen that a task had left

    def look(self) -> None:
        """A task is over, and there is time to look."""
        if count_threads() > OWN_THREADS and _left_threads():
            if self.since_s is None:
                self.since_s = time.monotonic()
        else:
            self.since_s = None

    def sooner(self, deadline_s: float | None) -> float | None:
        """When to look again, or that deadline if it comes before; None if neither is."""
        if self.since_s is None:
            return deadline_s
        own_s = self.since_s + LINGER_S
        return own_s if deadline_s is None else min(own_s, deadline_s)

    def is_too_long(self) -> bool:
        """Some have gone on for ``LINGER_S``."""
        if self.since_s is None:
            return False
        self.look()
        deadline_s = self.sooner(None)
        return deadline_s is not None and time.monotonic() >= deadline_s


def _left_threads() -> bool:
    main = threading.main_thread()
    return any(not thread.daemon and thread is not main for thread in threading.enumerate())
