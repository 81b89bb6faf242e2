"""Workers that make no progress: stopped by a signal, or hung so that nothing in them answers.

Called by:  node.watching, about once a second while tasks run.
Imports:    the standard library.
Never:      reads a clock or /proc (what was read arrives as an argument); doubts a task that computes.

Three facts tell a hang from work: the kernel says that the process sleeps, it used next to no core since the
last look, and its I/O thread does not answer. A task that computes uses a core, one that sleeps or waits lets
the I/O thread answer. Time counts only as far as the one who looks was awake: a machine that slept accuses
nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: A worker that is stopped for so long is worth a line, and one that does not answer.
STOPPED_AFTER_S = 4.0
HUNG_AFTER_S = 6.0
#: Told again when it is this many times as old, and at least that much older.
_AGAIN_FACTOR = 3.0
_AGAIN_MIN_S = 20.0
_AGAIN_MAX_S = 600.0
#: More than this between two looks was no time of ours.
_LOOK_MAX_S = 2.5

#: Threads that wait for Python's lock look for it 200 times a second: that much of a core is no work.
_IDLE_SHARE = 0.03

_STOPPED_STATES = "Tt"
_ASLEEP_STATES = "SD"


class Look(NamedTuple):
    """A worker that has a lease, as /proc shows it: the letter of its state, and its CPU time."""

    process_id: bytes
    state: str
    cpu_s: float


class Ask(NamedTuple):
    """Ask this process something that its I/O thread answers."""

    process_id: bytes


class Stopped(NamedTuple):
    """It is stopped, for so long."""

    process_id: bytes
    state: str
    age_s: float


class Hung(NamedTuple):
    """It neither answers nor uses a core, for so long."""

    process_id: bytes
    state: str
    age_s: float


class GoesOn(NamedTuple):
    """One that was told of goes on, after so long, or is dead."""

    process_id: bytes
    age_s: float


Command = Ask | Stopped | Hung | GoesOn


class _Worker:
    __slots__ = ("again_s", "asked", "cpu_s", "hung_s", "stopped_s")

    def __init__(self, cpu_s: float) -> None:
        self.cpu_s = cpu_s
        self.stopped_s = 0.0
        self.hung_s = 0.0
        self.asked = False
        self.again_s = 0.0  # told, and to be told again at this age; 0: not told

    def age_s(self) -> float:
        return max(self.stopped_s, self.hung_s)


class Progress:
    """What was seen of each worker that has a lease."""

    def __init__(self) -> None:
        self._workers: dict[bytes, _Worker] = {}
        self._last_s: float | None = None

    def look(self, now_s: float, looks: Iterable[Look], out: list[Command]) -> None:
        """How the workers are now; those that are left out have no lease any more."""
        passed_s = 0.0 if self._last_s is None else min(max(0.0, now_s - self._last_s), _LOOK_MAX_S)
        self._last_s = now_s
        before, self._workers = self._workers, {}
        for look in looks:
            worker = before.get(look.process_id)
            if worker is None:
                self._workers[look.process_id] = _Worker(look.cpu_s)
            else:
                self._workers[look.process_id] = worker
                self._judge(worker, look, passed_s, out)
        for process_id in before.keys() - self._workers.keys():  # it is done, or dead
            self._fine(before[process_id], process_id, out)

    def answered(self, process_id: bytes, out: list[Command]) -> None:
        """Its I/O thread answered."""
        worker = self._workers.get(process_id)
        if worker is not None:
            worker.asked = False
            if not worker.stopped_s:
                self._fine(worker, process_id, out)

    def forget_time(self) -> None:
        """Nobody will look for a while: what passes until the next look does not count."""
        self._last_s = None

    def _judge(self, worker: _Worker, look: Look, passed_s: float, out: list[Command]) -> None:
        moved, worker.cpu_s = look.cpu_s - worker.cpu_s > passed_s * _IDLE_SHARE, look.cpu_s
        if look.state in _STOPPED_STATES:
            worker.stopped_s += passed_s
            worker.asked, worker.hung_s = False, 0.0
            if self._is_due(worker, STOPPED_AFTER_S):
                out.append(Stopped(look.process_id, look.state, worker.stopped_s))
            return
        if worker.stopped_s or moved or look.state not in _ASLEEP_STATES:
            worker.asked = False
            self._fine(worker, look.process_id, out)
        elif not worker.asked:
            worker.asked, worker.hung_s = True, 0.0
            out.append(Ask(look.process_id))
        else:
            worker.hung_s += passed_s
            if self._is_due(worker, HUNG_AFTER_S):
                out.append(Hung(look.process_id, look.state, worker.hung_s))

    @staticmethod
    def _is_due(worker: _Worker, first_s: float) -> bool:
        age_s = worker.age_s()
        if age_s < (worker.again_s or first_s):
            return False
        worker.again_s = age_s + min(_AGAIN_MAX_S, max(_AGAIN_MIN_S, age_s * (_AGAIN_FACTOR - 1)))
        return True

    @staticmethod
    def _fine(worker: _Worker, process_id: bytes, out: list[Command]) -> None:
        if worker.again_s:
            out.append(GoesOn(process_id, worker.age_s()))
        worker.stopped_s = worker.hung_s = worker.again_s = 0.0
