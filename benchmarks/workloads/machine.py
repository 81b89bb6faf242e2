"""What the machine itself can do, measured in the same run: what no contender can beat.

Called by:  benchmarks.child.
Imports:    benchmarks.workloads.copies, the standard library.
Never:      uses a contender.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.bench import Bench, median, verify
from benchmarks.workloads import MACHINE, workload


@workload(MACHINE, "fork")
def fork(bench: Bench) -> None:
    """Fork this small process and wait for the child's end."""

    def once() -> None:
        pid = os.fork()
        if not pid:
            os._exit(0)
        verify(os.waitpid(pid, 0)[1] == 0, "a forked process")

    bench.record("fork", _median_of(bench.repeats(51), once))


@workload(MACHINE, "socket")
def socket_round_trip(bench: Bench) -> None:
    """One byte to another process and back over a unix socket, both sides blocking."""
    count = bench.count(5_000)
    here, there = socket.socketpair()
    pid = os.fork()
    if not pid:
        here.close()
        while byte := there.recv(1):
            there.send(byte)
        os._exit(0)
    there.close()

    def once() -> None:
        here.send(b"x")
        verify(here.recv(1) == b"x", "the byte that came back")

    took_s = _median_of(count, once)
    here.close()
    os.waitpid(pid, 0)
    bench.record("socket", took_s, count=count)


@workload(MACHINE, "python", "python_numpy")
def interpreter_start(bench: Bench) -> None:
    """From the fork until the interpreter has ended."""
    for figure, code in (("python", "pass"), ("python_numpy", "import numpy")):

        def once(code: str = code) -> None:
            subprocess.run([sys.executable, "-c", code], check=True)

        bench.record(figure, _median_of(bench.repeats(7), once))


@workload(MACHINE, "copy_warm_1", "copy_warm_2", "copy_cold_1", "copy_cold_2", "pwrite_1", "pwrite_2")
def copy(bench: Bench) -> None:
    """100 MB into a memfd, by each way that the system offers."""
    import numpy as np

    from benchmarks.workloads import copies

    source = np.arange(bench.size(12_500_000), dtype=np.float64)
    for name, way in (("copy_warm", copies.warm), ("copy_cold", copies.cold), ("pwrite", copies.by_pwrite)):
        for threads in (1, 2):
            bench.record(f"{name}_{threads}", way(source, threads), size_bytes=source.nbytes)


def _median_of(repeats: int, once: Callable[[], None]) -> float:
    times_s = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        once()
        times_s.append(time.perf_counter() - began_s)
    return median(times_s)
