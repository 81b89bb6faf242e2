"""One fresh process: one contender, one group of workloads (or several, where time is short).

Called by:  benchmarks.runner, as ``python -c "from benchmarks.child import main; main()"``.
Imports:    light parts of the standard library, before the clock of the start-up figures stops.
Never:      prints to the sheet's file anything but figures; stdout and stderr are the contender's.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks import adapters, workloads
from benchmarks.adapters.base import Adapter
from benchmarks.bench import Bench, CannotError


def main() -> None:
    """Run what the command line names: contender, groups joined by ``+``, quick or full, folder."""
    contender, groups, mode, folder = sys.argv[1:]
    adapter = Adapter() if contender == workloads.MACHINE else adapters.load(contender)
    with open(os.path.join(folder, "sheet"), "w") as sheet:
        run(Bench(adapter, quick=mode == "quick", folder=folder, sheet=sheet), groups.split("+"))


def run(bench: Bench, groups: list[str]) -> None:
    """All workloads of the groups that this contender can do; groups that share a process share a session."""
    possible = []
    for one in (one for group in groups for one in workloads.of_group(group)):
        lacking = [bench.adapter.cannot[need] for need in one.needs if need in bench.adapter.cannot]
        if lacking:
            for figure in one.figures:
                bench.missing(figure, lacking[0])
        else:
            possible.append(one)
    workers = workloads.GROUPS[groups[0]].workers
    if not possible:
        return
    if workers:
        bench.adapter.start(workers)
        bench.use_workers(workers)
    for one in possible:
        attempt(bench, one)
    if workers:
        bench.adapter.stop()


def attempt(bench: Bench, one: workloads.Workload) -> None:
    """Run a workload; what goes wrong in it is noted and does not cost the others their turn."""
    try:
        one.run(bench)
    except CannotError as exc:
        for figure in one.figures:
            bench.missing(figure, str(exc))
    except Exception as exc:  # noqa: BLE001  # any library may raise anything
        for figure in one.figures:
            bench.failed(figure, describe(exc))


def describe(exc: BaseException) -> Any:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else ''}"[:300]
