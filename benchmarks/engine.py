"""How fast the engine is: start-up, sync and async tasks, beside ``concurrent.futures``.

Called by:  `make bench`, people.
Imports:    nbray, the standard library.
Never:      is a test: the machine's other work moves every figure, so compare ratios of one run.

Every round runs each contender in a fresh process, one after the other; the figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

SYNC_TASKS = 1_000
ASYNC_TASKS = 10_000
WORKERS = 2


def echo(value: int) -> int:
    """The smallest task that cannot be mistaken for another's result."""
    return value


def measure_nbray() -> dict[str, float]:
    """One process with a session of two workers."""
    began_s = time.perf_counter()
    import nbray as ray

    imported_s = time.perf_counter()
    ray.init(num_cpus=WORKERS)
    ready_s = time.perf_counter()
    remote_echo = ray.remote(echo)
    ray.get(remote_echo.remote(0))
    first_s = time.perf_counter()
    figures = {
        "import_s": imported_s - began_s,
        "init_s": ready_s - imported_s,
        "start_to_first_result_s": first_s - began_s,
        **rates(
            lambda n: [ray.get(remote_echo.remote(i)) for i in range(n)],
            lambda n: ray.get([remote_echo.remote(i) for i in range(n)]),
        ),
    }
    stopping_s = time.perf_counter()
    ray.shutdown()
    return {**figures, "shutdown_s": time.perf_counter() - stopping_s}


def measure_pool() -> dict[str, float]:
    """The standard library's process pool, two workers."""
    began_s = time.perf_counter()
    with ProcessPoolExecutor(WORKERS) as pool:
        ready_s = time.perf_counter()
        pool.submit(echo, 0).result()
        first_s = time.perf_counter()
        figures = {
            "init_s": ready_s - began_s,
            "start_to_first_result_s": first_s - began_s,
            **rates(
                lambda n: [pool.submit(echo, i).result() for i in range(n)],
                lambda n: [f.result() for f in [pool.submit(echo, i) for i in range(n)]],
            ),
        }
        stopping_s = time.perf_counter()
    return {**figures, "shutdown_s": time.perf_counter() - stopping_s}


def rates(
    one_by_one: Callable[[int], list[int]], all_at_once: Callable[[int], list[int]]
) -> dict[str, float]:
    """Tasks per second, after a warm-up; wrong results are no results."""
    all_at_once(SYNC_TASKS)
    result = {}
    for name, run, count in (
        ("sync_per_s", one_by_one, SYNC_TASKS),
        ("async_per_s", all_at_once, ASYNC_TASKS),
    ):
        began_s = time.perf_counter()
        if run(count) != list(range(count)):
            raise SystemExit(f"{name}: wrong results")
        result[name] = count / (time.perf_counter() - began_s)
    return result


CONTENDERS: dict[str, Callable[[], dict[str, float]]] = {
    "nbray": measure_nbray,
    "concurrent.futures": measure_pool,
}


def in_fresh_process(name: str) -> dict[str, float]:
    answer = subprocess.run(
        [sys.executable, __file__, "--one", name], capture_output=True, text=True, timeout=120, check=False
    )
    if answer.returncode:
        raise SystemExit(f"{name} failed:\n{answer.stderr}")
    figures: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return figures


def table(medians: dict[str, dict[str, float]]) -> str:
    """Rows of figures, a column for each contender, and the ratio."""
    lines = [f"{'figure':26}" + "".join(f"{name:>20}" for name in medians) + f"{'ratio':>10}"]
    ours, theirs = medians["nbray"], medians["concurrent.futures"]
    for figure in ours:
        cells = "".join(f"{m[figure]:20,.3f}" if figure in m else f"{'-':>20}" for m in medians.values())
        ratio = f"{ours[figure] / theirs[figure]:9.2f}x" if theirs.get(figure) else ""
        lines.append(f"{figure:26}{cells}{ratio:>10}")
    return "\n".join(lines)


def main() -> None:
    """Interleave the contenders for some rounds and print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per contender (default 3)")
    parser.add_argument("--json", action="store_true", help="print all rounds as JSON instead of a table")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(CONTENDERS[options.one]()))
        return
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS:
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
            rounds[name].append(in_fresh_process(name))
    medians: dict[str, dict[str, Any]] = {
        name: {figure: statistics.median(one[figure] for one in each) for figure in each[0]}
        for name, each in rounds.items()
    }
    print(json.dumps(rounds, indent=1) if options.json else table(medians))


if __name__ == "__main__":
    main()
