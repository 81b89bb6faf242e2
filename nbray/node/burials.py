"""Deaths in their order: a process is buried when everybody who worked for it is gone.

Called by:  node.daemon.
Imports:    the standard library.
Never:      kills anybody.

A worker reads what its owner holds. When the owner dies, its workers are killed; but until they are gone,
what the owner held must stay where it is: they may still read it, and tell others what they read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Burials:
    """Who is dead and waits for whom."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[set[bytes], Callable[[], None]]] = {}

    def begin(self, process_id: bytes, workers: Iterable[bytes], bury: Callable[[], None]) -> None:
        """A process died. ``bury`` is called once, when these workers of it, killed by now, are gone."""
        self._waiting[process_id] = (set(workers), bury)
        self._settle()

    def gone(self, process_id: bytes) -> None:
        """A worker is gone: nobody waits for it any more."""
        for workers, _bury in self._waiting.values():
            workers.discard(process_id)
        self._settle()

    def _settle(self) -> None:
        ready = [process_id for process_id, (workers, _bury) in self._waiting.items() if not workers]
        for process_id in ready:
            _workers, bury = self._waiting.pop(process_id)
            bury()
