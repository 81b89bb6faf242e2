"""Values: small and large ones put, got, handed to tasks and returned by them.

Called by:  benchmarks.child.
Imports:    benchmarks.bench, benchmarks.tasks; NumPy for the arrays.
Never:      times the check of a value together with its way.
"""

from __future__ import annotations

import gc
import itertools
import os
import time
from typing import Any

from benchmarks import processes, tasks
from benchmarks.adapters.base import PUT, REFS
from benchmarks.bench import Bench, median, verify
from benchmarks.workloads import workload

_10_KB = 10_000
_8_MB, _100_MB, _200_MB = 1_000_000, 12_500_000, 25_000_000  # in float64 elements


@workload("objects", "put_10kb", "get_10kb", needs=(PUT,))
def small_values(bench: Bench) -> None:
    """``put`` of 10 KB again and again, then ``get`` of each."""
    put, get = bench.adapter.put, bench.adapter.get
    contents = [bytes([n]) * _10_KB for n in range(64)]
    began_s = time.perf_counter()
    warm = [get(put(content)) for content in contents[:20]]
    per_s = 20 / (time.perf_counter() - began_s)
    verify(warm == contents[:20], "values that were put")
    count = bench.fitting(10_000, per_s)
    values = list(itertools.islice(itertools.cycle(contents), count))
    began_s = time.perf_counter()
    handles = [put(value) for value in values]
    put_s = time.perf_counter()
    found = [get(handle) for handle in handles]
    got_s = time.perf_counter()
    verify(found == values, "values that were put")
    bench.record("put_10kb", count / (put_s - began_s), count=count, size_bytes=_10_KB)
    bench.record("get_10kb", count / (got_s - put_s), count=count, size_bytes=_10_KB)


@workload("objects", "args_1000", needs=(PUT, REFS))
def a_thousand_references(bench: Bench) -> None:
    """One task whose arguments are 1 000 references to small values."""
    total = bench.adapter.task(tasks.total_of_arguments)
    count = bench.count(1_000)
    handles = [bench.adapter.put(i) for i in range(count)]
    times_s = []
    for _ in range(bench.repeats(5)):
        began_s = time.perf_counter()
        value = bench.adapter.get(total(*handles))
        times_s.append(time.perf_counter() - began_s)
        verify(value == sum(range(count)), "sum of the arguments")
    bench.record("args_1000", median(times_s), count=count, repeats=len(times_s))


@workload(
    "store",
    "put_cold",
    "put_cold_share",
    "put_warm",
    "put_warm_share",
    "get_first",
    "get_again",
    needs=(PUT,),
)
def one_large_array(bench: Bench) -> None:
    """The first large put of a session, its reading, and later puts once earlier arrays were let go of."""
    import numpy as np

    from benchmarks.workloads import copies

    put, get = bench.adapter.put, bench.adapter.get
    source = np.arange(bench.size(_100_MB), dtype=np.float64)
    size_bytes = source.nbytes
    # Before the put, so that its cold pages, too, are ones that the machine has had in hand.
    best_cold, best_warm = copies.best_cold(source), copies.best_warm(source)

    cold_s, handle = _timed(put, source)
    first_s, array = _timed(get, handle)
    again_s = median([_timed(get, handle)[0] for _ in range(5)])
    verify(np.array_equal(array, source), "the array that was put")
    del array

    times_s = []
    for n in range(bench.repeats(5)):
        del handle
        gc.collect()
        time.sleep(copies.PAUSE_S)  # also for those who free in the background
        source[n] = -1.0
        took_s, handle = _timed(put, source)
        times_s.append(took_s)
        verify(np.array_equal(get(handle), source), "the array that was put again")
    bench.record("get_first", first_s, size_bytes=size_bytes)
    bench.record("get_again", again_s, size_bytes=size_bytes, repeats=5)

    cold, warm = size_bytes / cold_s, size_bytes / median(times_s)
    bench.record("put_cold", cold, size_bytes=size_bytes)
    bench.record("put_cold_share", cold / best_cold, best_copy_bytes_per_s=best_cold)
    bench.record("put_warm", warm, size_bytes=size_bytes, repeats=len(times_s))
    bench.record("put_warm_share", warm / best_warm, best_copy_bytes_per_s=best_warm)


def _timed(function: Any, argument: Any) -> tuple[float, Any]:
    began_s = time.perf_counter()
    value = function(argument)
    return time.perf_counter() - began_s, value


