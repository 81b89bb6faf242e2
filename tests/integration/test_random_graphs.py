"""Random graphs with faults against an oracle in plain Python: no wrong value, no hang, nothing left.

Called by:  pytest. ``NBRAY_GRAPHS=1000`` runs more of them than every test run does, ``NBRAY_GRAPHS_FROM``
            says where to begin.
Imports:    tests.support.{chaos,graphs}, nbray.
Never:      draws a number from anything but a graph's own seed, which a failure names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from random import Random

import pytest

from tests.support.chaos import Victims, death
from tests.support.faults import await_no_trace
from tests.support.graphs import Run, draw, faults
from tests.support.sessions import session

pytestmark = [pytest.mark.integration, pytest.mark.chaos]
LEAKS_CHECKED_PER = "module"

GRAPHS = int(os.environ.get("NBRAY_GRAPHS", "40"))
FIRST = int(os.environ.get("NBRAY_GRAPHS_FROM", "0"))
BLOCK = 10


@pytest.fixture(autouse=True, scope="module")
def cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=100 << 20, log_to_driver=False):
        yield


@pytest.mark.parametrize("block", range(FIRST, FIRST + GRAPHS, BLOCK))
def test_graphs_give_what_plain_python_gives(block: int) -> None:
    for seed in range(block, min(block + BLOCK, FIRST + GRAPHS)):
        try:
            assert found_in(Random(seed)) == []
            await_no_trace()
        except BaseException as exc:
            raise AssertionError(f"graph {seed} failed") from exc


def found_in(random: Random) -> list[str]:
    """Run a graph, every second one with a worker's death at some moment."""
    nodes = draw(random, random.randrange(5, 25))
    victims, dies, after_s = Victims.now(), random.random() < 0.5, random.uniform(0, 0.15)
    with tempfile.TemporaryDirectory() as folder:
        with death(after_s, lambda: victims.pid_of("worker", random)) if dies else nullcontext():
            seen = Run(nodes, folder).outcomes()
        return faults(nodes, seen, deaths=dies)
