"""Tasks that depend on tasks, tasks that start tasks, waiting for whichever is ready.

Called by:  benchmarks.child.
Imports:    benchmarks.bench, benchmarks.tasks.
Never:      lets a result go unchecked.
"""

from __future__ import annotations

import time

from benchmarks import tasks
from benchmarks.adapters.base import NESTED, REFS
from benchmarks.bench import Bench, median, verify
from benchmarks.workloads import workload

_TASK_CPU_S = 0.05


@workload("waits", "wait_1000")
def wait_one_by_one(bench: Bench) -> None:
    """1 000 tasks are submitted; then each is taken as it becomes ready."""
    adapter = bench.adapter
    echo = adapter.task(tasks.echo)
    count = bench.count(1_000)
    adapter.get_all([echo(i) for i in range(20)])
    times_s = []
    for _ in range(bench.repeats(3)):
        handles = [echo(i) for i in range(count)]
        began_s = time.perf_counter()
        ready = list(adapter.one_by_one(handles))
        times_s.append(time.perf_counter() - began_s)
        verify(sorted(adapter.get_all(ready)) == list(range(count)), "tasks that were waited for")
    bench.record("wait_1000", median(times_s), count=count, repeats=len(times_s))


@workload("waits", "get_many")
def get_of_many(bench: Bench) -> None:
    """A list of small results that are there already, fetched at once for the first time."""
    adapter = bench.adapter
    echo = adapter.task(tasks.echo)
    count = bench.fitting(10_000, bench.pace_per_s())
    rates = []
    for _ in range(bench.repeats(3)):
        handles = [echo(i) for i in range(count)]
        adapter.settle(handles)
        began_s = time.perf_counter()
        values = adapter.get_all(handles)
        took_s = time.perf_counter() - began_s
        verify(values == list(range(count)), "results of a list")
        rates.append(count / took_s)
    bench.record("get_many", median(rates), count=count, repeats=len(rates))


@workload("graphs", "nested", needs=(NESTED,))
def nested_fan_out(bench: Bench) -> None:
    """20 tasks, each of which submits 100 and waits for them."""
    adapter = bench.adapter
    fan_out = adapter.task(tasks.fan_out)
    outer, inner = 20, bench.count(100)
    name = adapter.module_name
    adapter.get_all([fan_out(name, 2) for _ in range(2)])
    times_s = []
    for _ in range(bench.repeats(3)):
        began_s = time.perf_counter()
        values = adapter.get_all([fan_out(name, inner) for _ in range(outer)])
        times_s.append(time.perf_counter() - began_s)
        verify(values == [sum(range(inner))] * outer, "nested tasks")
    bench.record("nested", outer * inner / median(times_s), count=outer * inner, repeats=len(times_s))


@workload("graphs", "chain", needs=(REFS,))
def chain(bench: Bench) -> None:
    """Each task takes the result of the one before; all are submitted at once."""
    adapter = bench.adapter
    plus_one = adapter.task(tasks.plus_one)
    count = bench.count(1_000)
    adapter.get(plus_one(plus_one(0)))
    times_s = []
    for _ in range(bench.repeats(3)):
        began_s = time.perf_counter()
        handle = plus_one(0)
        for _ in range(count - 1):
            handle = plus_one(handle)
        value = adapter.get(handle)
        times_s.append(time.perf_counter() - began_s)
        verify(value == count, "the end of the chain")
    bench.record("chain", median(times_s), count=count, repeats=len(times_s))


@workload("depth", "depth", needs=(NESTED,))
def nested_in_depth(bench: Bench) -> None:
    """A task waits for a task that waits for a task, ten deep, on one CPU; the first time in this session."""
    nested = bench.adapter.task(tasks.nested)
    began_s = time.perf_counter()
    value = bench.adapter.get(nested(bench.adapter.module_name, 10))
    took_s = time.perf_counter() - began_s
    verify(value == 10, "the depth")
    bench.record("depth", took_s, depth=10)


@workload("efficiency", "efficiency")
def efficiency(bench: Bench) -> None:
    """The tasks' own CPU time, as a share of two CPUs until the last result."""
    spin = bench.adapter.task(tasks.spin)
    count = bench.count(60)
    bench.adapter.get_all([spin(0.001) for _ in range(4)])
    began_s = time.perf_counter()
    used_s = bench.adapter.get_all([spin(_TASK_CPU_S) for _ in range(count)])
    took_s = time.perf_counter() - began_s
    verify(len(used_s) == count and min(used_s) >= _TASK_CPU_S, "spinning tasks")
    bench.record("efficiency", count * _TASK_CPU_S / (2 * took_s), count=count)
