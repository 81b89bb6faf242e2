"""Tasks that kill every worker they come to, as soon as they start: trying again is of no use.

Called by:  runtime.submitter, when a worker died.
Imports:    nothing.
Never:      judges by a signal that others send: SIGKILL may be the system's, for want of memory.
"""

from __future__ import annotations

from collections.abc import Collection

#: A crash that comes so soon after the start of its task comes again.
QUICK_S = 0.1
_REMEMBERED_MAX = 256


class Poison:
    """How tasks crashed last. Bounded: only those that are tried again matter.

    Args:
        crash_signals: by which a program ends because of what it did itself.
    """

    def __init__(self, crash_signals: Collection[int]) -> None:
        self._crash_signals = crash_signals
        self._last: dict[bytes, int] = {}

    def is_found_in(self, task_id: bytes, term_signal: int, ran_s: float) -> bool:
        """A worker died of ``term_signal``, so long after the task began. True: the same happened before."""
        before = self._last.pop(task_id, 0)
        if term_signal not in self._crash_signals or ran_s > QUICK_S:
            return False
        self._last[task_id] = term_signal
        if len(self._last) > _REMEMBERED_MAX:
            del self._last[next(iter(self._last))]
        return term_signal == before
