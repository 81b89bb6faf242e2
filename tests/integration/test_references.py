"""Counted references: an object is there while anybody holds it, and gone soon after."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.internal import free
from nbray.model.errors import OwnerDiedError, RayTaskError, RayWorkerError, UnreconstructableError
from nbray.wire.base import Descriptor
from tests.support.programs import stash
from tests.support.sessions import await_empty_store, await_forgotten, session, store_figures, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

LARGE = 1_000_000


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=160 << 20, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_stays(_cluster: None) -> Iterator[None]:
    yield
    nbray.get([forget.remote() for _ in range(4)])
    await_empty_store()
    await_forgotten()


def array(n: int) -> Any:
    return np.full(LARGE // 8, float(n))


@nbray.remote
def forget() -> None:
    stash().clear()


@nbray.remote(max_retries=0)
def keep(refs: list[Any]) -> int:
    """Keeps them in this worker, after the task."""
    stash().extend(refs)
    return os.getpid()


@nbray.remote
def length(refs: list[Any]) -> int:
    return len(refs)


@nbray.remote
def total(refs: list[Any]) -> float:
    return float(sum(np.sum(value) for value in nbray.get(refs)))


# --- containers ------------------------------------------------------------------------------------------


def test_object_lives_while_a_stored_list_holds_it_and_goes_with_the_list() -> None:
    inner = nbray.put(array(3))
    outer = nbray.put([[inner]])
    outermost = nbray.put({"deep": outer})
    del inner, outer
    gc.collect()

    ((found,),) = nbray.get(nbray.get(outermost)["deep"])
    assert nbray.get(found)[0] == 3

    del found, outermost
    await_empty_store()


def test_chain_of_ten_thousand_objects_that_contain_each_other_is_freed_without_recursion() -> None:
    link = nbray.put(0)
    for _ in range(10_000):
        link = nbray.put([link])

    del link
    await_empty_store()


def test_results_hold_what_they_refer_to_although_nobody_looked_into_them() -> None:
    @nbray.remote
    def made() -> list[Any]:
        return [nbray.put(array(n)) for n in range(3)]

    result = made.remote()
    nbray.wait([result])
    nbray.get([forget.remote() for _ in range(20)])

    assert [value[0] for value in nbray.get(nbray.get(result))] == [0, 1, 2]


def test_result_that_nobody_wants_takes_its_references_along() -> None:
    @nbray.remote
    def made() -> list[Any]:
        return [nbray.put(array(1))]

    for _ in range(20):
        made.remote()
    await_forgotten()
    await_empty_store()


def test_reference_that_a_task_gets_and_returns_is_the_same_object() -> None:
    ref = nbray.put(array(5))

    @nbray.remote
    def back(refs: list[Any]) -> list[Any]:
        return refs

    (same,) = nbray.get(back.remote([ref]))
    assert same == ref
    del ref
    assert nbray.get(same)[0] == 5


def test_exception_may_carry_references() -> None:
    class PartialError(Exception):
        def __init__(self, done: list[Any]) -> None:
            super().__init__("half of it")
            self.done = done

    @nbray.remote
    def fails() -> None:
        raise PartialError([nbray.put(array(7))])

    def look() -> float:
        try:
            nbray.get(fails.remote())
        except PartialError as exc:
            return float(nbray.get(exc.done[0])[0])
        return 0.0

    assert look() == 7
    gc.collect()


# --- borrowers -------------------------------------------------------------------------------------------


def test_error_whose_reference_was_shared_is_that_error_for_everybody() -> None:
    """It lies in the store then, as all that is shared does."""

    @nbray.remote
    def fails() -> None:
        raise ValueError("the first one")

    @nbray.remote
    def takes(*_values: Any) -> None:
        raise AssertionError("unreachable")

    class Actor:
        def takes(self, value: Any) -> None:
            raise AssertionError("unreachable")

    failed = fails.remote()
    nbray.wait([failed])
    assert nbray.get(length.remote([failed])) == 1
    entry = this_process().objects.table.entries[failed.binary()]
    until(lambda: type(entry.value) is Descriptor, "it lies in the store")

    actor: Any = nbray.remote(num_cpus=0)(Actor)
    actor = actor.remote()
    for ref in (failed, takes.remote(failed), takes.remote(nbray.put(1), failed), actor.takes.remote(failed)):
        with pytest.raises(ValueError, match="the first one"):
            nbray.get(ref, timeout=10)
        with pytest.raises(ValueError, match="the first one"):
            nbray.get([ref, ref], timeout=10)


def test_object_lives_while_a_worker_keeps_a_reference_after_its_task() -> None:
    ref = nbray.put(array(4))
    nbray.get(keep.remote([ref]))
    del ref
    gc.collect()
    until(lambda: store_figures()["let_go"] == 1, "its owner has let go")

    assert store_figures()["objects"] == 1
    nbray.get([forget.remote() for _ in range(4)])
    await_empty_store()


def test_borrower_that_is_killed_holds_nothing_any_more() -> None:
    ref = nbray.put(array(4))
    pid = nbray.get(keep.remote([ref]))
    del ref
    gc.collect()
    until(lambda: store_figures()["let_go"] == 1, "its owner has let go")

    os.kill(pid, signal.SIGKILL)
    await_empty_store()


def test_borrower_hands_on_and_dies_and_the_object_stays() -> None:
    @nbray.remote(max_retries=0)
    def hand_on(refs: list[Any]) -> tuple[int, int]:
        return os.getpid(), nbray.get(keep.remote(refs))

    ref = nbray.put(array(6))
    first, second = nbray.get(hand_on.remote([ref]))
    assert first != second
    until(lambda: not nbray.status().to_dict()["leases"]["granted"], "the second is nobody's worker now")
    os.kill(first, signal.SIGKILL)
    until(lambda: first not in nbray.status().to_dict()["processes"]["workers"], "it is gone")
    del ref
    gc.collect()
    until(lambda: store_figures()["let_go"] == 1, "its owner has let go")

    assert store_figures()["objects"] == 1


def test_object_that_is_dropped_while_a_task_reads_it_is_there_until_the_task_is_over() -> None:
    refs = [nbray.put(array(n)) for n in range(4)]
    result = total.remote(refs)
    del refs
    gc.collect()

    assert nbray.get(result) == 6 * LARGE / 8


def test_borrower_drops_and_takes_again_many_times() -> None:
    ref = nbray.put([nbray.put(array(1))])
    for _ in range(200):
        (inner,) = nbray.get(ref)
        assert nbray.get(inner)[0] == 1


# --- owners that die -------------------------------------------------------------------------------------


@nbray.remote(max_retries=0)
def make(numbers: list[int]) -> tuple[int, list[Any]]:
    return os.getpid(), [nbray.put(array(n)) for n in numbers]


def test_sealed_objects_outlive_the_worker_that_owned_them() -> None:
    pid, refs = nbray.get(make.remote([1, 2]))
    os.kill(pid, signal.SIGKILL)
    until(lambda: store_figures()["orphans"] == 2, "the node has inherited them")

    assert [value[0] for value in nbray.get(refs)] == [1, 2]
    del refs
    await_empty_store()


def test_what_an_inherited_object_contains_stays_with_it() -> None:
    @nbray.remote(max_retries=0)
    def nested() -> tuple[int, Any]:
        return os.getpid(), [nbray.put([nbray.put(array(8)), "x" * LARGE])]

    pid, (outer,) = nbray.get(nested.remote())
    os.kill(pid, signal.SIGKILL)
    until(lambda: store_figures()["orphans"] == 2, "the node has inherited both")

    inner = nbray.get(outer)[0]
    assert nbray.get(inner)[0] == 8


def test_result_to_come_of_a_dead_owner_is_a_typed_error() -> None:
    @nbray.remote(max_retries=0)
    def never() -> None:
        import time

        time.sleep(600)

    @nbray.remote(max_retries=0)
    def starts() -> tuple[int, list[Any]]:
        return os.getpid(), [never.remote()]

    pid, (ref,) = nbray.get(starts.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(OwnerDiedError):
        nbray.get(ref, timeout=10)


def test_worker_that_dies_with_a_parcel_on_its_way_leaves_no_hold_behind() -> None:
    @nbray.remote(max_retries=0)
    def dies(refs: list[Any]) -> list[Any]:
        from nbray.worker.executor import Executor

        def die(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Executor, "_answer", die)  # noqa: B010  # after the parcel, before the answer
        return refs

    ref = nbray.put(array(1))
    with pytest.raises(RayWorkerError):
        nbray.get(dies.remote([ref]))
    until(lambda: not store_figures()["parcels"], "nobody waits for the parcel")


# --- pickles by hand, captures -------------------------------------------------------------------------


def test_pickle_made_by_hand_holds_its_object_for_the_life_of_the_process() -> None:
    @nbray.remote(max_retries=0)
    def pickled(n: int) -> tuple[int, bytes]:
        return os.getpid(), pickle.dumps(nbray.put(array(n)))

    pid, data = nbray.get(pickled.remote(9))
    nbray.get([forget.remote() for _ in range(20)])

    @nbray.remote
    def load(data: bytes) -> float:
        return float(nbray.get(pickle.loads(data))[0])

    assert nbray.get(pickle.loads(data))[0] == 9
    assert nbray.get(load.remote(data)) == 9
    os.kill(pid, signal.SIGKILL)
    await_empty_store()


def with_capture(ref: Any) -> Any:
    @nbray.remote
    def captures() -> float:
        return float(nbray.get(ref)[0])

    return captures


def test_function_keeps_what_it_captured() -> None:
    nbray.shutdown()
    with session(num_cpus=2):
        captures = with_capture(nbray.put(array(2)))
        assert nbray.get(captures.remote()) == 2
        gc.collect()
        assert nbray.get([captures.remote() for _ in range(4)]) == [2] * 4
    nbray.init(num_cpus=2, object_store_memory=160 << 20, log_to_driver=False)


# --- retries ---------------------------------------------------------------------------------------------


def test_retried_task_finds_the_references_in_its_arguments(tmp_path: Path) -> None:
    @nbray.remote(max_retries=2)
    def dies_first(refs: list[Any], folder: str) -> float:
        value = float(nbray.get(refs[0])[0])
        if not (Path(folder) / "died").exists():
            (Path(folder) / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    result = dies_first.remote([nbray.put(array(3))], str(tmp_path))
    gc.collect()

    assert nbray.get(result) == 3


# --- freed by force ------------------------------------------------------------------------------------


def test_freed_object_is_an_error_for_everybody_and_its_space_returns() -> None:
    ref = nbray.put(array(1))
    nbray.get(keep.remote([ref]))
    free([ref])

    with pytest.raises(UnreconstructableError, match="freed"):
        nbray.get(ref)
    with pytest.raises((UnreconstructableError, RayTaskError), match="freed"):
        nbray.get(total.remote([ref]))
    until(lambda: not store_figures()["used_bytes"] or store_figures()["objects"] <= 1, "the space is back")


def test_view_of_a_freed_object_stays_good() -> None:
    ref = nbray.put(array(6))
    view = nbray.get(ref)
    free(ref)
    others = [nbray.put(array(n)) for n in range(20)]

    assert (view == 6).all()
    del others


def test_borrowed_object_can_be_freed() -> None:
    _pid, (ref,) = nbray.get(make.remote([5]))
    free([ref])

    until(lambda: not store_figures()["objects"], "its owner has freed it")
    with pytest.raises(UnreconstructableError):
        nbray.get(ref, timeout=10)


@pytest.mark.parametrize("size", [8, 300_000], ids=["small", "large"])
def test_who_frees_a_borrowed_object_finds_it_gone_at_once(size: int) -> None:
    @nbray.remote
    def read_and_free(refs: list[Any]) -> str:
        from nbray.internal import free

        view = nbray.get(refs[0])
        free(refs)
        try:
            nbray.get(refs[0])
        except UnreconstructableError as exc:
            return f"{exc} {view[0]}"
        return "still there"

    ref = nbray.put(np.full(size, 7, dtype=np.uint8))

    text = nbray.get(read_and_free.remote([ref]))

    assert "freed" in text
    assert text.endswith("7")
    with pytest.raises(UnreconstructableError, match="freed"):
        until(lambda: nbray.get(ref) is None, "its owner has heard of it")


def test_result_that_is_still_to_come_is_not_freed_and_can_be_when_it_is_there(tmp_path: Path) -> None:
    @nbray.remote
    def slow(folder: str) -> Any:
        while not (Path(folder) / "go").exists():
            time.sleep(0.002)
        return np.full(300_000, 7, dtype=np.uint8)

    @nbray.remote
    def free_it(refs: list[Any]) -> None:
        from nbray.internal import free

        free(refs)

    ref = slow.remote(str(tmp_path))
    nbray.get(free_it.remote([ref]))  # by a borrower
    free([ref])  # by its owner
    (tmp_path / "go").touch()

    assert nbray.get(ref)[0] == 7
    nbray.get(free_it.remote([ref]))
    with pytest.raises(UnreconstructableError, match="freed"):
        until(lambda: nbray.get(ref) is None, "its owner has heard of it")


def test_small_value_that_is_freed_while_it_moves_to_the_store_is_gone_for_all() -> None:
    @nbray.remote
    def read(refs: list[Any]) -> str:
        try:
            return str(nbray.get(refs[0]))
        except UnreconstructableError as exc:
            return str(exc)

    for n in range(20):
        ref = nbray.put(n)
        answer = read.remote([ref])  # it begins to move
        free([ref])

        text = nbray.get(answer, timeout=20)
        assert text == str(n) or "freed" in text
        with pytest.raises(UnreconstructableError, match="freed"):
            nbray.get(ref)


def test_free_takes_references_only() -> None:
    with pytest.raises(TypeError, match="references"):
        free([1])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="references"):
        free("x")  # type: ignore[arg-type]


def test_no_reference_costs_the_daemon_anything_when_all_is_over() -> None:
    refs = [nbray.put(n) for n in range(100)]
    nbray.get(total.remote(refs))
    del refs
    await_empty_store()

    figures = store_figures()
    names = ("borrowed", "borrows", "parcels", "ended_early", "orphans", "let_go", "waited_for", "pinned")
    assert {name: figures[name] for name in names} == dict.fromkeys(names, 0)
    assert not this_process().objects.table.entries or all(
        entry.exported for entry in this_process().objects.table.entries.values()
    )