@workload("broadcast", "broadcast", "broadcast_growth")
def broadcast(bench: Bench) -> None:
    """One array to ten tasks that look at its ends; then to two that keep it while memory is looked at."""
    import numpy as np

    look = bench.adapter.task(tasks.ends_of_array)
    source = np.arange(bench.size(_200_MB), dtype=np.float64)
    verify(bench.both(tasks.with_numpy) == [True, True], "NumPy in both workers")
    gc.collect()
    before_bytes, before_shared_bytes = _memory()

    began_s = time.perf_counter()
    shared = bench.adapter.share(source)
    put_s = time.perf_counter()
    values = bench.adapter.get_all([look(shared) for _ in range(10)])
    ended_s = time.perf_counter()

    # Memory is looked at while both workers have the array in hand: a pool's copies are there only then.
    hold, paths = bench.adapter.task(tasks.held), [bench.gate(), bench.gate()]
    handles = [hold(shared, path) for path in paths]
    gates = [os.open(path, os.O_WRONLY) for path in paths]  # returns when the task has opened its end
    after_bytes, after_shared_bytes = _memory()
    for gate in gates:
        os.close(gate)
    values += bench.adapter.get_all(handles)
    verify(values == [(source.size, 0.0, float(source.size - 1))] * 12, "the array that the tasks saw")
    # Pages of shared memory that nobody has mapped are in no PSS, but in the machine's count.
    grown_bytes = max(
        after_bytes["Pss_Shmem"] - before_bytes["Pss_Shmem"], after_shared_bytes - before_shared_bytes
    )
    grown_bytes += sum(after_bytes[part] - before_bytes[part] for part in ("Pss_Anon", "Pss_File"))
    bench.record("broadcast", ended_s - began_s, size_bytes=source.nbytes, tasks=10, put_s=put_s - began_s)
    bench.record("broadcast_growth", max(0.0, grown_bytes / source.nbytes), grown_bytes=grown_bytes)


def _memory() -> tuple[dict[str, int], int]:
    """PSS of all processes of the session, driver included, by kind; and the machine's shared memory."""
    pids = [os.getpid(), *(p.pid for p in processes.contenders_own())]
    parts = {part: processes.total_pss_bytes(pids, part) for part in ("Pss_Anon", "Pss_File", "Pss_Shmem")}
    return parts, processes.shared_memory_bytes()


@workload("large", "result_100mb")
def large_result(bench: Bench) -> None:
    """A task returns an array that its worker holds already; the driver reads it."""
    import numpy as np

    count = bench.size(_100_MB)
    bench.both(tasks.big_array, count)  # both workers have it now
    make = bench.adapter.task(tasks.big_array)
    times_s = []
    for _ in range(bench.repeats(6)):
        took_s, array = _timed(bench.adapter.get, make(count))
        times_s.append(took_s)
        verify(np.array_equal(array, np.arange(count, dtype=np.float64)), "the array that came back")
        del array
        gc.collect()
    # The first one meets cold memory; what a program sees again and again is the rest.
    warm_s = median(times_s[1:] or times_s)
    bench.record(
        "result_100mb", count * 8 / warm_s, size_bytes=count * 8, repeats=len(times_s), first_s=times_s[0]
    )


@workload("large", "tree_reduce", needs=(REFS,))
def tree_reduce(bench: Bench) -> None:
    """64 arrays made by tasks, added in pairs by tasks until one is left."""
    fill, add = bench.adapter.task(tasks.filled_array), bench.adapter.task(tasks.added)
    leaves, count = 64, bench.size(_8_MB)
    bench.adapter.get(add(fill(10, 1.0), fill(10, 2.0)))
    times_s = []
    for _ in range(bench.repeats(3)):
        began_s = time.perf_counter()
        handles = [fill(count, float(n)) for n in range(leaves)]
        while len(handles) > 1:
            handles = [add(left, right) for left, right in zip(handles[::2], handles[1::2], strict=True)]
        array = bench.adapter.get(handles[0])
        times_s.append(time.perf_counter() - began_s)
        verify(array.shape == (count,) and bool((array == sum(range(leaves))).all()), "the sum of the arrays")
        del array, handles
        gc.collect()
    bench.record("tree_reduce", median(times_s), leaves=leaves, size_bytes=count * 8, repeats=len(times_s))
