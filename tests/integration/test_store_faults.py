"""kill -9 of who writes, reads or owns objects, at every stage: nothing is lost, nothing is left."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.errors import OwnerDiedError, RayTaskError, RayWorkerError
from tests.support.faults import (
    await_no_trace,
    daemon_pid,
    die,
    die_at,
    get_a_slab,
    kill_worker,
    sleeping,
    spill_file_of,
)
from tests.support.programs import stash
from tests.support.sessions import session, store_figures, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

MB = 1_000_000
STORE_BYTES = 80 * MB
SIZES = {"arena": 12 * MB, "slab": 120_000, "disk": 90 * MB}
STAGES = [
    *((stage, place)
      for place in ("arena", "disk")
      for stage in ("asked for space", "space granted, nothing written", "half written",
                    "written, not sealed", "sealed, answer not sent")),
    ("in a slab, nothing written", "slab"),
    ("in a slab, written, not told", "slab"),
    ("in a slab, told, answer not sent", "slab"),
]  # fmt: skip


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=STORE_BYTES, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_stays(_cluster: None) -> Iterator[None]:
    yield
    nbray.get([forget.remote() for _ in range(4)])
    await_no_trace()


@nbray.remote
def forget() -> None:
    stash().clear()


def array(n: int, size_bytes: int = 20 * MB) -> Any:
    return np.full(size_bytes, n, dtype=np.uint8)


def is_right(value: Any, n: int, size_bytes: int = 20 * MB) -> bool:
    return value.nbytes == size_bytes and bool((value == n).all())


def fill_store() -> list[Any]:
    """More than the store has: what was there before, and is not in use, goes to the disk."""
    return [nbray.put(array(100 + n)) for n in range(4)]


def place_of(ref: Any) -> str:
    (place,) = [row["place"] for row in nbray.memory().rows if row["object"] == ref.hex()]
    return str(place)


def await_on_disk(refs: list[Any]) -> None:
    until(lambda: {place_of(ref) for ref in refs} == {"disk"}, "they are on the disk")


# --- writers ---------------------------------------------------------------------------------------------


@nbray.remote(max_retries=0)
def store(stage: str, size_bytes: int, in_slab: bool, puts: bool, folder: str) -> Any:
    """Dies while it stores its result, or what it puts; once, if there is a folder for the mark."""
    mark = Path(folder) / "died"
    if not (folder and mark.exists()):
        if in_slab:
            get_a_slab(size_bytes)
        if folder:
            mark.touch()
        die_at(stage)
    value = array(7, size_bytes)
    return nbray.put(value) if puts else value


@pytest.mark.parametrize(("stage", "place"), STAGES)
def test_space_of_a_writer_that_is_killed_comes_back(stage: str, place: str) -> None:
    with pytest.raises(RayWorkerError, match="SIGKILL"):
        nbray.get(store.remote(stage, SIZES[place], place == "slab", True, ""), timeout=10)


@pytest.mark.parametrize(("stage", "place"), [at for at in STAGES if "answer not sent" in at[0]])
def test_result_that_was_stored_goes_when_its_worker_is_killed_before_it_says_so(
    stage: str, place: str
) -> None:
    with pytest.raises(RayWorkerError, match="SIGKILL"):
        nbray.get(store.remote(stage, SIZES[place], place == "slab", False, ""), timeout=10)


@pytest.mark.parametrize(("stage", "place"), STAGES)
def test_task_whose_worker_is_killed_while_it_writes_is_run_again_and_its_result_is_right(
    stage: str, place: str, tmp_path: Path
) -> None:
    again = store.options(max_retries=1)
    ref = again.remote(stage, SIZES[place], place == "slab", False, str(tmp_path))

    assert is_right(nbray.get(ref, timeout=10), 7, SIZES[place])
    assert (tmp_path / "died").exists()


@nbray.remote(max_retries=0)
def pid_and_put(path: str, size_bytes: int) -> Any:
    Path(path + ".new").write_text(str(os.getpid()))
    os.rename(path + ".new", path)
    return nbray.put(array(8, size_bytes))


def test_writer_that_is_killed_while_it_waits_for_room_is_forgotten(tmp_path: Path) -> None:
    views = [nbray.get(nbray.put(array(n))) for n in range(3)]
    ref = pid_and_put.remote(str(tmp_path / "pid"), 40 * MB)
    until((tmp_path / "pid").exists, "it runs")
    until(lambda: store_figures()["creations_waiting"], "it waits for room")

    kill_worker(int((tmp_path / "pid").read_text()))

    with pytest.raises(RayWorkerError):
        nbray.get(ref, timeout=5)
    assert not store_figures()["creations_waiting"]
    assert all(is_right(view, n) for n, view in enumerate(views))


@pytest.mark.parametrize("held", [True, False])
def test_writer_that_is_killed_while_its_object_is_spilled(held: bool) -> None:
    # given an object of a worker, of which a thread of the daemon writes the first bytes to the disk
    pid, refs = nbray.get(make.remote([60 * MB]))
    daemon = daemon_pid()
    nothing_spilled = store_figures()["total_objects_spilled"]
    filler = threading.Thread(target=lambda: others.extend(fill_store()))
    others: list[Any] = []
    filler.start()
    until(lambda: is_writing(daemon), "the disk has space for it")

    # when its owner is killed
    with sleeping(daemon):
        os.kill(pid, signal.SIGKILL)
        if not held:
            refs.clear()
    filler.join(20)

    # then it is as it was for who holds it
    assert [is_right(nbray.get(ref), 100 + n) for n, ref in enumerate(others)] == [True] * 4
    assert [is_right(nbray.get(ref), 0, 60 * MB) for ref in refs] == [True] * len(refs)
    assert store_figures()["total_objects_spilled"] > nothing_spilled


def is_writing(daemon: int) -> bool:
    path = spill_file_of(daemon)
    return bool(path) and os.stat(path).st_size > 0


# --- readers ---------------------------------------------------------------------------------------------


@nbray.remote(max_retries=0)
def read_and_keep(refs: list[Any]) -> tuple[int, list[str], list[int]]:
    """Keeps views of them after the task."""
    views = [nbray.get(ref) for ref in refs]
    stash().extend(views)
    entries = this_process().objects.table.entries
    paths = [getattr(entries[ref.binary()].value, "path", "it is not here") for ref in refs]
    return os.getpid(), paths, [int(view[-1]) for view in views]


@nbray.remote(max_retries=0)
def ask_and_die(refs: list[Any]) -> None:
    """Dies when the daemon has been asked for the first, before it answers."""
    from nbray.runtime.objects import Objects

    ask = Objects.ask

    def ask_once(objects: Any, entries: Any) -> None:
        ask(objects, entries)
        die()

    setattr(Objects, "ask", ask_once)  # noqa: B010  (mypy refuses the assignment)
    nbray.get(refs[0])


def test_views_of_a_reader_that_is_killed_go_and_all_can_move_again() -> None:
    refs = [nbray.put(array(n)) for n in range(3)]
    pid, _paths, last = nbray.get(read_and_keep.remote(refs))
    assert last == [0, 1, 2]
    until(lambda: store_figures()["pinned"] == 3, "it has pins")

    kill_worker(pid)
    others = fill_store()

    await_on_disk(refs[:2])
    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(refs)] == [True] * 3
    assert [is_right(nbray.get(ref), 100 + n) for n, ref in enumerate(others)] == [True] * 4


def test_reader_that_is_killed_while_it_waits_for_a_restore_changes_nothing() -> None:
    refs = [nbray.put(array(n)) for n in range(3)]
    others = fill_store()
    await_on_disk(refs[:2])

    with pytest.raises(RayWorkerError):
        nbray.get(ask_and_die.remote(refs), timeout=10)

    until(lambda: not store_figures()["waited_for"], "nobody waits for it")
    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(refs)] == [True] * 3
    del others


def test_reader_that_is_killed_while_no_room_comes_for_a_restore_is_waited_for_no_more() -> None:
    large = nbray.put(array(9, 40 * MB))
    views = [nbray.get(nbray.put(array(n))) for n in range(3)]
    await_on_disk([large])

    with pytest.raises(RayWorkerError):
        nbray.get(ask_and_die.remote([large]), timeout=10)

    until(lambda: not store_figures()["waited_for"], "nobody waits for it")
    assert all(is_right(view, n) for n, view in enumerate(views))
    del views
    assert is_right(nbray.get(large), 9, 40 * MB)


def test_reader_of_the_spill_file_that_is_killed_lets_go_of_it() -> None:
    large = nbray.put(array(9, 40 * MB))
    views = [nbray.get(nbray.put(array(n))) for n in range(3)]
    await_on_disk([large])
    pid, (path,), last = nbray.get(read_and_keep.remote([large]))
    assert (last, "/fd/" in path) == ([9], True)

    kill_worker(pid)

    assert all(is_right(view, n) for n, view in enumerate(views))
    del views
    assert is_right(nbray.get(large), 9, 40 * MB)
    others = fill_store()
    assert is_right(nbray.get(large), 9, 40 * MB)
    del others


def test_space_on_the_disk_returns_when_the_last_reader_of_a_freed_object_is_killed() -> None:
    large = nbray.put(array(9, 90 * MB))
    pid, (path,), last = nbray.get(read_and_keep.remote([large]))
    assert (last, "/fd/" in path) == ([9], True)
    del large
    gc.collect()
    until(lambda: store_figures()["lingering"] == 1, "its owner has freed it")
    assert store_figures()["spill_file_bytes"] >= 90 * MB  # for its reader

    kill_worker(pid)

    until(lambda: not store_figures()["spill_file_bytes"], "its space is back")


# --- owners ----------------------------------------------------------------------------------------------


@nbray.remote(max_retries=0)
def make(sizes: list[int]) -> tuple[int, list[Any]]:
    return os.getpid(), [nbray.put(array(n, size)) for n, size in enumerate(sizes)]


@nbray.remote(max_retries=0)
def make_nested() -> tuple[int, list[Any]]:
    inner = [nbray.put(array(n)) for n in range(2)]
    return os.getpid(), [nbray.put([nbray.put(inner), array(5)])]


@nbray.remote(max_retries=0)
def last_of(refs: list[Any]) -> list[int]:
    return [int(nbray.get(ref)[-1]) for ref in refs]


def test_small_values_outlive_the_worker_that_owned_them() -> None:
    sizes = [1, 20, 50_000]
    pid, refs = nbray.get(make.remote(sizes))
    until(lambda: store_figures()["sealed"] == 3, "they have moved to the store")

    kill_worker(pid)

    assert nbray.get(last_of.remote(refs)) == [0, 1, 2]
    assert [is_right(nbray.get(refs[n]), n, size) for n, size in enumerate(sizes)] == [True] * 3


def test_spilled_objects_outlive_the_worker_that_owned_them() -> None:
    pid, refs = nbray.get(make.remote([20 * MB] * 3))
    others = fill_store()
    await_on_disk(refs[:2])

    kill_worker(pid)

    until(lambda: store_figures()["orphans"] == 3, "the node has inherited them")
    assert nbray.get(last_of.remote(refs)) == [0, 1, 2]
    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(refs)] == [True] * 3
    assert [is_right(nbray.get(ref), 100 + n) for n, ref in enumerate(others)] == [True] * 4


def test_inherited_objects_can_be_spilled() -> None:
    pid, refs = nbray.get(make.remote([20 * MB] * 3))
    kill_worker(pid)
    until(lambda: store_figures()["orphans"] == 3, "the node has inherited them")

    others = fill_store()
    await_on_disk(refs[:2])

    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(refs)] == [True] * 3
    del others


def test_object_on_the_disk_that_nobody_else_holds_goes_with_its_owner() -> None:
    pid, refs = nbray.get(make.remote([20 * MB] * 3))
    others = fill_store()
    await_on_disk(refs[:2])

    with sleeping(daemon_pid()):
        os.kill(pid, signal.SIGKILL)
        refs.clear()
        gc.collect()

    until(lambda: store_figures()["objects"] == 4, "only those of the driver are left")
    assert [is_right(nbray.get(ref), 100 + n) for n, ref in enumerate(others)] == [True] * 4


def test_containers_on_the_disk_keep_what_they_contain_when_their_owner_is_killed() -> None:
    pid, (outermost,) = nbray.get(make_nested.remote())
    others = fill_store()
    until(lambda: store_figures()["spilled"] >= 3, "they are on the disk")

    kill_worker(pid)

    middle, values = nbray.get(outermost)
    assert is_right(values, 5)
    del values
    inner = nbray.get(middle)
    del outermost, middle
    gc.collect()
    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(inner)] == [True] * 2
    del others


def test_borrower_that_waits_for_a_restore_gets_it_although_the_owner_is_killed() -> None:
    pid, refs = nbray.get(make.remote([20 * MB] * 3))
    others = fill_store()
    await_on_disk(refs[:2])
    got: list[bool] = []
    reader = threading.Thread(target=lambda: got.append(is_right(nbray.get(refs[0], timeout=10), 0)))
    asked = this_process().objects.table.entries[refs[0].binary()]

    with sleeping(daemon_pid()):
        reader.start()
        until(lambda: asked.asked, "the driver has asked for it")
        os.kill(pid, signal.SIGKILL)
    reader.join(10)

    assert got == [True]
    del others


def test_everybody_who_waits_for_a_result_of_a_dead_owner_hears_of_it() -> None:
    @nbray.remote(num_cpus=0, max_retries=0)
    def never() -> Any:
        import time

        time.sleep(600)

    @nbray.remote(num_cpus=0, max_retries=0)
    def starts() -> tuple[int, list[Any]]:
        return os.getpid(), [never.remote()]

    pid, refs = nbray.get(starts.remote())
    # One of these may run in the owner itself; the others borrow.
    waiting = [last_of.options(num_cpus=0).remote(refs) for _ in range(3)]
    until(lambda: store_figures()["waited_for"], "a borrower waits")

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(OwnerDiedError):
        nbray.get(refs[0], timeout=2)
    ends = [how_it_ends(ref) for ref in waiting]
    assert sum("OwnerDiedError" in end for end in ends) >= 2, ends


def how_it_ends(ref: Any) -> str:
    try:
        return f"with {nbray.get(ref, timeout=2)}"
    except (RayTaskError, RayWorkerError) as exc:
        return str(exc)


def test_view_of_the_spill_file_stays_good_when_the_owner_is_killed() -> None:
    pid, (ref,) = nbray.get(make.remote([90 * MB]))
    view = nbray.get(ref)
    kill_worker(pid)
    del ref
    gc.collect()
    others = fill_store()

    assert is_right(view, 0, 90 * MB)
    del others, view
