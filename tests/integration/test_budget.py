"""What a task, a put and a get cost, counted: the budget of the hot paths, and no clock.

Calls are Python functions entered and C functions called by the thread that submits and gets, or that runs
tasks. They are the same on every machine but for how many answers come together, so medians of a few runs
are asserted with a tenth or two to spare. Whoever makes a path dearer on purpose changes its line here, and
says why in the commit. Microseconds of CPU are shown at the end of the run, and asserted nowhere.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.runtime import bulk_copy, layout, writing
from tests.support.counting import Count
from tests.support.sessions import await_empty_store, await_forgotten, session, this_process

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


def blocked(folder: Path) -> tuple[Any, Callable[[], None]]:
    """A task that keeps the only worker until it is released."""
    go_on = folder / "go on"
    os.mkfifo(go_on)

    @nbray.remote
    def block(path: str) -> None:
        with open(path):
            pass

    def release() -> None:
        with open(go_on, "w"):
            pass

    return block.remote(str(go_on)), release


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
    first, release = blocked(tmp_path)
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
        release()
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


# --- memory ----------------------------------------------------------------------------------------------


def blocks_of(work: Callable[[], object]) -> int:
    """Allocations that are there after it, and were not before."""
    gc.collect()
    before = sys.getallocatedblocks()
    kept = work()
    gc.collect()
    after = sys.getallocatedblocks()
    del kept
    return after - before


def test_queued_task_is_a_dozen_allocations_and_none_is_left_when_it_is_over(tmp_path: Path) -> None:
    first, release = blocked(tmp_path)
    refs: list[Any] = [first]
    queued = blocks_of(lambda: refs.extend(echo.remote(n) for n in range(2_000)))
    release()
    nbray.get(refs)
    refs.clear()
    del first
    await_forgotten()

    def once_more() -> None:
        nbray.get([echo.remote(n) for n in range(2_000)])
        await_forgotten()
        nbray.status()  # ships the events that wait to be shipped

    once_more()
    assert queued / 2_000 <= 13
    assert statistics.median(blocks_of(once_more) for _ in range(RUNS)) / 2_000 <= 0.1


def test_small_value_is_two_allocations_beside_its_bytes() -> None:
    refs: list[Any] = []

    blocks = blocks_of(lambda: refs.extend(nbray.put(n) for n in range(2_000)))

    assert blocks / 2_000 <= 5


# --- copies ----------------------------------------------------------------------------------------------


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pieces that are copied into the store from now on."""
    sizes: list[int] = []

    def copy_into(target: memoryview, source: Any, **options: Any) -> None:
        sizes.append(len(source))
        bulk_copy.copy_into(target, source, **options)

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        written = os.pwrite(fd, data, offset)
        sizes.append(written)
        return written

    monkeypatch.setattr(layout, "copy_into", copy_into)
    monkeypatch.setattr(writing, "os", SimpleNamespace(pwrite=pwrite))
    return sizes


@pytest.mark.parametrize("size_bytes", [200_000, 1_000_000, 40_000_000])
def test_large_array_is_copied_once_by_put_and_never_by_get(copied: list[int], size_bytes: int) -> None:
    array = np.arange(size_bytes // 8, dtype=np.int64)

    for _ in range(2):  # into cold memory, and into warm
        copied.clear()
        ref = nbray.put(array)
        assert size_bytes <= sum(copied) <= size_bytes + 1_000
        assert np.array_equal(nbray.get(ref), array)
        assert nbray.get(echo_size.remote(ref)) == size_bytes
        assert sum(copied) <= size_bytes + 1_000
        del ref
        await_empty_store()


@nbray.remote
def echo_size(array: Any) -> int:
    return int(array.nbytes)


# --- large values ----------------------------------------------------------------------------------------


def test_large_array_is_read_in_place_as_often_as_one_likes() -> None:
    array = np.arange(1_000_000.0)
    ref = nbray.put(array)

    first, again = nbray.get(ref), nbray.get(ref)
    found = costs(counted(lambda: [nbray.get(ref) for _ in range(TASKS)]))

    assert np.shares_memory(first, again)
    assert not first.flags.writeable
    assert_within(found, {"python calls": 30, "C calls": 30, "messages": 0.1})


# --- microseconds, for people ----------------------------------------------------------------------------


@nbray.remote
def cpu_s() -> float:
    return time.process_time()


@pytest.mark.parametrize("path", ["all at once", "one after the other"])
def test_cpu_time_of_a_task_is_shown(path: str, show: Callable[[str], None]) -> None:
    """Not asserted: it says as much of the machine, and of what else runs there, as of us."""
    work = {
        "all at once": lambda: nbray.get([echo.remote(n) for n in range(5_000)]),
        "one after the other": lambda: [nbray.get(echo.remote(n)) for n in range(5_000)],
    }[path]

    before_s, worker_before_s = time.process_time(), nbray.get(cpu_s.remote())
    work()
    owner_s, worker_s = time.process_time() - before_s, nbray.get(cpu_s.remote()) - worker_before_s

    show(
        f"tasks {path}: {owner_s / 5_000 * 1e6:.1f} us of CPU at the owner, "
        f"{worker_s / 5_000 * 1e6:.1f} us at the worker, each (spinning included)"
    )
    assert owner_s > 0
    assert worker_s > 0
