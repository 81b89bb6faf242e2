"""Many small tasks: one after the other, all at once, and how fast they can be handed over.

Called by:  benchmarks.child.
Imports:    benchmarks.bench, benchmarks.tasks; NumPy for the array arguments.
Never:      lets a result go unchecked.
"""

from __future__ import annotations

import gc
import time

from benchmarks import processes, tasks
from benchmarks.bench import Bench, CannotError, median, percentile, verify
from benchmarks.workloads import workload


@workload("sync", "sync_rate", "sync_p50", "sync_p99")
def sync_tasks(bench: Bench) -> None:
    """``get(f.remote(i))``, the next one when the last one is there."""
    get, echo = bench.adapter.get, bench.adapter.task(tasks.echo)
    began_s = time.perf_counter()
    warm = [get(echo(i)) for i in range(20)]
    verify(warm == list(range(20)), "sync tasks")
    count = bench.fitting(5_000, 20 / (time.perf_counter() - began_s), share=0.5)
    values, times_s = [], []
    clock = time.perf_counter
    began_s = before_s = clock()
    for i in range(count):
        values.append(get(echo(i)))
        after_s = clock()
        times_s.append(after_s - before_s)
        before_s = after_s
    took_s = before_s - began_s
    verify(values == list(range(count)), "sync tasks")
    bench.record("sync_rate", count / took_s, count=count)
    bench.record("sync_p50", percentile(times_s, 0.5), count=count)
    bench.record("sync_p99", percentile(times_s, 0.99), count=count)


@workload("sync", "small_array")
def small_array_arguments(bench: Bench) -> None:
    """Tasks all at once, each with an array of 1 000 numbers of its own."""
    import numpy as np

    total = bench.adapter.task(tasks.total_of_array)
    count = bench.fitting(5_000, bench.pace_per_s() / 2)
    arrays = [np.arange(1_000, dtype=np.float64) + i for i in range(count)]
    bench.adapter.get_all([total(array) for array in arrays[:10]])
    began_s = time.perf_counter()
    values = bench.adapter.get_all([total(array) for array in arrays])
    took_s = time.perf_counter() - began_s
    verify(values == [float(array.sum()) for array in arrays], "sums of arrays")
    bench.record("small_array", count / took_s, count=count, size_bytes=8_000)


@workload("async", "async_1k", "async_10k", "async_100k", "async_cpu", "async_growth")
def async_tasks(bench: Bench) -> None:
    """All submitted, then all fetched, at three sizes; and what a task costs when there are many."""
    pace = bench.pace_per_s()
    thousand = 0.0
    for figure, full, repeats in (
        ("async_1k", 1_000, 5),
        ("async_10k", 10_000, 3),
        ("async_100k", 100_000, 1),
    ):
        count = bench.fitting(full, pace, share=2.0)
        if count < bench.count(full) // 5:
            reason = f"at {pace:.0f} tasks/s this would take {full / pace:.0f} s"
            bench.missing(figure, reason)
            if full == 10_000:
                bench.missing("async_cpu", reason)
            if full == 100_000:
                bench.missing("async_growth", reason)
            continue
        rates, cpu_s = [], []
        for _ in range(bench.repeats(repeats)):
            before_s = time.process_time()
            rates.append(_all_at_once(bench, count))
            cpu_s.append((time.process_time() - before_s) / count)
            if count / rates[-1] > 1:
                break
        pace = median(rates)
        bench.record(figure, pace, count=count, repeats=len(rates))
        if full == 1_000:
            thousand = pace
        if full == 10_000:
            bench.record("async_cpu", median(cpu_s), count=count, repeats=len(cpu_s))
        if full == 100_000:
            bench.record("async_growth", thousand / pace, count=count)


def _all_at_once(bench: Bench, count: int) -> float:
    echo = bench.adapter.task(tasks.echo)
    gc.collect()
    began_s = time.perf_counter()
    values = bench.adapter.get_all([echo(i) for i in range(count)])
    took_s = time.perf_counter() - began_s
    verify(values == list(range(count)), "async tasks")
    return count / took_s


@workload("submission", "submission")
def submission(bench: Bench) -> None:
    """How long it takes to hand tasks over, with the workers running beside it; fetching is not in it."""
    echo = bench.adapter.task(tasks.echo)
    count = bench.fitting(100_000, bench.pace_per_s(), share=2.0)
    gc.collect()
    began_s = time.perf_counter()
    handles = [echo(i) for i in range(count)]
    submitted_s = time.perf_counter()
    values = bench.adapter.get_all(handles)
    fetched_s = time.perf_counter()
    verify(values == list(range(count)), "submitted tasks")
    bench.record(
        "submission", count / (submitted_s - began_s), count=count, then_fetched_s=fetched_s - submitted_s
    )


@workload("queue", "queued_bytes")
def bytes_per_queued_task(bench: Bench) -> None:
    """Growth of the driver, for each task that waits behind workers which are blocked."""
    echo = bench.adapter.task(tasks.echo)
    count = bench.fitting(100_000, bench.pace_per_s(), share=2.0)
    if count < 200 and not bench.quick:
        raise CannotError(f"only {count} tasks fit its time: too few to weigh")
    release = bench.block(2)
    gc.collect()
    before_bytes = processes.resident_bytes()
    handles = [echo(i) for i in range(count)]
    after_bytes = processes.resident_bytes()
    release()
    verify(bench.adapter.get_all(handles) == list(range(count)), "queued tasks")
    bench.record("queued_bytes", (after_bytes - before_bytes) / count, count=count)
