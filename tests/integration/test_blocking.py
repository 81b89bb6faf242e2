"""A task that waits lends its CPU, and hands back what was pushed to its worker behind it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbray
from tests.support.sessions import session
from tests.support.spans import overlap

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=1):
        yield


def test_ten_levels_of_nested_tasks_finish_on_one_cpu() -> None:
    @nbray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + nbray.get(depth.remote(n - 1))

    assert nbray.get(depth.remote(10), timeout=30) == 10


def test_twenty_parents_with_twenty_children_each_finish_on_one_cpu() -> None:
    @nbray.remote
    def leaf(n: int) -> int:
        return n

    @nbray.remote
    def parent(n: int) -> int:
        return sum(nbray.get([leaf.remote(n * 20 + k) for k in range(20)]))

    assert sum(nbray.get([parent.remote(n) for n in range(20)], timeout=60)) == sum(range(400))


def test_wait_lends_the_cpu_too() -> None:
    @nbray.remote
    def leaf(n: int) -> int:
        return n

    @nbray.remote
    def parent() -> int:
        refs = [leaf.remote(n) for n in range(5)]
        total = 0
        while refs:
            ready, refs = nbray.wait(refs)
            total += nbray.get(ready[0])
        return total

    assert nbray.get([parent.remote() for _ in range(3)], timeout=30) == [10, 10, 10]


def test_tasks_pushed_behind_one_that_blocks_are_handed_back(tmp_path: Path) -> None:
    @nbray.remote
    def produce(path: str) -> None:
        Path(path).touch()

    @nbray.remote
    def consume(path: str) -> bool:
        @nbray.remote(num_cpus=0)
        def watch(path: str) -> bool:
            while not os.path.exists(path):
                time.sleep(0.001)
            return True

        return bool(nbray.get(watch.remote(path)))  # blocks until the driver's later task has run

    @nbray.remote
    def quick() -> None: ...

    nbray.get([quick.remote() for _ in range(300)])  # now tasks of this shape are pushed ahead

    for n in range(5):
        path = str(tmp_path / str(n))
        consumer = consume.remote(path)
        producer = produce.remote(path)  # pushed behind the consumer, whose wait it ends
        assert nbray.get([consumer, producer], timeout=20) == [True, None]


def test_cpu_is_lent_only_while_a_task_waits(tmp_path: Path) -> None:
    @nbray.remote
    def leaf() -> None: ...

    @nbray.remote
    def parent() -> tuple[float, float]:
        nbray.get(leaf.remote())
        start_s = time.monotonic()
        end_s = start_s
        while end_s - start_s < 0.05:
            end_s = time.monotonic()
        return start_s, end_s

    spans = nbray.get([parent.remote() for _ in range(6)], timeout=30)

    # A worker that goes on does not wait for its CPU to come back, so two may run for a moment; not all.
    assert overlap(spans) < 6


def test_a_thousand_chains_of_three_end_on_one_cpu() -> None:
    """Each level waits for the next. Leases that idle for a moment would make a tenth of a second of each."""

    @nbray.remote
    def third(n: int) -> int:
        return n + 1

    @nbray.remote
    def second(n: int) -> int:
        return int(nbray.get(third.remote(n))) + 1

    @nbray.remote
    def first(n: int) -> int:
        return int(nbray.get(second.remote(n))) + 1

    refs = [first.remote(n) for n in range(1_000)]

    assert nbray.get(refs, timeout=60) == [n + 3 for n in range(1_000)]
