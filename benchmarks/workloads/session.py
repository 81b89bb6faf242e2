"""Coming and going: import, first result, shutdown, what an idle session holds.

Called by:  benchmarks.child.
Imports:    light parts of the standard library: this is loaded while start-up is measured.
Never:      imports NumPy.
"""

from __future__ import annotations

import os
import time

from benchmarks import processes, tasks
from benchmarks.bench import Bench, median, verify
from benchmarks.workloads import workload

#: The runner writes here when it started this process, on the clock of ``time.monotonic``.
SPAWNED = "NBRAY_BENCHMARK_SPAWNED_S"
_GONE_WITHIN_S = 20.0


@workload("import", "import")
def import_time(bench: Bench) -> None:
    """The import statement in interpreters that have imported nothing else."""
    import subprocess
    import sys

    code = (
        f"import time\na = time.perf_counter()\n{bench.adapter.import_line}\nprint(time.perf_counter() - a)"
    )
    times_s = []
    for _ in range(bench.repeats(5)):
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times_s.append(float(answer.stdout.splitlines()[-1]))
    bench.record("import", median(times_s), repeats=len(times_s))


@workload("start", "start", "shutdown")
def first_result_and_shutdown(bench: Bench) -> None:
    """From the start of the interpreter to the first result; from the call of shutdown until all is gone."""
    adapter = bench.adapter
    spawned_s = float(os.environ[SPAWNED])
    entered_s = time.monotonic()
    adapter.start(2)
    ready_s = time.monotonic()
    value = adapter.get(adapter.task(tasks.echo)("first"))
    first_s = time.monotonic()
    verify(value == "first", "the first task")
    bench.record(
        "start", first_s - spawned_s,
        interpreter_s=entered_s - spawned_s, import_and_init_s=ready_s - entered_s,
        first_task_s=first_s - ready_s,
    )  # fmt: skip

    family = [p for p in processes.contenders_own() if not _stays(bench, p)]
    stopping_s = time.monotonic()
    adapter.stop()
    returned_s = time.monotonic()
    left = processes.wait_until_gone(family, stopping_s + _GONE_WITHIN_S)
    late = [p for p in processes.contenders_own() if p not in left and not _stays(bench, p)]
    left += processes.wait_until_gone(late, stopping_s + _GONE_WITHIN_S)
    gone_s = time.monotonic()
    verify(
        not left,
        f"{len(left)} processes are there {_GONE_WITHIN_S} s after shutdown: {[p.name for p in left]}",
    )
    bench.record("shutdown", gone_s - stopping_s, call_s=returned_s - stopping_s, processes=len(family))


def _stays(bench: Bench, process: processes.Process) -> bool:
    line = processes.command_line(process.pid)
    return any(name in line for name in bench.adapter.stays)


@workload("memory", "idle_memory", "idle_processes")
def idle_memory(bench: Bench) -> None:
    """What all processes but the driver hold once both workers have run a task and all is quiet."""
    previous = 0
    for _ in range(1 if bench.quick else 12):
        pids = [p.pid for p in processes.contenders_own()]
        size_bytes = processes.total_pss_bytes(pids)
        if previous and abs(size_bytes - previous) < previous / 100:
            break
        previous = size_bytes
        time.sleep(0.25)  # idle is a state over time: two looks that agree
    verify(size_bytes > 0 and bool(pids), "a session without processes")
    bench.record("idle_memory", size_bytes)
    bench.record("idle_processes", len(pids))
