"""Trees and chains of tasks that wait for each other, deeper than there are processes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.procfs import children
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"
CAP = 4 * 1 + 16
DEEP = CAP + 5  # levels of which the last ones find no process
DEADLINE_S = 60


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=1):
        yield


def workers() -> list[int]:
    daemon = nbray.status().to_dict()["processes"]["daemon"]
    return [process.pid for process in children(daemon) if process.name == "nbray-worker"]


@pytest.fixture
def below() -> Callable[..., Any]:
    """Runs a function at the bottom of a chain of tasks that all wait, on top of another one."""

    @nbray.remote
    def step(levels: int, function: Any, *args: Any) -> Any:
        if levels:
            return nbray.get(step.remote(levels - 1, function, *args))
        return function(*args)

    def run(function: Any, *args: Any, timeout: float = DEADLINE_S) -> Any:
        return nbray.get(step.remote(DEEP, function, *args), timeout=timeout)

    return run


# Functions that tasks run are defined inside of functions, so that they travel by value: else each of twenty
# workers would import this module, and pytest with it.


@pytest.fixture
def depth() -> Any:
    @nbray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + int(nbray.get(depth.remote(n - 1)))

    return depth


def test_chain_of_a_hundred_ends_on_one_cpu_with_no_more_processes_than_the_cap(depth: Any) -> None:
    assert nbray.get(depth.remote(100), timeout=DEADLINE_S) == 100
    assert len(workers()) <= CAP


def test_tree_of_tasks_ends_on_one_cpu_with_no_more_processes_than_the_cap() -> None:
    @nbray.remote
    def tree(n: int) -> int:
        return 1 if n == 0 else sum(nbray.get([tree.remote(n - 1) for _ in range(3)]))

    assert nbray.get(tree.remote(5), timeout=DEADLINE_S) == 3**5
    assert len(workers()) <= CAP


@pytest.mark.slow
def test_tree_of_ten_thousand_tasks_ends_with_no_more_processes_than_the_cap() -> None:
    @nbray.remote
    def tree(n: int) -> int:
        return 1 if n == 0 else sum(nbray.get([tree.remote(n - 1) for _ in range(3)]))

    assert nbray.get(tree.remote(8), timeout=300) == 3**8
    assert len(workers()) <= CAP


def test_a_task_at_the_cap_runs_in_the_process_that_waits_for_it(below: Callable[..., Any]) -> None:
    @nbray.remote
    def pid() -> int:
        return os.getpid()

    def mine_and_childs() -> tuple[int, int]:
        return os.getpid(), nbray.get(pid.remote())

    mine, childs = below(mine_and_childs)
    assert mine == childs

    mine, childs = nbray.get(nbray.remote(mine_and_childs).remote(), timeout=DEADLINE_S)
    assert mine != childs, "below the cap it has its own"


def test_all_ways_to_wait_end_at_the_cap(below: Callable[..., Any], depth: Any) -> None:
    def many() -> int:
        return sum(nbray.get([depth.remote(n) for n in range(4)]))

    def one_after_the_other() -> int:
        refs, total = [depth.remote(n) for n in range(4)], 0
        while refs:
            (ready,), refs = nbray.wait(refs)
            total += int(nbray.get(ready))
        return total

    def all_at_once() -> int:
        refs = [depth.remote(n) for n in range(4)]
        ready, rest = nbray.wait(refs, num_returns=4)
        return int(sum(nbray.get(ready))) + 100 * len(rest)

    def with_a_deadline() -> int:
        refs = [depth.remote(n) for n in range(4)]
        while nbray.wait(refs, num_returns=4, timeout=0.05)[1]:
            pass
        return sum(nbray.get(refs, timeout=5))

    def by_arguments() -> int:
        return int(nbray.get(add.remote(add.remote(1, 1), add.remote(2, depth.remote(2)))))

    def in_an_event_loop() -> int:
        async def main() -> int:
            return sum(await asyncio.gather(*(depth.remote(n) for n in range(4))))

        return asyncio.run(main())

    @nbray.remote
    def add(a: int, b: int) -> int:
        return a + b

    for way in (many, one_after_the_other, all_at_once, with_a_deadline, by_arguments, in_an_event_loop):
        assert below(way) == 6, way.__name__


def test_results_of_all_kinds_come_up_from_a_task_on_top(below: Callable[..., Any]) -> None:
    @nbray.remote(num_returns=3)
    def make(array: np.ndarray[Any, Any], inner: list[Any]) -> tuple[Any, Any, Any]:
        array_sum = float(array.sum())
        return np.full(300_000, array_sum), [nbray.put("small"), inner[0]], {"pid": os.getpid()}

    def use() -> Any:
        large = nbray.put(np.ones(300_000))
        refs = make.remote(large, [nbray.put("given")])
        array, inner, facts = nbray.get(refs)
        del refs, large
        return float(array.sum()), nbray.get(inner), facts["pid"] == os.getpid()

    assert below(use) == (300_000.0 * 300_000, ["small", "given"], True)


def test_errors_come_up_from_a_task_on_top_and_exit_ends_only_that_task(below: Callable[..., Any]) -> None:
    @nbray.remote
    def fail() -> None:
        raise KeyError("below")

    @nbray.remote
    def leave() -> None:
        sys.exit(3)

    @nbray.remote
    def recurse(n: int) -> int:
        def again(n: int) -> int:
            return n and 1 + again(n - 1)

        return again(n)

    def use() -> list[str]:
        found = []
        for function in (fail, leave):
            try:
                nbray.get(function.remote())
            except KeyError as exc:
                found.append(type(exc).__name__)
            except nbray.RayWorkerError as exc:
                found.append(f"exit {exc.exit_code}")
        return found

    assert below(use) == ["RayTaskError(KeyError)", "exit 3"]
    assert below(lambda: nbray.get(recurse.remote(800))) == 800, "it has a recursion limit of its own"


def test_tasks_on_top_have_names_ids_and_counts_of_their_own(below: Callable[..., Any]) -> None:
    @nbray.remote
    def twig() -> int:
        return os.getpid()

    @nbray.remote
    def branch() -> list[int]:
        return nbray.get([twig.remote() for _ in range(2)])

    def use() -> int:
        refs = [branch.remote() for _ in range(3)]
        assert nbray.get(refs) == [[os.getpid()] * 2] * 3
        return len({ref.hex() for ref in [*refs, twig.remote(), nbray.put(1)]})

    assert below(use) == 5

    def counts() -> list[tuple[int, ...]]:
        by_name = nbray.status().to_dict()["functions"]
        states = ("submitted", "running", "finished", "failed")
        return [tuple(by_name.get(name, {}).get(s, 0) for s in states) for name in ("branch", "twig")]

    until(lambda: counts() == [(3, 3, 3, 0), (7, 7, 7, 0)], "every task was counted once")


# --- cancels at the cap -------------------------------------------------------------------------------


def cancel_when(mark: Path, ref: Any) -> threading.Thread:
    """In a thread of a process whose main thread waits."""

    def cancel() -> None:
        while not mark.exists():
            time.sleep(0.001)
        nbray.cancel(ref)

    thread = threading.Thread(target=cancel)
    thread.start()
    return thread


def test_task_on_top_is_cancelled_alone(below: Callable[..., Any], folder: Path) -> None:
    @nbray.remote
    def sleep() -> None:
        (folder / "runs").write_text(str(os.getpid()))
        time.sleep(60)

    def use() -> tuple[str, bool]:
        ref = sleep.remote()
        thread = cancel_when(folder / "runs", ref)
        try:
            nbray.get(ref)
        except nbray.RayCancellationError:
            return "cancelled", (folder / "runs").read_text() == str(os.getpid())
        finally:
            thread.join()
        return "went on", False

    assert below(use) == ("cancelled", True)


def test_task_below_is_interrupted_when_the_one_on_top_of_it_is_over(
    below: Callable[..., Any], folder: Path
) -> None:
    @nbray.remote
    def top() -> int:
        (folder / "runs").touch()
        time.sleep(0.1)
        (folder / "whole").touch()
        return os.getpid()

    @nbray.remote
    def middle() -> str:
        ref = top.remote()
        try:
            nbray.get(ref)
        except KeyboardInterrupt:
            return f"interrupted {nbray.get(ref) == os.getpid()}"
        return "went on"

    def use() -> str:
        ref = middle.remote()
        thread = cancel_when(folder / "runs", ref)
        try:
            return str(nbray.get(ref))
        finally:
            thread.join()

    assert below(use) == "interrupted True"
    assert (folder / "whole").exists()
