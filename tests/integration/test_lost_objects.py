"""Objects whose bytes are gone: made again by the tasks that made them, or typed errors that say why not."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.errors import RayTaskError, UnreconstructableError
from tests.support.sessions import await_empty_store, await_forgotten, session, store_figures, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

MIB = 1 << 20
STORE_BYTES = 100 * MIB
LARGE = 19 * MIB


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=STORE_BYTES, lru_evict=True, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_stays(_cluster: None) -> Iterator[None]:
    yield
    await_empty_store()
    await_forgotten()
    assert len(this_process().objects.recomputing.lineage) == 0  # type: ignore[union-attr]


def array(n: int, size: int = LARGE) -> Any:
    return np.full(size, n, dtype=np.uint8)


def push_out() -> None:
    """Fill the store, so that everything else is evicted."""
    before = store_figures()["total_objects_evicted"]
    held = [nbray.put(array(n)) for n in range(2 * STORE_BYTES // LARGE)]
    assert len(held) == 10
    assert store_figures()["total_objects_evicted"] > before


@nbray.remote
def make(folder: str, n: int) -> Any:
    """Leaves a mark each time it runs."""
    with open(Path(folder) / str(n), "a") as file:
        file.write("x")
    return array(n)


@nbray.remote
def plus_one(values: Any, folder: str, n: int) -> Any:
    with open(Path(folder) / f"plus {n}", "a") as file:
        file.write("x")
    return values + 1


@nbray.remote
def block(folder: str) -> None:
    while not (Path(folder) / "go").exists():
        time.sleep(0.002)


def runs(folder: Path, name: object) -> int:
    return len((folder / str(name)).read_text())


def test_evicted_result_is_made_again_with_the_same_id(tmp_path: Path) -> None:
    ref = make.remote(str(tmp_path), 3)
    nbray.wait([ref])
    before = ref.binary()
    push_out()

    assert (nbray.get(ref) == 3).all()
    assert ref.binary() == before
    assert runs(tmp_path, 3) == 2


def test_chain_of_results_that_are_all_gone_is_made_again_from_its_start(tmp_path: Path) -> None:
    first = make.remote(str(tmp_path), 1)
    second = plus_one.remote(first, str(tmp_path), 1)
    third = plus_one.remote(second, str(tmp_path), 2)
    nbray.wait([third])
    del first, second
    push_out()

    assert (nbray.get(third) == 3).all()
    assert [runs(tmp_path, name) for name in (1, "plus 1", "plus 2")] == [2, 2, 2]


def test_task_that_takes_an_evicted_result_waits_until_it_is_made_again(tmp_path: Path) -> None:
    ref = make.remote(str(tmp_path), 4)
    nbray.wait([ref])
    push_out()

    assert (nbray.get(plus_one.remote(ref, str(tmp_path), 4)) == 5).all()


def test_borrower_of_an_evicted_result_gets_it_made_again_by_its_owner(tmp_path: Path) -> None:
    @nbray.remote
    def read(refs: list[Any]) -> int:
        return int(nbray.get(refs[0])[0])

    ref = make.remote(str(tmp_path), 6)
    nbray.wait([ref])
    push_out()

    assert nbray.get(read.remote([ref])) == 6
    assert runs(tmp_path, 6) == 2


def test_wait_has_an_evicted_result_made_again_and_counts_it_when_it_is_there(tmp_path: Path) -> None:
    @nbray.remote
    def slow(folder: str) -> Any:
        with open(Path(folder) / "slow", "a") as file:
            file.write("x")
        while runs(Path(folder), "slow") > 1 and not (Path(folder) / "go").exists():
            time.sleep(0.002)
        return array(8)

    ref = slow.remote(str(tmp_path))
    nbray.wait([ref])
    push_out()

    assert nbray.wait([ref], timeout=0) == ([], [ref])
    until(lambda: runs(tmp_path, "slow") == 2, "it is being made again")
    assert nbray.wait([ref], timeout=0.05) == ([], [ref])
    (tmp_path / "go").touch()
    assert nbray.wait([ref], timeout=20) == ([ref], [])
    assert nbray.get(ref)[0] == 8
    assert runs(tmp_path, "slow") == 2


def test_wait_of_a_borrower_has_its_owner_make_an_evicted_result_again(tmp_path: Path) -> None:
    @nbray.remote
    def owner(folder: str) -> list[Any]:
        ref = make.remote(folder, 9)
        nbray.wait([ref])
        return [ref]

    (ref,) = nbray.get(owner.remote(str(tmp_path)))
    assert nbray.get(ref)[0] == 9
    push_out()

    ready, _rest = nbray.wait([ref], timeout=20)

    assert ready == [ref]
    assert runs(tmp_path, 9) == 2
    assert nbray.get(ref)[0] == 9


def test_wait_counts_as_ready_what_is_lost_for_good() -> None:
    ref = nbray.put(array(3), weakref=True)
    push_out()

    assert nbray.wait([ref], timeout=10) == ([ref], [])
    with pytest.raises(UnreconstructableError, match="evicted"):
        nbray.get(ref)


def test_queued_task_waits_for_an_argument_that_others_have_made_again(tmp_path: Path) -> None:
    # given two tasks that take all CPUs, and one in the queue behind them that takes an evicted result
    ref = make.remote(str(tmp_path), 10)
    nbray.wait([ref])
    push_out()
    blocking = [block.remote(str(tmp_path)) for _ in range(2)]
    behind = plus_one.remote(ref, str(tmp_path), 10)

    # when somebody else has it made again, by a task that stands behind that one
    assert nbray.wait([ref], timeout=0) == ([], [ref])
    (tmp_path / "go").touch()

    # then that one waits for it
    assert (nbray.get(behind, timeout=20) == 11).all()
    assert nbray.get(blocking) == [None, None]


def test_queued_task_whose_large_argument_was_evicted_fails_and_says_why(tmp_path: Path) -> None:
    blocking = [block.remote(str(tmp_path)) for _ in range(2)]
    behind = plus_one.remote(array(1), str(tmp_path), 11)
    push_out()
    (tmp_path / "go").touch()

    with pytest.raises(UnreconstructableError, match="passed by value"):
        nbray.get(behind, timeout=20)
    assert nbray.get(blocking) == [None, None]


def test_one_result_of_several_is_made_again_and_the_others_stay_what_they_are(tmp_path: Path) -> None:
    @nbray.remote(num_returns=2)
    def two(folder: str) -> tuple[Any, Any]:
        with open(Path(folder) / "two", "a") as file:
            file.write("x")
        n = runs(Path(folder), "two")
        return array(n), array(10 + n)

    one, other = two.remote(str(tmp_path))
    nbray.wait([one, other], num_returns=2)
    view = nbray.get(other)
    push_out()

    assert nbray.get(one)[0] in (1, 2)
    assert (view == 11).all()
    assert (nbray.get(other) == 11).all()


def test_lost_value_that_was_put_is_an_error_that_says_so() -> None:
    ref = nbray.put(array(1))
    push_out()

    with pytest.raises(
        UnreconstructableError, match=r"evicted to make room, and it was put.*[Mm]ake it again"
    ):
        nbray.get(ref)
    with pytest.raises(UnreconstructableError):
        nbray.get(ref)


def test_result_made_from_a_lost_put_is_an_error_that_names_the_put(tmp_path: Path) -> None:
    put = nbray.put(array(1))
    result = plus_one.remote(put, str(tmp_path), 7)
    nbray.wait([result])
    del put
    gc.collect()
    push_out()

    with pytest.raises(UnreconstructableError, match="a value that it was made from was put"):
        nbray.get(result)


def test_task_that_takes_a_lost_put_fails_with_the_same_error(tmp_path: Path) -> None:
    put = nbray.put(array(1))
    push_out()

    with pytest.raises((UnreconstructableError, RayTaskError), match="it was put"):
        nbray.get(plus_one.remote(put, str(tmp_path), 8))


def test_result_is_made_at_most_as_often_as_retries_allow(tmp_path: Path) -> None:
    ref = make.options(max_retries=1).remote(str(tmp_path), 9)
    nbray.wait([ref])
    push_out()
    assert (nbray.get(ref) == 9).all()
    push_out()

    with pytest.raises(UnreconstructableError, match="has run 2 times, as often as its max_retries=1 allows"):
        nbray.get(ref)
    assert runs(tmp_path, 9) == 2


def test_result_of_a_task_without_retries_is_not_made_again(tmp_path: Path) -> None:
    ref = make.options(max_retries=0).remote(str(tmp_path), 10)
    nbray.wait([ref])
    push_out()

    with pytest.raises(UnreconstructableError, match="max_retries=0"):
        nbray.get(ref)


def test_on_one_cpu_a_task_that_reads_a_lost_result_lends_its_cpu_to_make_it(tmp_path: Path) -> None:
    @nbray.remote(num_cpus=2)
    def read(refs: list[Any]) -> int:
        return int(nbray.get(refs[0])[0])

    ref = make.options(num_cpus=2).remote(str(tmp_path), 11)
    nbray.wait([ref])
    push_out()

    assert nbray.get(read.remote([ref]), timeout=20) == 11


def test_worker_that_dies_while_a_result_is_made_again_costs_another_retry(tmp_path: Path) -> None:
    @nbray.remote(max_retries=3)
    def dies_second(folder: str) -> Any:
        with open(Path(folder) / "runs", "a") as file:
            file.write("x")
        if runs(Path(folder), "runs") == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return array(1)

    ref = dies_second.remote(str(tmp_path))
    nbray.wait([ref])
    push_out()

    assert (nbray.get(ref) == 1).all()
    assert runs(tmp_path, "runs") == 3


def test_objects_in_use_are_never_evicted() -> None:
    views = [nbray.get(nbray.put(array(n))) for n in range(3)]
    push_out()

    assert [int(view[-1]) for view in views] == [0, 1, 2]


def test_those_unread_for_longest_go_first(tmp_path: Path) -> None:
    refs = [make.remote(str(tmp_path), 20 + n) for n in range(4)]
    nbray.wait(refs, num_returns=4)
    held = [nbray.put(array(n)) for n in range(2)]  # the first is evicted
    assert nbray.get(refs[1])[0] == 21
    held += [nbray.put(array(n)) for n in range(2)]  # and two more, of which this is none

    assert nbray.get(refs[1])[0] == 21
    assert runs(tmp_path, 21) == 1
    assert nbray.get(refs[0])[0] == 20
    assert runs(tmp_path, 20) == 2


def test_lineage_ends_with_the_references(tmp_path: Path) -> None:
    lineage = this_process().objects.recomputing.lineage  # type: ignore[union-attr]
    refs = [make.remote(str(tmp_path), 30)]
    for n in range(5):
        refs.append(plus_one.remote(refs[-1], str(tmp_path), 30 + n))
    nbray.wait(refs, num_returns=6)
    assert (len(lineage), lineage.size_bytes > 0) == (6, True)

    del refs[1:-1]
    gc.collect()
    this_process().status()
    assert len(lineage) == 6  # the last one may need them all
    refs.clear()
    await_forgotten()
    assert (len(lineage), lineage.size_bytes) == (0, 0)
