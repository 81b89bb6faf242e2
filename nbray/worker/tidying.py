"""Garbage that keeps objects: what a task left in cycles is collected, soon, and not at the tasks' cost.

Called by:  worker.executor, when a task kept something and when there is nothing to do.
Imports:    gc; runtime.process.
Never:      collects while the process holds nothing, or holds the loop's lock (finalizers are user code).

A list that contains itself, a class, an exception that a frame of its own traceback holds: such garbage
waits for Python's collector, and an idle worker allocates nothing that would call it. References and views
in there would keep their objects for ever.
"""

from __future__ import annotations

import gc
import time

from nbray.core.references import Entry
from nbray.runtime.process import Process

#: A worker that holds objects and was idle for so long collects; what tasks keep on purpose makes it rarer.
_IDLE_S = 0.1
_IDLE_MAX_S = 30.0
#: What a task made is in the young generations, unless it made a lot: a fraction of a millisecond.
_YOUNG = 1


class Tidying:
    """The collections of one worker."""

    def __init__(self, process: Process) -> None:
        self._objects = process.objects
        self._loop = process.loop
        self._idle_s = _IDLE_S

    def let_go(self, borrowed: list[Entry]) -> None:
        """A task is over: it holds its arguments no more, nor what only its garbage held."""
        objects = self._objects
        with self._loop.lock:
            objects.drain()
            objects.release_arguments([entry.object_id for entry in borrowed])
            keeps = any(self._keeps(entry) for entry in (*borrowed, *objects.table.fresh))
        if keeps:
            gc.collect(_YOUNG)
            with self._loop.lock:
                objects.drain()

    def keep(self, borrowed: list[Entry]) -> tuple[dict[bytes, Entry], bool]:
        """After ``let_go``: what the task keeps of its arguments, and whether the daemon must be asked.

        Lock held. References that it keeps are told as holds. What is returned is to be pinned before the
        answer, by ``PinObjects``; where the daemon may not have read of the holds, that is asked also for
        nothing, and its answer says that it has.
        """
        table = self._objects.table
        known = table.entries
        # By ID: one that was given twice is pinned once, since it is unpinned once. What nothing holds but
        # another call that runs here, and has the same argument, is safe until that one is over.
        kept = {e.object_id: e for e in borrowed if not e.pinned and e.object_id in known and _outlives(e)}
        self._objects.say_fresh()
        must_ask = table.unconfirmed or bool(kept)
        table.unconfirmed = False
        return kept, must_ask

    def _keeps(self, entry: Entry) -> bool:
        return not entry.pinned and _outlives(entry) and self._objects.is_alive(entry)

    def deadline_s(self) -> float | None:
        """When to collect, if there is nothing to do until then; None if nothing is held."""
        return time.monotonic() + self._idle_s if self._objects.table.entries else None

    def collect(self) -> None:
        """There is nothing to do: look at all garbage."""
        before = self._held()
        if not before:
            return
        gc.collect()
        self._idle_s = _IDLE_S if self._held() < before else min(2 * self._idle_s, _IDLE_MAX_S)

    def _held(self) -> int:
        """How many objects this process holds."""
        with self._loop.guard, self._loop.lock:
            self._objects.drain()
            return sum(entry.held for entry in self._objects.table.entries.values())


def _outlives(entry: Entry) -> bool:
    """Whether something else than calls that run holds it."""
    return bool(entry.handles or entry.views or entry.kept)
