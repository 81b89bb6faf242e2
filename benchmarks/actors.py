"""Calls of actors: one after the other, many at once, on one event loop and on threads.

Called by:  ``python -m benchmarks.actors [--rounds 5] [--only nbray]``.
Imports:    nbray or Ray, each in a process of its own.
Never:      measures two at once.

Rows take turns within a round, so that what disturbs the machine for a while disturbs all of them. The first
round of each is left out: it starts the actors. A row is a function of ``ROWS``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ONE_BY_ONE, AT_ONCE, CONCURRENT, THREADS = 1_000, 20_000, 1_000, 8
NAP_S = 0.1


class Plain:
    def echo(self, value: Any) -> Any:
        return value


class Async:
    async def echo(self, value: Any) -> Any:
        return value

    async def nap(self, for_s: float) -> float:
        await asyncio.sleep(for_s)
        return for_s


class Actors:
    """Those that the rows call; made once."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.plain = ray.remote(Plain).remote()
        self.on_loop = ray.remote(Async).options(max_concurrency=CONCURRENT).remote()
        self.threads = ray.remote(Plain).options(max_concurrency=THREADS).remote()


def rate(count: int, work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - started_s)


def one_by_one(ray: Any, actor: Any) -> float:
    def work() -> None:
        for n in range(ONE_BY_ONE):
            assert ray.get(actor.echo.remote(n)) == n, "wrong result"

    return rate(ONE_BY_ONE, work)


def at_once(ray: Any, actor: Any) -> float:
    def work() -> None:
        values = ray.get([actor.echo.remote(n) for n in range(AT_ONCE)])
        assert values == list(range(AT_ONCE)), "wrong results"

    return rate(AT_ONCE, work)


def naps(ray: Any, actor: Any) -> float:
    """How long all take beyond the one nap that each takes, in milliseconds."""
    started_s = time.perf_counter()
    values = ray.get([actor.nap.remote(NAP_S) for _ in range(CONCURRENT)])
    took_s = time.perf_counter() - started_s
    assert values == [NAP_S] * CONCURRENT, "wrong results"
    return (took_s - NAP_S) * 1e3


#: What is measured, by name; and the target, if there is one. Calls a second where the name says no unit.
ROWS: dict[str, Callable[[Actors], float]] = {
    "one actor, one call after the other": lambda a: one_by_one(a.ray, a.plain),
    "one actor, 20 000 calls at once": lambda a: at_once(a.ray, a.plain),
    "asyncio actor, one call after the other": lambda a: one_by_one(a.ray, a.on_loop),
    "asyncio actor, 20 000 calls, 1 000 run at once": lambda a: at_once(a.ray, a.on_loop),
    "asyncio actor, 1 000 naps at once: ms beyond one": lambda a: naps(a.ray, a.on_loop),
    "8 threads, one call after the other": lambda a: one_by_one(a.ray, a.threads),
    "8 threads, 20 000 calls at once": lambda a: at_once(a.ray, a.threads),
}
TARGETS = {"asyncio actor, 20 000 calls, 1 000 run at once": ">= 20000"}


def measure(name: str, rounds: int) -> dict[str, float]:
    """In this process: medians by row."""
    ray = importlib.import_module(name)
    options: dict[str, Any] = {"include_dashboard": False} if name == "ray" else {}
    ray.init(num_cpus=2, log_to_driver=False, **options)
    try:
        actors = Actors(ray)
        found: dict[str, list[float]] = {}
        for turn in range(rounds + 1):
            for row, work in ROWS.items():
                figure = work(actors)
                if turn:
                    found.setdefault(row, []).append(figure)
        return {row: statistics.median(figures) for row, figures in found.items()}
    finally:
        ray.shutdown()


def in_child(name: str, rounds: int) -> dict[str, float] | None:
    """None: this runtime is not installed, or did not manage."""
    command = [sys.executable, "-m", "benchmarks.actors", "--child", name, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
        return None
    found: dict[str, float] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.actors", description=__doc__)
    parser.add_argument("--only", choices=("nbray", "ray"), help="leave the other out")
    parser.add_argument("--rounds", type=int, default=5, help="medians of so many; 5")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.rounds)))
        return
    names = [options.only] if options.only else ["nbray", "ray"]
    found = {name: in_child(name, options.rounds) or {} for name in names}
    print(f"{'calls a second':52}" + "".join(f"{name:>10}" for name in names) + "    target")
    for row in ROWS:
        cells = [found[name].get(row) for name in names]
        texts = "".join(f"{'-' if cell is None else f'{cell:.0f}':>10}" for cell in cells)
        print(f"{row:52}{texts}    {TARGETS.get(row, '')}")


if __name__ == "__main__":
    main()
