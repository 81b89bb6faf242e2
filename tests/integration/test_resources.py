"""Resources: who runs beside whom, and who never runs."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from tests.support.sessions import session
from tests.support.spans import meets, overlap
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, resources={"token": 3}):
        yield


def test_slow_task_holds_up_no_quick_one() -> None:
    @nbray.remote
    def work(seconds: float) -> float:
        time.sleep(seconds)
        return time.monotonic()

    nbray.get([work.remote(0) for _ in range(100)])  # known to be quick: now they are pushed ahead

    refs = [work.remote(0) for _ in range(50)] + [work.remote(2.0)] + [work.remote(0) for _ in range(50)]
    slow = refs.pop(50)
    quick_s = nbray.get(refs, timeout=30)
    slow_s = nbray.get(slow, timeout=30)

    assert max(quick_s) < slow_s - 1.0


def test_task_with_two_cpus_runs_beside_no_other() -> None:
    @nbray.remote
    def span(seconds: float) -> tuple[float, float]:
        start_s = time.monotonic()
        time.sleep(seconds)
        return start_s, time.monotonic()

    wide_refs, narrow_refs = [], []
    for _ in range(6):
        wide_refs.append(span.options(num_cpus=2).remote(0.02))
        narrow_refs.append(span.remote(0.02))
    wide, narrow = nbray.get(wide_refs, timeout=30), nbray.get(narrow_refs, timeout=30)

    assert overlap(narrow) <= 2
    for each in wide:
        assert (
            overlap([each, *[other for other in wide + narrow if other is not each and meets(each, other)]])
            == 1
        )


@pytest.mark.parametrize(("options", "most"), [
    ({"num_cpus": 0.5}, 4), ({"num_cpus": 1}, 2), ({"num_cpus": 0, "resources": {"token": 1}}, 3),
    ({"num_cpus": 0, "resources": {"token": 1.5}}, None), ({"num_cpus": 0, "resources": {"token": 3}}, 1),
    ({"num_cpus": 0.25, "resources": {"token": 0.75}}, 4),
])  # fmt: skip
def test_no_more_run_at_once_than_their_resources_allow(
    options: Any, most: int | None, tmp_path: Path
) -> None:
    @nbray.remote
    def span(folder: str, together: int) -> tuple[float, float]:
        """Returns once so many were seen to run at once, or soon."""
        start_s = time.monotonic()
        mine = Path(folder, str(os.getpid()))
        mine.touch()
        while len(os.listdir(folder)) < together and time.monotonic() - start_s < 5:
            time.sleep(0.001)
        time.sleep(0.01)
        return start_s, time.monotonic()

    if most is None:
        with pytest.raises(ValueError, match="token"):
            span.options(**options).remote(str(tmp_path), 1)
        return

    spans = nbray.get([span.options(**options).remote(str(tmp_path), most) for _ in range(12)], timeout=60)

    assert overlap(spans) == most


def test_task_that_no_node_can_run_warns_and_other_work_goes_on() -> None:
    @nbray.remote
    def work(n: int) -> int:
        return n

    with pytest.warns(RuntimeWarning, match="64"):  # noqa: PT031  (the warning comes while others work)
        ref = work.options(num_cpus=64).remote(1)
        assert nbray.get([work.remote(n) for n in range(10)], timeout=10) == list(range(10))
        assert nbray.wait([ref], timeout=0.2) == ([], [ref])
    with pytest.raises(nbray.RayTimeoutError):
        nbray.get(ref, timeout=0)
    with pytest.warns(RuntimeWarning, match="unobtainium"):  # noqa: PT031
        other = work.options(num_cpus=0, resources={"unobtainium": 1}).remote(1)
        assert nbray.wait([other], timeout=0.2) == ([], [other])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nbray.get(work.remote(5)) == 5


@pytest.mark.parametrize("options", [
    {"num_cpus": -1}, {"num_cpus": 1.5}, {"resources": {"token": -1}}, {"resources": {"token": 2.5}},
])  # fmt: skip
def test_quantity_out_of_range_is_refused_at_the_call(options: Any) -> None:
    @nbray.remote(**options)
    def f() -> None: ...

    with pytest.raises(ValueError, match=r"num_cpus|token"):
        f.remote()


def test_all_resources_are_free_again_when_work_is_over() -> None:
    @nbray.remote(num_cpus=0.5, resources={"token": 1})
    def child() -> int:
        return 1

    @nbray.remote
    def parent() -> int:
        return sum(nbray.get([child.remote() for _ in range(4)]))

    assert nbray.get([parent.remote() for _ in range(8)], timeout=30) == [4] * 8

    def free() -> Any:
        node = nbray.status().nodes[0]
        return node["free"] == node["resources"]

    until(free, "every resource is free")


def test_numeric_libraries_may_use_the_cpus_of_their_task() -> None:
    def threads() -> str:
        return os.environ["OMP_NUM_THREADS"]

    found = [nbray.get(nbray.remote(num_cpus=cpus)(threads).remote()) for cpus in (1, 2, 0.5, 2, 0)]

    assert found == ["1", "2", "1", "2", "1"]
