"""The edges of ``put``, ``get`` and ``wait``, and their relatives in ``experimental``."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray import experimental
from tests.support.sessions import session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Any]:
    """The reference of a task that ends when the test does."""
    go_on = tmp_path / "go on"

    @nbray.remote(num_cpus=0)
    def slow() -> None:
        while not go_on.exists():
            time.sleep(0.005)

    ref = slow.remote()
    yield ref
    go_on.touch()
    nbray.wait([ref])


@nbray.remote
def fail() -> None:
    raise KeyError("lost")


# --- get --------------------------------------------------------------------------------------------------


def test_worker_of_the_first_releases_is_accepted_everywhere() -> None:
    ref = nbray.put(1, weakref=True, worker=None)

    assert nbray.get(ref, worker=object()) == 1
    assert nbray.get([ref], worker=None) == [1]
    assert nbray.wait([ref], worker=None) == ([ref], [])


def test_get_raises_for_a_failure_although_others_are_not_ready(slow: Any) -> None:
    failed = fail.remote()
    nbray.wait([failed])

    for refs in ([slow, failed], [failed, slow], [slow, failed, slow]):
        with pytest.raises(KeyError):
            nbray.get(refs)
        with pytest.raises(KeyError):  # before it says that time is up
            nbray.get(refs, timeout=0)


@pytest.mark.parametrize("wrong", [-1, -0.001, float("nan")])
def test_get_refuses_a_timeout_below_zero(wrong: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        nbray.get(nbray.put(1), timeout=wrong)
    with pytest.raises(TypeError, match="timeout"):
        nbray.get([nbray.put(1)], timeout="1")  # type: ignore[call-overload]


def test_get_of_nothing_is_nothing_whatever_the_timeout() -> None:
    assert nbray.get([]) == nbray.get([], timeout=0) == []


# --- wait -------------------------------------------------------------------------------------------------


def test_wait_for_nothing_ends_at_once_whatever_is_asked_for() -> None:
    for num_returns in (-1, 0, 1, 5):
        assert nbray.wait([], num_returns=num_returns, timeout=0) == ([], [])
        assert nbray.wait([], num_returns=num_returns) == ([], [])


def test_wait_complains_in_the_order_that_is_written_down() -> None:
    ref = nbray.put(1)

    with pytest.raises(TypeError, match="one reference"):
        nbray.wait(ref, timeout=-1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tuple"):
        nbray.wait((1,), timeout=-1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        nbray.wait([1], timeout=-1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="int"):
        nbray.wait([ref, ref, 1], num_returns=0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="distinct"):
        nbray.wait([ref, ref], num_returns=0)
    with pytest.raises(ValueError, match="num_returns"):
        nbray.wait([ref], num_returns=0)
    with pytest.raises(TypeError, match="num_returns"):
        nbray.wait([ref], num_returns=1.0)  # type: ignore[arg-type]


def test_waits_timeout_is_in_seconds(slow: Any) -> None:
    started_s = time.monotonic()

    assert nbray.wait([slow], timeout=0.2) == ([], [slow])

    assert 0.2 <= time.monotonic() - started_s < 5


def test_wait_returns_no_more_than_asked_for_and_both_lists_in_order(slow: Any) -> None:
    refs = [nbray.put(0), slow, *(nbray.put(n) for n in range(3))]

    ready, rest = nbray.wait(refs, num_returns=2)

    assert (ready, rest) == ([refs[0], refs[2]], [slow, *refs[3:]])


# --- references as values -----------------------------------------------------------------------------------


def test_reference_that_a_task_returns_or_yields_in_a_list_leads_to_the_value() -> None:
    @nbray.remote
    def give(depth: int) -> Any:
        return nbray.put("deep") if depth == 0 else give.remote(depth - 1)

    @nbray.remote(num_returns=2)
    def give_two() -> Any:
        return nbray.put(1), [nbray.put(2)]

    value = give.remote(2)
    for _ in range(3):
        value = nbray.get(value)
    assert nbray.get(value) == "deep"
    one, two = nbray.get(give_two.remote())
    assert (nbray.get(one), nbray.get(two)) == (1, [2])


# --- experimental -------------------------------------------------------------------------------------------


def test_experimental_get_takes_tuples_arrays_and_dicts() -> None:
    one, two = nbray.put(1), nbray.put(2)
    named = OrderedDict(b=one, a="as it is", c=[two], d=two)

    assert experimental.get((one, two, one)) == [1, 2, 1]
    assert experimental.get(np.array([two, one])) == [2, 1]
    assert experimental.get(named) == OrderedDict(b=1, a="as it is", c=[two], d=2)
    assert list(experimental.get(named)) == list(named)
    assert named["b"] is one
    assert experimental.get({}) == {}
    assert experimental.get(()) == []
    assert (experimental.get(one), experimental.get([two])) == (1, [2])
    assert nbray.experimental is experimental


def test_experimental_wait_takes_tuples_and_arrays(slow: Any) -> None:
    one = nbray.put(1)

    assert experimental.wait((slow, one)) == ([one], [slow])
    assert experimental.wait(np.array([slow, one]), num_returns=2, timeout=0) == ([one], [slow])
    assert experimental.wait([one], 1, 0.5) == ([one], [])
    assert experimental.wait(()) == ([], [])


def test_experimental_functions_refuse_what_the_others_refuse() -> None:
    one = nbray.put(1)

    with pytest.raises(TypeError, match="int"):
        experimental.get((one, 5))
    with pytest.raises(TypeError, match="list"):
        experimental.get(np.array([[one]]))
    with pytest.raises(ValueError, match="str"):
        experimental.get("one")
    with pytest.raises(ValueError, match="distinct"):
        experimental.wait((one, one))
    with pytest.raises(TypeError, match="dict"):
        experimental.wait({"a": one})


def test_worker_of_the_first_releases_is_accepted_by_experimental_functions_too() -> None:
    one = nbray.put(1)

    assert experimental.get((one,), worker=nbray.worker.global_worker) == [1]
    assert experimental.wait((one,), worker=nbray.worker.global_worker) == ([one], [])


def test_numbers_of_numpy_are_numbers(slow: Any) -> None:
    one, two = nbray.put(1), nbray.put(2)

    assert nbray.wait([one, two, slow], num_returns=np.int64(2), timeout=np.float32(5)) == (
        [one, two],
        [slow],
    )
    assert nbray.get(one, timeout=np.int64(5)) == 1
    with pytest.raises(nbray.RayTimeoutError):
        nbray.get([one, slow], timeout=np.float32(0.01))
