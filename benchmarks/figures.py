"""What is measured: the names, units, directions and targets of all figures.

Called by:  benchmarks.results, benchmarks.table, benchmarks.report, benchmarks.chart.
Imports:    the standard library.
Never:      measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.workloads import MACHINE

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    key: str
    group: str
    title: str
    unit: str  # of the stored value: s, /s, bytes/s, bytes, x (a ratio), n (a count)
    better: Better
    target: float | None = None
    in_chart: bool = False

    def meets(self, value: float) -> bool | None:
        """Whether a value reaches the target, ratios to two digits after the point; None without a target."""
        if self.target is None:
            return None
        value = round(value, 2) if self.unit == "x" else value
        return value >= self.target if self.better == "higher" else value <= self.target

    def advantage(self, ours: float, theirs: float) -> float | None:
        """How many times better ours is; below 1 it is worse. None where a zero forbids a ratio."""
        if ours <= 0 or theirs <= 0:
            return None
        return ours / theirs if self.better == "higher" else theirs / ours


_MB = 1e6
_GB = 1e9

# fmt: off
FIGURES = (
    Figure("import", "import", "import", "s", "lower", 0.10),
    Figure("start", "start", "cold process to first result", "s", "lower", 0.40, in_chart=True),
    Figure("shutdown", "start", "shutdown until all is gone", "s", "lower", 0.20),
    Figure("idle_memory", "memory", "idle memory, 2 workers", "bytes", "lower", 80 * _MB,
           in_chart=True),
    Figure("idle_processes", "memory", "processes", "n", "lower"),
    Figure("sync_rate", "sync", "sync tasks", "/s", "higher", 15_000, in_chart=True),
    Figure("sync_p50", "sync", "sync task, p50", "s", "lower", 100e-6),
    Figure("sync_p99", "sync", "sync task, p99", "s", "lower"),
    Figure("small_array", "sync", "async tasks with an 8 KB array", "/s", "higher"),
    Figure("async_1k", "async", "async tasks, 1 000", "/s", "higher"),
    Figure("async_10k", "async", "async tasks, 10 000", "/s", "higher", 100_000, in_chart=True),
    Figure("async_100k", "async", "async tasks, 100 000", "/s", "higher"),
    Figure("async_cpu", "async", "CPU of the driver for a task, 10 000", "s", "lower"),
    Figure("async_growth", "async", "cost of a task, 100 000 against 1 000", "x", "lower", 1.3),
    Figure("submission", "submission", "submission alone", "/s", "higher", 150_000, in_chart=True),
    Figure("queued_bytes", "queue", "driver memory per queued task", "bytes", "lower", 1_000),
    Figure("put_10kb", "objects", "put of 10 KB", "/s", "higher", 50_000, in_chart=True),
    Figure("get_10kb", "objects", "get of 10 KB", "/s", "higher", 50_000),
    Figure("args_1000", "objects", "a task with 1 000 references", "s", "lower", 0.015, in_chart=True),
    Figure("put_cold", "store", "put of 100 MB, cold", "bytes/s", "higher"),
    Figure("put_cold_share", "store", "  of the machine's best cold copy", "x", "higher", 0.8),
    Figure("put_warm", "store", "put of 100 MB, warm", "bytes/s", "higher", in_chart=True),
    Figure("put_warm_share", "store", "  of the machine's best warm copy", "x", "higher", 0.9),
    Figure("get_first", "store", "get of 100 MB, first", "s", "lower", 150e-6),
    Figure("get_again", "store", "get of 100 MB, again", "s", "lower", 15e-6),
    Figure("broadcast", "broadcast", "200 MB to 10 tasks, put included", "s", "lower", 0.1, in_chart=True),
    Figure("broadcast_growth", "broadcast", "  memory growth, in arrays", "x", "lower", 1.0),
    Figure("result_100mb", "large", "100 MB result of a task", "bytes/s", "higher", 4 * _GB, in_chart=True),
    Figure("tree_reduce", "large", "tree-reduce of 64 arrays of 8 MB", "s", "lower", in_chart=True),
    Figure("wait_1000", "waits", "wait one by one over 1 000", "s", "lower", 0.10, in_chart=True),
    Figure("get_many", "waits", "get of a list of 10 000 small results", "/s", "higher", 400_000),
    Figure("nested", "graphs", "nested tasks, 20 x 100", "/s", "higher", 20_000, in_chart=True),
    Figure("chain", "graphs", "chain of 1 000 dependent tasks", "s", "lower", 0.10, in_chart=True),
    Figure("depth", "depth", "nested ten deep on one CPU", "s", "lower", 0.3, in_chart=True),
    Figure("efficiency", "efficiency", "share of 2 CPUs that 50 ms tasks get", "x", "higher", 0.95),
    Figure("copy_warm_1", MACHINE, "copy into warm shared memory, 1 thread", "bytes/s", "higher"),
    Figure("copy_warm_2", MACHINE, "copy into warm shared memory, 2 threads", "bytes/s", "higher"),
    Figure("copy_cold_1", MACHINE, "copy into a fresh mapping, 1 thread", "bytes/s", "higher"),
    Figure("copy_cold_2", MACHINE, "copy into a fresh mapping, 2 threads", "bytes/s", "higher"),
    Figure("pwrite_1", MACHINE, "pwrite into a fresh memfd, 1 thread", "bytes/s", "higher"),
    Figure("pwrite_2", MACHINE, "pwrite into a fresh memfd, 2 threads", "bytes/s", "higher"),
    Figure("socket", MACHINE, "unix socket, there and back", "s", "lower"),
    Figure("python", MACHINE, "python -c pass", "s", "lower"),
    Figure("python_numpy", MACHINE, "python -c 'import numpy'", "s", "lower"),
    Figure("fork", MACHINE, "fork and wait for its end", "s", "lower"),
)
# fmt: on

BY_KEY = {figure.key: figure for figure in FIGURES}

#: For the table, the targets in words need no more than their sign.
SIGN = {"higher": "≥", "lower": "≤"}


def text_of(value: float, unit: str) -> str:
    """A value as people read it: three digits and a unit that suits its size."""
    if unit == "x":
        return f"{value:.2f} x"
    if unit == "n":
        return f"{value:.0f}"
    if unit == "s":
        return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))
    if unit == "bytes":
        return _scaled(value, ((_GB, "GB"), (_MB, "MB"), (1e3, "KB"), (1.0, "B")))
    if unit == "bytes/s":
        return _scaled(value, ((_GB, "GB/s"), (_MB, "MB/s")))
    return f"{_three_digits(value)} /s"


def count_text(count: float) -> str:
    """A count with thin groups: 100 000."""
    return f"{count:,.0f}".replace(",", " ")


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    for size, name in scales:
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {name}"
    size, name = scales[-1]
    return f"{_three_digits(value / size)} {name}"


def _three_digits(value: float) -> str:
    if abs(value) >= 99.95:
        size = 10 ** max(0, len(str(int(abs(value)))) - 3)
        return count_text(round(value / size) * size)
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
