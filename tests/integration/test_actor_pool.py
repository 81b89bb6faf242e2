"""``nbray.util.ActorPool``: work for a set of actors, in order or as it is done."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.model.actor_errors import RayActorError
from nbray.util import ActorPool
from tests.support.sessions import session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@nbray.remote
class Worker:
    def double(self, x: int) -> int:
        return 2 * x

    def wait_for(self, path: str) -> str:
        while not Path(path).exists():
            time.sleep(0.005)
        return path

    def fail(self, x: int) -> int:
        if x % 2:
            raise ValueError(f"odd {x}")
        return x

    def die(self, x: int) -> int:
        if x == 0:
            os._exit(1)
        return x


def double(actor: Any, x: int) -> Any:
    return actor.double.remote(x)


def wait_for(actor: Any, path: Path) -> Any:
    return actor.wait_for.remote(str(path))


@pytest.fixture
def pool() -> ActorPool:
    return ActorPool([Worker.remote() for _ in range(2)])


def test_map_gives_results_in_the_order_of_the_values(pool: ActorPool) -> None:
    assert list(pool.map(double, range(20))) == [2 * i for i in range(20)]
    assert list(pool.map(double, [])) == []


def test_map_unordered_gives_all_results(pool: ActorPool) -> None:
    assert sorted(pool.map_unordered(double, range(20))) == [2 * i for i in range(20)]


def test_map_is_lazy_and_may_be_without_end(pool: ActorPool) -> None:
    read = []

    def values() -> Iterator[int]:
        for i in itertools.count():
            read.append(i)
            yield i

    results = pool.map(double, values())
    assert read == []

    assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
    assert len(read) <= 5 + 4


def test_unordered_results_come_as_they_are_ready(pool: ActorPool, folder: Path) -> None:
    slow, quick = folder / "slow", folder / "quick"
    quick.touch()
    pool.submit(wait_for, slow)
    pool.submit(wait_for, quick)
    pool.submit(wait_for, quick)

    assert pool.get_next_unordered() == str(quick)
    assert pool.get_next_unordered() == str(quick)
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0.05)
    slow.touch()
    assert pool.get_next_unordered() == str(slow)
    assert not pool.has_next()


def test_ordered_results_wait_for_the_first_while_others_work_on(pool: ActorPool, folder: Path) -> None:
    slow = folder / "slow"
    pool.submit(wait_for, slow)
    for x in range(3):
        pool.submit(double, x)

    for _ in range(3):
        with pytest.raises(TimeoutError):
            pool.get_next(timeout=0.05)
    slow.touch()
    assert [pool.get_next() for _ in range(4)] == [str(slow), 0, 2, 4]


def test_no_result_is_left_after_the_last(pool: ActorPool) -> None:
    assert not pool.has_next()
    pool.submit(double, 1)
    assert pool.has_next()
    assert pool.get_next() == 2

    for take in (pool.get_next, pool.get_next_unordered):
        with pytest.raises(StopIteration):
            take()


def test_ordered_after_unordered_is_refused_while_results_are_left(pool: ActorPool) -> None:
    for x in range(3):
        pool.submit(double, x)
    taken = [pool.get_next_unordered()]

    with pytest.raises(ValueError, match="get_next_unordered"):
        pool.get_next()

    taken += [pool.get_next_unordered() for _ in range(2)]
    assert sorted(taken) == [0, 2, 4]
    pool.submit(double, 5)
    assert pool.get_next() == 10


def test_an_error_is_raised_where_its_result_would_be(pool: ActorPool) -> None:
    for x in range(4):
        pool.submit(lambda actor, value: actor.fail.remote(value), x)

    results = []
    while pool.has_next():
        try:
            results.append(pool.get_next())
        except ValueError as exc:
            results.append(str(exc).rpartition("\n")[2])
    assert results == [0, "ValueError: odd 1", 2, "ValueError: odd 3"]


def test_an_actor_that_dies_is_given_nothing_more() -> None:
    pool = ActorPool([Worker.remote() for _ in range(3)])

    results = []
    for x in [0, *range(1, 30)]:
        pool.submit(lambda actor, value: actor.die.remote(value), x)
    while pool.has_next():
        try:
            results.append(pool.get_next())
        except RayActorError:
            results.append(None)

    assert results == [None, *range(1, 30)]


def test_when_all_have_died_what_waits_is_told() -> None:
    pool = ActorPool([Worker.remote()])
    for x in (0, 1, 2):
        pool.submit(lambda actor, value: actor.die.remote(value), x)

    for _ in range(3):
        with pytest.raises(RayActorError):
            pool.get_next(timeout=10)
    assert not pool.has_next()


def test_wrong_use_is_refused_where_it_happens(pool: ActorPool) -> None:
    with pytest.raises(ValueError, match="no actors"):
        ActorPool([]).submit(double, 1)
    with pytest.raises(TypeError, match="reference"):
        pool.submit(lambda _actor, value: value, 1)
    with pytest.raises(AttributeError):
        pool.submit(lambda actor, value: actor.unknown.remote(value), 1)
    assert not pool.has_next()
    pool.submit(double, 1)
    assert pool.get_next() == 2
