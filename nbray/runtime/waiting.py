"""What a thread waits for, and whether it is worth to look for a moment before it sleeps.

Called by:  runtime (loop and all that waits), worker.executor.
Imports:    core.references.
Never:      polls or sleeps by itself: the loop decides who does.
"""

from __future__ import annotations

import contextlib
import threading

from nbray.core.references import Entry

#: A thread that expects an answer looks for so long before it sleeps.
SPIN_S = 50e-6
_CREDIT_MAX = 8
_PROBE_EVERY = 16


class Waiter:
    """Something that a thread waits for. ``remaining`` is the host's count.

    ``spins``: it may come within microseconds, so that a thread that leads looks for a moment before
    it sleeps.
    """

    __slots__ = ("_bed", "done", "parked", "remaining", "spins")

    def __init__(self, remaining: int = 1, spins: bool = False) -> None:
        self.remaining = remaining
        self.spins = spins
        self.done = False
        self.parked = False
        self._bed: threading.Lock | None = None  # held while it may sleep

    def complete(self) -> None:
        self.done = True
        if self._bed is not None:
            self.unpark()

    def recheck(self) -> None:
        """It was completed for another reason than what it waits for. Lock held."""
        self.done = self.remaining <= 0

    def park(self) -> None:
        """It is about to ``sleep``."""
        if self._bed is None:
            self._bed = threading.Lock()
            self._bed.acquire()
        self.parked = True

    def unpark(self) -> None:
        self.parked = False
        with contextlib.suppress(RuntimeError):  # it was not asleep, or was woken twice
            self._bed.release()  # type: ignore[union-attr]  # it was parked before

    def sleep(self, timeout_s: float | None) -> None:
        assert self._bed is not None
        self._bed.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))


class AllOf(Waiter):
    """Waits for all of many, or for the first error among them. It stands at the last that is missing.

    The loop's lock is held in all methods.
    """

    __slots__ = ("_is_broken", "_members", "_missing")

    def __init__(self, pending: list[Entry], spins: bool = False) -> None:
        super().__init__(1, spins=spins)
        self._missing = pending
        self._members: set[Entry] | None = None  # made when the first error asks
        self._is_broken = any(entry.failed for entry in pending)

    def next_missing(self) -> Entry | None:
        """The one to wait for now; None if all are there, or one is an error."""
        missing = self._missing
        while missing and missing[-1].value is not None:
            missing.pop()
        self.done = False
        self.remaining = 1
        return None if self._is_broken or not missing else missing[-1]

    def recheck(self) -> None:
        self.done = self.remaining <= 0 or self._is_broken

    def missing(self) -> list[Entry]:
        """Those that are not there."""
        return [entry for entry in self._missing if entry.value is None]

    def failed(self, entry: Entry) -> None:
        """An object came as an error: is it one of ours?"""
        if self._members is None:
            self._members = set(self._missing)
        if entry in self._members:
            self._is_broken = True
            self.complete()


class Spinning:
    """Whether to look for a moment before sleeping: only as long as that pays.

    Waking a core takes 40 to 60 us, a look 1 us. But who looks takes time from those who work, so after
    some looks in vain there is only one now and then, to see whether it would pay again.
    """

    __slots__ = ("_credit", "_skipped")

    def __init__(self) -> None:
        self._credit = _CREDIT_MAX
        self._skipped = 0

    def is_worth_it(self) -> bool:
        if self._credit > 0:
            return True
        self._skipped += 1
        return not self._skipped % _PROBE_EVERY

    def ended(self, paid: bool) -> None:
        self._credit = min(_CREDIT_MAX, self._credit + 1) if paid else max(0, self._credit - 2)
