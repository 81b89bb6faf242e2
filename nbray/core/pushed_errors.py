"""The errors of each job, as many as are worth keeping, and when it is too many to tell them one by one.

Called by:  node.pushed_errors; runtime.local, where there is no daemon.
Imports:    nbray.wire.error_messages.
Never:      reads a clock: times arrive as arguments.
"""

from __future__ import annotations

from collections import deque

from nbray.wire.error_messages import ErrorRow

#: Of one job; the oldest go first.
ROWS_MAX = 1000
TEXT_MAX_CHARS = 2 * 1024 * 1024
JOBS_MAX = 8
#: One text; what is longer loses its middle.
MESSAGE_MAX_CHARS = 64 * 1024
#: The driver is told so many a second one by one.
TOLD_PER_S = 50


def shortened(message: str) -> str:
    """A text of at most about ``MESSAGE_MAX_CHARS``: its ends say the most."""
    cut = len(message) - MESSAGE_MAX_CHARS
    if cut <= 0:
        return message
    half = MESSAGE_MAX_CHARS // 2
    return f"{message[:half]}\n... [{cut} characters cut] ...\n{message[-half:]}"


class _OfJob:
    __slots__ = ("rows", "text_chars")

    def __init__(self) -> None:
        self.rows: deque[ErrorRow] = deque()
        self.text_chars = 0


class ErrorLog:
    """Bounded, by number and by length of texts; of many jobs the last ones."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, _OfJob] = {}

    def push(self, job_id: bytes, row: ErrorRow) -> None:
        """Keep one more."""
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = _OfJob()
            if len(self._jobs) > JOBS_MAX:
                del self._jobs[next(iter(self._jobs))]
        job.rows.append(row)
        job.text_chars += len(row.message)
        while len(job.rows) > ROWS_MAX or (job.text_chars > TEXT_MAX_CHARS and len(job.rows) > 1):
            job.text_chars -= len(job.rows.popleft().message)

    def of(self, job_id: bytes) -> list[ErrorRow]:
        """One job's, oldest first."""
        job = self._jobs.get(job_id)
        return [] if job is None else list(job.rows)

    def all(self) -> dict[bytes, list[ErrorRow]]:
        """Those of every job that had one."""
        return {job_id: list(job.rows) for job_id, job in self._jobs.items()}


class Telling:
    """Lets ``TOLD_PER_S`` through in a second and counts the rest."""

    def __init__(self) -> None:
        self._second = -1
        self._told = 0
        self.left_out = 0

    def may_tell(self, now_s: float) -> bool:
        """One more came. False: it is counted among ``left_out``."""
        if int(now_s) != self._second:
            self._second, self._told = int(now_s), 0
        self._told += 1
        if self._told <= TOLD_PER_S:
            return True
        self.left_out += 1
        return False

    def take_left_out(self) -> int:
        """How many were not told since this was asked last."""
        left_out, self.left_out = self.left_out, 0
        return left_out


class PoolSize:
    """Says when there are so many worker processes that people should know: at 3, 4, 5... times the CPUs.

    Args:
        cpus: of the node.
    """

    _FIRST = 3

    def __init__(self, cpus: int) -> None:
        self._cpus = max(1, cpus)
        self._told = self._FIRST - 1

    def grown(self, workers: int) -> str | None:
        """There are so many now. Returns the text, once for each multiple."""
        multiple = workers // self._cpus
        if multiple <= self._told:
            return None
        self._told = multiple
        return (
            f"There are {workers} worker processes on a node with {self._cpus} CPUs: nested tasks wait for "
            "each other, or there are many actors. Each takes memory. Nest less deeply, or make fewer actors."
        )
