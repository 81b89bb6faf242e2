"""Memory runs out: which task's worker goes, and when tasks may begin again.

Called by:  node.memory_watch, some times a second while tasks run.
Imports:    the standard library.
Never:      reads a clock or a file: what was read arrives as an argument.

Above the mark, first what the store can give back at once goes. Then an actor that holds more than its
``memory=`` allows, then whoever loses least (``Loss``), and among equals the one that began last, so that the
oldest gets done in the end. One that holds next to nothing is let alone: its end would free nothing. The next
goes only when the last is gone and the memory is still not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

#: Tasks begin when the memory in use is so much (a share of it all) below the mark.
EASED_BELOW = 0.05
#: ... or after this long: what fills the memory may be none of ours.
PATIENCE_S = 30.0
#: One that was ended waits for as much memory as it had, while others run, but no longer than this.
ROOM_PATIENCE_S = 600.0
#: How long the end of a killed process may take before another one goes.
DYING_S = 1.5
#: How often to look: as a rule, above the mark, and at most, when memory fills up fast.
LOOK_MAX_S, LOOK_NEAR_S, LOOK_MIN_S = 0.25, 0.05, 0.01
#: Who holds less than this share of what the largest holds is not worth it.
_MATTERS_SHARE = 0.1


class Level(NamedTuple):
    """The machine, or one cgroup: what is in use, without what the kernel would drop first, and the limit."""

    where: str
    used_bytes: int
    limit_bytes: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes > 0 else 0.0


class Loss(IntEnum):
    """What is lost with a worker; the least first."""

    TIME = 0  # a task that will run again
    STATE = 1  # an actor that will be made again
    RESULT = 2  # a task that may not run again
    ACTOR = 3  # one that will not be made again, and all that calls it fails


class Candidate(NamedTuple):
    """A worker that has a lease. ``began_s``: when its task did, in seconds of any fixed origin."""

    process_id: bytes
    began_s: float
    loss: Loss
    private_bytes: int  # of it and its children, what nobody shares with them
    over_quota: bool = False


def fullest(levels: Iterable[Level]) -> Level:
    """The level that is nearest to its limit."""
    return max(levels, key=lambda level: level.share)


def choose(candidates: Iterable[Candidate]) -> Candidate | None:
    """Whose worker is to go; None if there is none."""
    known = list(candidates)
    most = max((candidate.private_bytes for candidate in known), default=0)
    worth = [c for c in known if c.private_bytes >= most * _MATTERS_SHARE]
    return max(worth, key=_rank, default=None)


def _rank(candidate: Candidate) -> tuple[bool, int, float, bytes]:
    return candidate.over_quota, -candidate.loss, candidate.began_s, candidate.process_id


def next_look_s(before: Iterable[Level], now: Iterable[Level], passed_s: float, threshold: float) -> float:
    """How soon to look again, in seconds: in half the time in which a mark would be reached like this."""
    used = {level.where: level.used_bytes for level in before}
    pause_s = LOOK_MAX_S
    for level in now:
        room_bytes = threshold * level.limit_bytes - level.used_bytes
        grown_bytes = level.used_bytes - used.get(level.where, level.used_bytes)
        if room_bytes <= 0:
            pause_s = min(pause_s, LOOK_NEAR_S)
        elif grown_bytes > 0:
            pause_s = min(pause_s, max(LOOK_MIN_S, room_bytes / grown_bytes * passed_s / 2))
    return pause_s


class Give(NamedTuple):
    """Give back what can be had without ending anybody. If that is nothing, look again at once."""


class End(NamedTuple):
    """End one: ``choose`` among those that run."""


class Ease(NamedTuple):
    """There is memory again: what was held back may begin."""


class Room(NamedTuple):
    """There is room for those that were ended: they may begin again."""


Command = Give | End | Ease | Room


class MemoryWatch:
    """Decides at each look what is to be done.

    Args:
        threshold: the mark, as a share of the limit; at 1 nobody is ever ended.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        #: Somebody was ended, or should have been, and the memory is not there yet.
        self.is_pressed = False
        self._gave = False
        self._since_s = 0.0
        self._dying: dict[bytes, float] = {}
        self._needed_bytes: int | None = None  # by the largest of those that wait to begin again

    @property
    def is_awaited(self) -> bool:
        """Whether anything depends on the next looks."""
        return self.is_pressed or self._needed_bytes is not None

    def look(self, now_s: float, level: Level, runs: bool, out: list[Command]) -> None:
        """The fullest level, now; ``runs``: tasks do."""
        self._dying = {who: until_s for who, until_s in self._dying.items() if until_s > now_s}
        if level.share > self.threshold:
            if not self._gave:
                self._gave = True
                out.append(Give())
            elif not self._dying:
                self.is_pressed = True
                self._since_s = now_s
                out.append(End())
            return
        self._gave = False
        if self._dying:
            return
        waited_s = now_s - self._since_s
        eased = level.share <= self.threshold - EASED_BELOW or waited_s >= PATIENCE_S
        if self.is_pressed and eased:
            self.is_pressed = False
            out.append(Ease())
        if self._needed_bytes is not None and eased:
            fits = level.used_bytes + self._needed_bytes <= self.threshold * level.limit_bytes
            if fits or not runs or waited_s >= ROOM_PATIENCE_S:
                self._needed_bytes = None
                out.append(Room())

    def ended(self, process_id: bytes, private_bytes: int, now_s: float) -> None:
        """It is being killed, and had so much."""
        self._dying[process_id] = now_s + DYING_S
        self._needed_bytes = max(self._needed_bytes or 0, private_bytes)

    def gone(self, process_id: bytes) -> None:
        """It is dead and reaped."""
        self._dying.pop(process_id, None)

    def killed_by_kernel(self, now_s: float) -> None:
        """The kernel was faster: whoever wants to begin waits all the same."""
        self.is_pressed = True
        self._needed_bytes = self._needed_bytes or 0
        self._since_s = now_s
