"""Lines before results: what a task printed is shown before ``get`` returns its value.

Called by:  runtime.process.
Imports:    runtime.loop.
Never:      holds a result back for longer than a moment: lines are not worth a hang.

Lines come by way of the daemon, results straight from the worker. An answer says how many batches
of lines its worker has sent so far; until those are here, and for a quarter of a second at most, ``get``
waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nbray.runtime.loop import Loop
from nbray.runtime.waiting import Waiter
from nbray.wire.messages import LogLines

_WAIT_S = 0.25


class LogOrder:
    """Compares the lines that arrived with those that answers spoke of.

    Args:
        show: called (without locks) with each batch of lines; None shows nothing.
    """

    def __init__(self, loop: Loop, show: Callable[[LogLines], None] | None) -> None:
        self._loop = loop
        self._show = show
        self._due: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}
        self._waiter: Waiter | None = None

    def due(self, process_id: bytes, sequence: int) -> None:
        """An answer followed this many batches of its worker. Lock held."""
        if self._show is not None:
            self._due[process_id] = sequence

    def arrived(self, message: LogLines) -> None:
        """Lock held."""
        if message.sequence:  # lines of C code have none
            self._seen[message.process_id] = message.sequence
        if self._show is not None:
            show = self._show
            self._loop.later.append(lambda: show(message))
        if self._waiter is not None and not self._missing():
            self._waiter.complete()

    def _missing(self) -> bool:
        return any(self._seen.get(process_id, 0) < sequence for process_id, sequence in self._due.items())

    def settle(self) -> None:
        """Wait for the lines that belong before what has been answered."""
        if not self._due:
            return
        with self._loop.guard:
            waiter = Waiter()
            with self._loop.lock:
                missing = self._missing()
                self._waiter = waiter if missing else None
            if missing:
                self._loop.wait(waiter, time.monotonic() + _WAIT_S)
            with self._loop.lock:
                self._waiter = None
                self._due.clear()
            self._loop.run_later()
