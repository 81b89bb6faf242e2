"""One driver, many threads: definitions, registrations and results do not get into each other's way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.sessions import await_forgotten, session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

THREADS = 8


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """The answers of all threads, which begin together; raises what one of them raised."""
    start = threading.Barrier(THREADS)

    def begin(number: int) -> Any:
        start.wait(10)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(60) for future in [pool.submit(begin, number) for number in range(THREADS)]]


def test_first_call_may_come_from_all_threads_at_once() -> None:
    offset = 1000

    for _ in range(10):

        @nbray.remote
        def add(x: int, *, y: int) -> int:
            return offset + x + y

        answers = at_once(lambda n, add=add: nbray.get(add.remote(n, y=n)))  # type: ignore[misc]

        assert answers == [1000 + 2 * n for n in range(THREADS)]


def test_threads_define_functions_of_one_name() -> None:
    def work(number: int) -> list[int]:
        answers = []
        for turn in range(10):

            @nbray.remote
            def f() -> tuple[int, int]:
                return number, turn  # noqa: B023  (pickled at the first call, at once)

            answers += nbray.get([f.remote() for _ in range(10)])
        return answers

    for number, answers in enumerate(at_once(work)):
        assert answers == [(number, turn) for turn in range(10) for _ in range(10)]


def test_threads_pipeline_with_wait_and_share_references() -> None:
    @nbray.remote
    def part(array: Any, number: int) -> int:
        return int(array[number])

    shared = [nbray.put(np.arange(100_000))]

    def work(number: int) -> int:
        left = [part.remote(shared[0], 100 * number + n) for n in range(50)]
        total = 0
        while left:
            ready, left = nbray.wait(left, num_returns=min(3, len(left)), timeout=30)
            total += sum(nbray.get(ready))
        return total

    assert at_once(work) == [sum(range(100 * n, 100 * n + 50)) for n in range(THREADS)]
    shared.clear()
    await_forgotten()


def test_failures_reach_the_thread_that_asks() -> None:
    @nbray.remote
    def fail(number: int) -> None:
        raise KeyError(number)

    def work(number: int) -> int:
        for _ in range(10):
            with pytest.raises(KeyError) as caught:
                nbray.get(fail.remote(number))
            assert isinstance(caught.value.__cause__, KeyError)
            assert caught.value.__cause__.args == (number,)
        return number

    assert at_once(work) == list(range(THREADS))


def test_registrations_and_calls_may_come_from_different_threads() -> None:
    classes = [type(f"Door{number}", (_Door,), {}) for number in range(THREADS)]

    @nbray.remote
    def make(cls: Any, number: int) -> Any:
        return cls(number)

    def work(number: int) -> list[int]:
        cls = classes[number]
        nbray.register_custom_serializer(cls, serializer=lambda d: d.number, deserializer=cls)
        return [nbray.get(make.remote(cls, n)).number for n in range(20)]

    assert at_once(work) == [list(range(20))] * THREADS


class _Door:
    def __init__(self, number: int) -> None:
        self.number = number
        self.lock = threading.Lock()
