"""The workloads, written once against ``benchmarks.adapters.base.Adapter``.

A group of workloads shares one fresh process and, where it says so, one session. A workload records the
figures that it was declared with; their units and targets stand in ``benchmarks.figures``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Group(NamedTuple):
    """Where a group lives, and the workers of the session that it runs in; 0: it starts its own."""

    module: str
    workers: int
    title: str


class Workload(NamedTuple):
    """One measurement."""

    group: str
    figures: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable[[Any], None]


#: The pseudo-contender of the group that measures the machine itself.
MACHINE = "machine"

# In the order in which they are run and reported.
GROUPS = {
    "import": Group("session", 0, "import in fresh interpreters"),
    "start": Group("session", 0, "start to first result; shutdown"),
    "memory": Group("session", 2, "idle memory and processes"),
    "sync": Group("rates", 2, "tasks one after the other; small arrays as arguments"),
    "async": Group("rates", 2, "many tasks at once"),
    "submission": Group("rates", 2, "submitting alone"),
    # A process of its own: memory that other tasks have left free would hide what these take.
    "queue": Group("rates", 2, "driver memory of queued tasks"),
    "objects": Group("objects", 2, "small values; 1 000 references as arguments"),
    "store": Group("objects", 2, "put and get of 100 MB"),
    "broadcast": Group("objects", 2, "200 MB to ten tasks"),
    "large": Group("objects", 2, "100 MB results; tree-reduce"),
    "waits": Group("graphs", 2, "wait one by one; get of many"),
    "graphs": Group("graphs", 2, "nested tasks; chains"),
    "depth": Group("graphs", 1, "nested ten deep on one CPU"),
    "efficiency": Group("graphs", 2, "how much of two CPUs reaches the tasks"),
    MACHINE: Group("machine", 0, "what the machine itself can do"),
}

_declared: list[Workload] = []


def workload(
    group: str, *figures: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Declare a measurement: its group, the figures that it records, the features that it needs."""

    def declare(run: Callable[[Any], None]) -> Callable[[Any], None]:
        _declared.append(Workload(group, figures, needs, run))
        return run

    return declare


def of_group(group: str) -> list[Workload]:
    """The workloads of one group; imports only its module."""
    importlib.import_module(f"benchmarks.workloads.{GROUPS[group].module}")
    return [one for one in _declared if one.group == group]
