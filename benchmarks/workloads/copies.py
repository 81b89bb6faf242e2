"""The machine's best copies into shared memory: what a put is measured against.

Called by:  benchmarks.workloads.objects, benchmarks.workloads.machine.
Imports:    benchmarks.bench, NumPy, the standard library.
Never:      uses a contender.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench import median

_REPEATS = 5
#: Before each warm copy, and before each warm put that is compared with it: a machine that was idle for a
#: moment copies slower than one in a loop, and who puts a large array has computed something before.
PAUSE_S = 0.1


def best_warm(source: Any) -> float:
    """Bytes per second into pages that were written before, the better of one thread and two."""
    return max(warm(source, 1), warm(source, 2))


def best_cold(source: Any) -> float:
    """Bytes per second into memory that nobody has touched, by the best of four ways."""
    return max(cold(source, 1), cold(source, 2), by_pwrite(source, 1), by_pwrite(source, 2))


def warm(source: Any, threads: int) -> float:
    """Copy into a mapping whose pages are there."""
    with _memory(source.nbytes) as (_, mapping):
        _copy(mapping, source, 0, source.size)
        times_s = []
        for _ in range(_REPEATS):
            time.sleep(PAUSE_S)
            times_s.append(_took_s(threads, source.size, partial(_copy, mapping, source)))
    return float(source.nbytes / median(times_s))


def cold(source: Any, threads: int) -> float:
    """Copy into a fresh mapping: each page is faulted in on the way."""
    times_s = []
    for _ in range(_REPEATS):
        with _memory(source.nbytes) as (_, mapping):
            times_s.append(_took_s(threads, source.size, partial(_copy, mapping, source)))
    return float(source.nbytes / median(times_s))


def by_pwrite(source: Any, threads: int) -> float:
    """Write into a fresh memfd without mapping it."""
    data = memoryview(source).cast("B")
    times_s = []
    for _ in range(_REPEATS):
        with _memory(len(data)) as (fd, _):
            times_s.append(_took_s(threads, len(data), partial(_pwrite, fd, data)))
    return len(data) / median(times_s)


@contextmanager
def _memory(size_bytes: int) -> Iterator[tuple[int, mmap.mmap]]:
    """A fresh memfd, and a mapping of it that nobody has touched."""
    fd = os.memfd_create("nbray-benchmark")
    try:
        os.ftruncate(fd, size_bytes)
        with mmap.mmap(fd, size_bytes) as mapping:
            yield fd, mapping
    finally:
        os.close(fd)


def _took_s(threads: int, size: int, copy: Callable[[int, int], None]) -> float:
    """Seconds for 0..size in parts, one for this thread and one for each further one."""
    edges = [size * n // threads for n in range(threads + 1)]
    helpers = [threading.Thread(target=copy, args=edges[n : n + 2]) for n in range(1, threads)]
    began_s = time.perf_counter()
    for helper in helpers:
        helper.start()
    copy(edges[0], edges[1])
    for helper in helpers:
        helper.join()
    return time.perf_counter() - began_s


def _copy(mapping: mmap.mmap, source: Any, begin: int, end: int) -> None:
    target = np.frombuffer(mapping, dtype=source.dtype)
    np.copyto(target[begin:end], source[begin:end])


def _pwrite(fd: int, data: memoryview, begin: int, end: int) -> None:
    while begin < end:
        begin += os.pwrite(fd, data[begin:end], begin)
