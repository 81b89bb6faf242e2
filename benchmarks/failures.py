"""What a failure costs: from the call to the typed error, and from there to the next task's result.

Called by:  ``python -m benchmarks.failures [--rounds 15] [--only nbray]``.
Imports:    nbray or Ray, each in a process of its own.
Never:      measures two at once.

Rows take turns within a round, so that what disturbs the machine for a while disturbs all of them. The
first round of each is left out: it exports the functions.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def _segv() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def _abort() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(7)


def _overflow() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    sys.setrecursionlimit(10**9)
    json.dumps(deep)


def _raise() -> None:
    raise ValueError("an ordinary failure")


CRASHES: dict[str, Callable[[], None]] = {
    "SIGSEGV": _segv, "abort": _abort, "SIGKILL": _kill, "_exit(7)": _exit, "stack overflow": _overflow,
}  # fmt: skip
RETRIES = (0, 3)
#: Milliseconds: median and worst of the error without retries, worst with three, p99 of the next task.
TARGETS = {
    "error, no retries": (50.0, 500.0),
    "error, three retries": (500.0, 500.0),
    "next task": (50.0, 50.0),
}


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """In this process: milliseconds by row."""
    ray = importlib.import_module(name)
    options: dict[str, Any] = {"include_dashboard": False} if name == "ray" else {}
    ray.init(num_cpus=2, log_to_driver=False, logging_level="critical", **options)
    try:
        return _rows(ray, rounds)
    finally:
        ray.shutdown()


def _rows(ray: Any, rounds: int) -> dict[str, list[float]]:
    @ray.remote  # type: ignore[untyped-decorator]  # of one runtime or the other
    def double(n: int) -> int:
        return 2 * n

    found: dict[str, list[float]] = {}
    tasks = {
        (kind, retries): ray.remote(max_retries=retries)(body)
        for kind, body in {**CRASHES, "ValueError": _raise}.items()
        for retries in RETRIES
    }
    for turn in range(rounds + 1):
        for (kind, retries), task in tasks.items():
            started_s = time.perf_counter()
            try:
                ray.get(task.remote())
            except (ray.exceptions.RayError, ValueError):
                failed_s = time.perf_counter()
            assert ray.get(double.remote(4)) == 8
            next_s = time.perf_counter()
            if turn:
                found.setdefault(f"{kind}, {retries} retries", []).append((failed_s - started_s) * 1e3)
                found.setdefault(f"{kind}, {retries} retries: next", []).append((next_s - failed_s) * 1e3)
    return found


def in_child(name: str, rounds: int) -> dict[str, list[float]] | None:
    """None: this runtime is not installed, or did not manage."""
    command = [sys.executable, "-m", "benchmarks.failures", "--child", name, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
        return None
    found: dict[str, list[float]] = json.loads(lines[-1])
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)]


def table(name: str, found: dict[str, list[float]]) -> None:
    print(f"\n{name + ', milliseconds':36}{'median':>9}{'worst':>9}{'next task':>12}{'its p99':>9}")
    for row, values in found.items():
        if not row.endswith(": next"):
            following = found[f"{row}: next"]
            print(
                f"{row:36}{statistics.median(values):9.1f}{max(values):9.1f}"
                f"{statistics.median(following):12.1f}{p99(following):9.1f}"
            )
    crashes = {row: values for row, values in found.items() if not row.startswith("ValueError")}
    sums = {
        "error, no retries": [
            v for row, values in crashes.items() if row.endswith(" 0 retries") for v in values
        ],
        "error, three retries": [
            v for row, values in crashes.items() if row.endswith(" 3 retries") for v in values
        ],
        "next task": [v for row, values in crashes.items() if row.endswith(": next") for v in values],
    }
    for key, values in sums.items():
        median_target, worst_target = TARGETS[key]
        worst, word = (p99(values), "p99") if key == "next task" else (max(values), "worst")
        print(
            f"all crashes, {key:23}{statistics.median(values):9.1f}{worst:9.1f}   "
            f"target: median <= {median_target:g}, {word} <= {worst_target:g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failures", description=__doc__)
    parser.add_argument("--only", choices=("nbray", "ray"), help="leave the other out")
    parser.add_argument("--rounds", type=int, default=15, help="of every row; 15")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.rounds)))
        return
    for name in [options.only] if options.only else ["nbray", "ray"]:
        found = in_child(name, options.rounds)
        if found is not None:
            table(name, found)


if __name__ == "__main__":
    main()
