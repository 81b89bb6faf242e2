"""What a task, a put and a get cost, counted: the budget of the hot paths, and no clock.

Calls are Python functions entered and C functions called by the thread that submits and gets, or that runs
tasks. They are the same on every machine but for how many answers come together, so medians of a few runs
are asserted with a tenth or two to spare. Whoever makes a path dearer on purpose changes its line here, and
says why in the commit. ``python -m benchmarks`` measures microseconds.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.counting import Count
from tests.support.sessions import session, this_process

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

TASKS = 500
RUNS = 5


@nbray.remote
def echo(value: Any) -> Any:
    return value


@nbray.remote
def start_counting() -> None:
    """In the worker, whose only thread that runs tasks is this one."""
    import builtins

    from tests.support.counting import Count

    builtins.counting = Count()  # type: ignore[attr-defined]  # the next task finds it there
    builtins.counting.start()  # type: ignore[attr-defined]


@nbray.remote
def stop_counting() -> Count:
    import builtins

    count: Count = builtins.counting  # type: ignore[attr-defined]
    count.stop()
    return count


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=1):
        nbray.get([echo.remote(n) for n in range(2_000)])  # the worker is known to be quick
        yield


def counted(work: Callable[[], object]) -> list[Count]:
    counts = []
    for _ in range(RUNS):
        count = Count()
        count.start()
        try:
            work()
        finally:
            count.stop()
        counts.append(count)
    return counts


def median(counts: list[Count], figure: Callable[[Count], int], per: int = TASKS) -> float:
    return statistics.median(figure(count) for count in counts) / per


def costs(counts: list[Count]) -> dict[str, float]:
    """Per task or value."""
    return {
        "python calls": median(counts, lambda c: c.python),
        "C calls": median(counts, lambda c: c.c),
        "system calls": median(counts, lambda c: c.system_calls()),
        "messages": median(counts, lambda c: c.names["encode"] + c.names["decode"]),
    }


def assert_within(found: dict[str, float], budget: dict[str, float]) -> None:
    over = {name: (found[name], most) for name, most in budget.items() if found[name] > most}
    assert not over, f"over budget, as (found, budget): {over}; all: {found}"


# --- the owner -------------------------------------------------------------------------------------------


def test_many_tasks_at_once_cost_the_owner_few_calls_and_hardly_a_message() -> None:
    found = costs(counted(lambda: nbray.get([echo.remote(n) for n in range(TASKS)])))

    assert_within(found, {"python calls": 34, "C calls": 40, "system calls": 0.5, "messages": 0.3})


def test_one_task_after_the_other_costs_the_owner_one_message_each_way() -> None:
    found = costs(counted(lambda: [nbray.get(echo.remote(n)) for n in range(TASKS)]))

    assert_within(found, {"python calls": 100, "C calls": 120, "system calls": 3.6, "messages": 2.2})


def test_small_value_is_put_and_read_without_a_system_call() -> None:
    value = b"x" * 10_000

    put = costs(counted(lambda: [nbray.put(value) for _ in range(TASKS)]))
    ref = nbray.put(value)
    get = costs(counted(lambda: [nbray.get(ref) for _ in range(TASKS)]))

    assert_within(put, {"python calls": 24, "C calls": 20, "system calls": 0, "messages": 0})
    assert_within(get, {"python calls": 8, "C calls": 4, "system calls": 0, "messages": 0})


def test_list_of_ready_values_costs_two_calls_each() -> None:
    refs = [echo.remote(n) for n in range(TASKS)]
    nbray.wait(refs, num_returns=TASKS)

    found = costs(counted(lambda: nbray.get(refs)))

    assert_within(found, {"python calls": 2.2, "C calls": 1.2, "system calls": 0, "messages": 0})


def test_waiting_for_one_of_many_does_not_cost_a_call_for_each() -> None:
    refs = [nbray.put(n) for n in range(TASKS)]

    found = costs(counted(lambda: nbray.wait(refs)))

    assert_within(found, {"python calls": 0.1, "C calls": 0.1, "system calls": 0})


def test_queued_task_takes_less_than_a_kilobyte_of_the_owner(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    os.mkfifo(go_on)

    @nbray.remote
    def block(path: str) -> None:
        with open(path):
            pass

    first = block.remote(str(go_on))
    with this_process().loop.lock:  # the events of what came before are not this test's
        this_process().recorder.ship()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        refs = [echo.remote(n) for n in range(4_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        with open(go_on, "w"):
            pass
    nbray.get([first, *refs])

    assert (after - before) / len(refs) <= 1_000


# --- the worker ------------------------------------------------------------------------------------------


def in_the_worker(work: Callable[[], object]) -> dict[str, float]:
    counts = []
    for _ in range(RUNS):
        nbray.get(start_counting.remote())
        work()
        counts.append(nbray.get(stop_counting.remote()))
    return costs(counts)


def test_many_tasks_at_once_cost_the_worker_few_calls_and_hardly_a_message() -> None:
    found = in_the_worker(lambda: nbray.get([echo.remote(n) for n in range(TASKS)]))

    assert_within(found, {"python calls": 25, "C calls": 40, "system calls": 0.5, "messages": 0.3})


def test_one_task_after_the_other_costs_the_worker_one_message_each_way() -> None:
    found = in_the_worker(lambda: [nbray.get(echo.remote(n)) for n in range(TASKS)])

    assert_within(found, {"python calls": 70, "C calls": 110, "system calls": 3.6, "messages": 2.2})


# --- large values ----------------------------------------------------------------------------------------


def test_large_array_is_read_in_place_as_often_as_one_likes() -> None:
    array = np.arange(1_000_000.0)
    ref = nbray.put(array)

    first, again = nbray.get(ref), nbray.get(ref)
    found = costs(counted(lambda: [nbray.get(ref) for _ in range(TASKS)]))

    assert np.shares_memory(first, again)
    assert not first.flags.writeable
    assert_within(found, {"python calls": 30, "C calls": 30, "messages": 0.1})


def test_monitoring_does_not_take_a_thread() -> None:
    """Nothing of this counts calls of other threads: there is one more, and it sleeps."""
    assert [t.name for t in threading.enumerate() if t.name.startswith("nbray")] == ["nbray-io"]
