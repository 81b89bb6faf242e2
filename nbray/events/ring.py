"""The ring that every process records into, until its next batch leaves for the daemon.

Called by:  runtime, worker, node: any thread appends, one thread takes.
Imports:    nbray.events.schema.
Never:      blocks, locks, or grows beyond its capacity: when it is full the oldest rows go, and are counted.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from nbray.events.schema import Row


class EventRing:
    """Holds the newest ``capacity`` rows.

    Appending costs about 0.1 µs. It is made of two steps that the interpreter cannot divide, a
    deque's ``append`` and a count's ``next``, so neither another thread nor a signal handler nor a
    finalizer that appends in between can lose a number. A lock could not say the same: a finalizer
    may run while its own thread holds it.
    """

    __slots__ = ("_count", "_probes", "_push", "_reported", "_rows", "_taken")

    def __init__(self, capacity: int) -> None:
        """Args: capacity: in rows.

        Raises:
            ValueError: the capacity is below one.
        """
        if capacity < 1:
            raise ValueError(f"An event ring needs a capacity of at least 1 row, not {capacity}.")
        self._rows: deque[Row] = deque(maxlen=capacity)
        self._push = self._rows.append
        self._count = count().__next__
        self._probes = 0  # numbers that take() drew from the count to read it
        self._taken = 0
        self._reported = 0

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: Row) -> None:
        """Record a row; the oldest one goes if the ring is full."""
        self._push(row)
        self._count()

    def take(self, limit: int) -> tuple[list[Row], int]:
        """Remove up to ``limit`` of the oldest rows.

        Returns:
            The rows, oldest first, and how many were dropped since the last call.
        """
        rows: list[Row] = []
        pop = self._rows.popleft
        while len(rows) < limit:
            try:
                rows.append(pop())
            except IndexError:
                break
        self._taken += len(rows)
        return rows, self._newly_dropped()

    def _newly_dropped(self) -> int:
        # The count is read before the length and written after the row: a row that arrives meanwhile
        # can only make the difference too small, which the next call makes good.
        appended = self._count() - self._probes
        self._probes += 1
        dropped = max(0, appended - self._taken - len(self._rows) - self._reported)
        self._reported += dropped
        return dropped
