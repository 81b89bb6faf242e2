"""What a workload has at hand: the contender, counts that fit, and the sheet that takes its figures.

Called by:  benchmarks.child makes it, benchmarks.workloads use it.
Imports:    light parts of the standard library, benchmarks.adapters.base.
Never:      decides what a figure is worth; that is the parent's part.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, TextIO

from benchmarks import tasks
from benchmarks.adapters.base import Adapter

_QUICK_COUNTS = 20  # --quick divides counts by this
_QUICK_BYTES = 10  # and sizes by this


class WrongResultError(Exception):
    """A workload computed something else than it should have: its time means nothing."""


class CannotError(Exception):
    """This contender cannot do this workload; the text says why."""


class Bench:
    """The surroundings of the workloads of one process."""

    def __init__(self, adapter: Adapter, *, quick: bool, folder: str, sheet: TextIO) -> None:
        self.adapter = adapter
        self.quick = quick
        self.folder = folder
        self._sheet = sheet
        self._noted: set[str] = set()
        self._gates = 0
        self._pace_per_s = 0.0

    def record(self, figure: str, value: float, **about: Any) -> None:
        """Write a figure down; ``about`` says how it was measured (count, size, ...)."""
        self._write({"figure": figure, "value": float(f"{value:.6g}"), "about": about})

    def missing(self, figure: str, reason: str) -> None:
        """This contender cannot have this figure."""
        self._write({"figure": figure, "missing": reason})

    def failed(self, figure: str, reason: str) -> None:
        """It should have this figure, but something went wrong; what it has already, it keeps."""
        if figure not in self._noted:
            self._write({"figure": figure, "failed": reason})

    def _write(self, line: dict[str, Any]) -> None:
        self._noted.add(line["figure"])
        # Line by line: what was measured before a crash is kept.
        self._sheet.write(json.dumps(line) + "\n")
        self._sheet.flush()

    # --- counts ---------------------------------------------------------------------------------------

    def count(self, full: int) -> int:
        """A count that belongs to the workload's name; smaller in a quick run only."""
        return max(2, full // _QUICK_COUNTS) if self.quick else full

    def fitting(self, full: int, per_s: float, share: float = 1.0) -> int:
        """``full``, or as many as this contender does in its share of the time, as a round number."""
        full = self.count(full)
        possible = per_s * self.adapter.budget_s * share
        if full <= possible:
            return full
        step = int("1".ljust(len(str(int(possible))), "0"))
        return max(10, int(possible) // step * step)

    def size(self, full: int) -> int:
        """A number of array elements; smaller in a quick run."""
        return full // _QUICK_BYTES if self.quick else full

    def repeats(self, full: int) -> int:
        return 1 if self.quick else full

    def pace_per_s(self) -> float:
        """Roughly how many small tasks this contender finishes in a second, submitted all at once."""
        if not self._pace_per_s:
            echo = self.adapter.task(tasks.echo)
            for count in (20, 200):
                began_s = time.perf_counter()
                self.adapter.get_all([echo(i) for i in range(count)])
                took_s = time.perf_counter() - began_s
                self._pace_per_s = count / took_s
                if took_s > 0.5:
                    break
        return self._pace_per_s

    # --- ways to run ----------------------------------------------------------------------------------

    def use_workers(self, workers: int) -> None:
        """Have each worker run a task, so that all are there and have their code."""
        if workers == 1:
            verify(self.adapter.get(self.adapter.task(tasks.echo)(1)) == 1, "the first task")
            return
        verify(len(set(self.both(tasks.meet))) == 2, "two workers")

    def both(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run ``function(*arguments, path, writes)`` on both workers: each waits for the other one."""
        path = self.gate()
        submit = self.adapter.task(function)
        return self.adapter.get_all([submit(*arguments, path, True), submit(*arguments, path, False)])

    def gate(self) -> str:
        """The path of a new FIFO."""
        self._gates += 1
        path = os.path.join(self.folder, f"gate{self._gates}")
        os.mkfifo(path)
        return path

    def block(self, workers: int) -> Callable[[], None]:
        """Occupy all workers with tasks that sit in the kernel; returns what lets them go."""
        paths = [self.gate() for _ in range(workers)]
        submit = self.adapter.task(tasks.blocked)
        handles = [submit(path) for path in paths]
        # Opening for writing returns when the task has opened its end.
        gates = [os.open(path, os.O_WRONLY) for path in paths]

        def release() -> None:
            for gate in gates:
                os.close(gate)
            verify(self.adapter.get_all(handles) == [0] * workers, "blocked tasks")

        return release


def verify(holds: bool, what: str) -> None:
    """Wrong results are no results."""
    if not holds:
        raise WrongResultError(f"wrong result: {what}")


def median(values: list[float]) -> float:
    """The middle one (``statistics`` would cost the start-up figures its import)."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
