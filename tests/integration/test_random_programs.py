"""Random programs over references: nothing is freed too early, and nothing stays.

Called by:  pytest. ``NBRAY_PROGRAMS=1000`` runs more of them than every test run does.
Imports:    tests.support.programs, nbray.
Never:      draws a number from anything but a program's own seed, which a failure names.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Iterator
from random import Random

import pytest

import nbray
from nbray.model.errors import OwnerDiedError
from tests.support.programs import Held, check, clear, kill, walk
from tests.support.sessions import session, store_figures, this_process

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

PROGRAMS = int(os.environ.get("NBRAY_PROGRAMS", "60"))
SETTLED_S = 2.0
#: What is 0 in the daemon when nothing is held.
FIGURES = (
    "objects", "used_bytes", "spill_file_bytes", "borrows", "parcels", "ended_early", "orphans", "containers",
    "let_go",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=200 << 20, log_to_driver=False):
        yield


@pytest.mark.parametrize("block", range(0, PROGRAMS, 20))
def test_programs_read_right_values_and_leave_nothing(block: int) -> None:
    for seed in range(block, block + 20):
        try:
            run(Random(seed))
        except BaseException as exc:
            raise AssertionError(f"program {seed} failed") from exc
        assert_all_is_gone(seed)


def run(random: Random) -> None:
    bag: list[Held] = []
    walk(random, 2, bag, 10)
    for held in bag:
        check(held)
    if random.random() < 0.3:
        lose_a_worker(random, bag)


def lose_a_worker(random: Random, bag: list[Held]) -> None:
    """Kill one: what others hold can be read as before, or its owner was the one that died."""
    victim = random.choice(worker_pids())
    kill(victim)
    for held in bag:
        try:
            check(held)
        except OwnerDiedError:
            assert victim in owners(held)
    walk(random, 2, [], 3)


def owners(held: Held) -> set[int]:
    """Processes that own it, or something in it."""
    found, specs = set(), [held.spec]
    while specs:
        spec = specs.pop()
        found.add(spec.pid)
        specs += spec.inside
    return found


def assert_all_is_gone(seed: int) -> None:
    forget_stashes()
    until_s = time.monotonic() + SETTLED_S  # a loaded machine takes its time until all have forgotten
    while any((left := what_is_left()).values()) and time.monotonic() < until_s:
        forget_stashes()
    assert not any(left.values()), f"program {seed} leaves {left}"


def forget_stashes() -> None:
    workers = worker_pids()
    with tempfile.TemporaryDirectory() as folder:
        nbray.get([clear.remote(folder, len(workers)) for _ in workers])


def what_is_left() -> dict[str, int]:
    gc.collect()
    process, figures = this_process(), store_figures()
    with process.loop.lock:
        process.objects.drain()
        own = len(process.objects.table) + len(process.submitter.tasks)
    return {"in the driver": own, **{name: figures[name] for name in FIGURES}}


def worker_pids() -> list[int]:
    pids: list[int] = nbray.status().to_dict()["processes"]["workers"]
    return pids
