"""Events on their way to the daemon: appended now, shipped a few times a second.

Called by:  runtime.process, runtime.submitter, worker.executor.
Imports:    core.tasks, nbray.events, wire.
Never:      blocks work: a full ring loses its oldest events and counts them.

Every row costs each process on its way a microsecond, and nobody looks at ten thousand a second. So a task
that runs here and is over before the next batch leaves is one row, not two: its last one, which says how
long it ran. And when a batch has a thousand rows, what else happens to short tasks is only counted:
sums stay right. A row on which a state of now depends (who runs, and that it runs no more) is always sent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from nbray.core.tasks import TaskSpec
from nbray.events.ring import EventRing
from nbray.events.schema import ONCE, RAN_US, TASK
from nbray.wire.base import Message
from nbray.wire.messages import EventBatch

PERIOD_S = 0.25
_PER_BATCH = 1_000
_KEPT = 50_000

_time_ns = time.time_ns
_monotonic = time.monotonic


class Named(Protocol):
    """What people call a task."""

    @property
    def name(self) -> str: ...
    @property
    def cell(self) -> str: ...


class Recorder:
    """What this process notes about its tasks.

    Args:
        lock: the loop's.
        tell_daemon: sends a message.
        arm: has ``housekeeping`` called at a time.
    """

    def __init__(
        self,
        process_id: bytes,
        lock: threading.Lock,
        tell_daemon: Callable[[Message], None],
        arm: Callable[[float], None],
    ) -> None:
        self.process_id = process_id
        self._lock = lock
        self._tell_daemon = tell_daemon
        self._arm = arm
        self._ring = EventRing(_KEPT)
        self._append = self._ring.append
        self._due_s: float | None = None
        #: (when, ID, what it is called) of what runs and was not reported: one thread or another pops it.
        self._begun: list[tuple[int, bytes, Named]] = []
        self._reported: tuple[int, bytes, Named]
        #: The same of calls that overlap, by their IDs; and those that were reported.
        self._begun_calls: dict[bytes, tuple[int, bytes, Named]] = {}
        self._reported_calls: dict[bytes, Named] = {}
        self._room = _PER_BATCH  # rows that the next batch still takes of short tasks
        self._to_count: list[TaskSpec] = []
        self._folded_runs: dict[tuple[str, str], int] = {}  # each of these ran, too
        self._folded: dict[tuple[str, str], int] = {}
        #: Set by workers: whether what runs here has no other attempt.
        self.is_last_attempt: Callable[[], bool] = lambda: False

    def submitted(self, task_id: bytes, spec: TaskSpec) -> None:
        """A task of ours begins its life; every task comes here. Lock held."""
        if self._room > 0:
            self.task(task_id, "submitted", spec)
            return
        if not spec.uncounted:
            self._to_count.append(spec)
        spec.uncounted += 1

    def task(self, task_id: bytes, state: str, named: Named) -> None:
        """A task of ours changed its state. Lock held."""
        if self._room <= 0 and state == "cancelled":  # by the hundred thousand, at once
            key = (named.name, state)
            self._folded[key] = self._folded.get(key, 0) + 1
            if self._due_s is None:
                self._plan()
            return
        self._room -= 1
        self._append((_time_ns() // 1000, TASK, task_id, state, named.name, named.cell, None))
        if self._due_s is None:
            self._plan()

    def begin(self, task_id: bytes, named: Named) -> None:
        """A task starts to run here, in the one thread that runs tasks."""
        self._begun.append((_time_ns(), task_id, named))
        if self._due_s is None:
            with self._lock:
                self._plan()

    def began_ns(self) -> int:
        """When the task that runs here began (``time.time_ns``); 0 if none ever did."""
        try:
            return self._begun[-1][0]
        except IndexError:
            return self._reported[0] if hasattr(self, "_reported") else 0

    def end(self, state: str) -> None:
        """The task that began last is over."""
        try:
            began = self._begun.pop()
        except IndexError:  # it was reported as running
            _began_ns, task_id, named = self._reported
            self._note_end(_time_ns() // 1000, task_id, state, named, None)
            return
        self._end(began, state)

    def begin_call(self, task_id: bytes, named: Named) -> None:
        """A call starts to run here, while others do."""
        self._begun_calls[task_id] = (_time_ns(), task_id, named)
        if self._due_s is None:
            with self._lock:
                self._plan()

    def end_call(self, task_id: bytes, state: str) -> None:
        """That call is over."""
        began = self._begun_calls.pop(task_id, None)
        if began is not None:
            self._end(began, state)
            return
        with self._lock:  # ``ship``, in another thread, may be about to report it
            named = self._reported_calls.pop(task_id)
        self._note_end(_time_ns() // 1000, task_id, state, named, None)

    def _end(self, began: tuple[int, bytes, Named], state: str) -> None:
        began_ns, task_id, named = began
        if self._room > 0:
            now_ns = _time_ns()
            detail = {RAN_US: (now_ns - began_ns) // 1000}
            self._note_end(now_ns // 1000, task_id, state, named, detail)
        else:
            key = (named.name, state)
            with self._lock:  # ``ship``, in another thread, takes the counts away
                self._folded_runs[key] = self._folded_runs.get(key, 0) + 1

    def set_aside(self) -> tuple[Any, ...]:
        """Another task runs on top of the one that runs here; returns what ``take_up`` needs."""
        with self._lock:
            if self._begun:
                self._report_what_runs()
            return (self._reported,)

    def take_up(self, aside: tuple[Any, ...]) -> None:
        """That one is over."""
        with self._lock:
            (self._reported,) = aside

    def _note_end(
        self, now_us: int, task_id: bytes, state: str, named: Named, detail: dict[str, int] | None
    ) -> None:
        self._room -= 1
        self._append((now_us, TASK, task_id, state, named.name, named.cell, detail))
        if self._due_s is None:
            with self._lock:
                self._plan()

    def _plan(self) -> None:
        self._due_s = _monotonic() + PERIOD_S
        self._arm(self._due_s)

    def housekeeping(self, now_s: float) -> None:
        """Lock held."""
        if self._due_s is not None:
            if now_s >= self._due_s:
                self.ship()
            else:
                self._arm(self._due_s)

    def ship(self) -> None:
        """Send what there is. Lock held."""
        self._due_s = None
        if self._begun:
            self._report_what_runs()
        if self._begun_calls:
            self._report_calls()
        rows, dropped = self._ring.take(_KEPT)
        self._room = _PER_BATCH
        folded = self._take_counts()
        if rows or dropped or folded:
            self._tell_daemon(EventBatch(self.process_id, dropped, folded, [list(row) for row in rows]))

    def _take_counts(self) -> list[tuple[str, str, int]]:
        """What was counted since the last time, as (name, state, number)."""
        found = []
        specs, self._to_count = self._to_count, []
        for spec in specs:
            found.append((spec.name, "submitted", spec.uncounted))
            spec.uncounted = 0
        unrun, self._folded = self._folded, {}
        found += [(name, state, number) for (name, state), number in unrun.items()]
        runs, self._folded_runs = self._folded_runs, {}
        for (name, state), number in runs.items():
            found += [(name, state, number), (name, "running", number)]
        return found

    def _report_what_runs(self) -> None:
        try:
            began = self._begun.pop()
        except IndexError:  # it ended this moment
            return
        self._reported = began
        began_ns, task_id, named = began
        detail = {ONCE: True} if self.is_last_attempt() else None
        self._append((began_ns // 1000, TASK, task_id, "running", named.name, named.cell, detail))

    def _report_calls(self) -> None:
        while self._begun_calls:
            try:
                task_id, (began_ns, _task_id, named) = self._begun_calls.popitem()
            except KeyError:  # it ended this moment
                return
            self._reported_calls[task_id] = named
            self._append((began_ns // 1000, TASK, task_id, "running", named.name, named.cell, None))
