"""Values: small and large ones put, got, handed to tasks and returned by them.

Called by:  benchmarks.child.
Imports:    benchmarks.bench, benchmarks.tasks; NumPy for the arrays.
Never:      times the check of a value together with its way.
"""

from __future__ import annotations

import gc
import itertools
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
