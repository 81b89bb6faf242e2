"""A driver that forks, and a task that does: the child is inert, the session goes on."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.cluster.session import remove_stale
from nbray.model.errors import ForkedProcessError
from tests.support import procfs
from tests.support.drivers import driver, recorded
from tests.support.sessions import session
from tests.support.waiting import until

# Python 3.12 warns of every fork of a process with threads; here that is the point.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]
LEAKS_CHECKED_PER = "module"

_CHILD_DEADLINE_S = 5.0


@pytest.fixture(autouse=True, scope="module")
def cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@nbray.remote
def double(x: int) -> int:
    return 2 * x


def in_child(work: Callable[[], object]) -> str:
    """Run it in a forked child; what it raised there, or "". The child may not hang."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            work()
        except BaseException:  # noqa: BLE001  (whatever it was, the parent reads it)
            os.write(writing, traceback.format_exc().encode())
        os._exit(0)
    os.close(writing)
    try:
        until(lambda: os.waitpid(pid, os.WNOHANG)[0], "the child has ended", _CHILD_DEADLINE_S)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    with open(reading, "rb") as pipe:
        return pipe.read().decode()


def assert_session_works() -> None:
    assert nbray.get([double.remote(i) for i in range(20)], timeout=5) == [2 * i for i in range(20)]
    assert nbray.status().to_dict()["nodes"][0]["alive"]


CALLS: dict[str, Callable[[Any], object]] = {
    "remote": lambda ref: double.remote(1),
    "remote, a new function": lambda ref: nbray.remote(lambda: 1).remote(),
    "remote, with a reference": double.remote,
    "get": nbray.get,
    "get with a timeout": lambda ref: nbray.get(ref, timeout=1),
    "put": lambda ref: nbray.put(1),
    "put large": lambda ref: nbray.put(bytes(1 << 20)),
    "wait": lambda ref: nbray.wait([ref]),
    "status": lambda ref: nbray.status(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_in_the_child_is_refused(call: str) -> None:
    ref = double.remote(21)

    def work() -> None:
        with pytest.raises(ForkedProcessError, match="fork of one that uses nbray"):
            CALLS[call](ref)
        assert not nbray.is_initialized()

    assert in_child(work) == ""
    assert nbray.get(ref, timeout=5) == 42


def test_dropping_references_in_the_child_frees_nothing_of_the_parent() -> None:
    held = [nbray.put(np.full(200_000, 7.0)), double.remote(4)]
    views = [nbray.get(held[0])]

    def work() -> None:
        held.clear()
        views.clear()
        gc.collect()

    assert in_child(work) == ""
    assert float(nbray.get(held[0], timeout=5).sum()) == 1_400_000.0
    assert float(views[0].sum()) == 1_400_000.0
    assert nbray.get(held[1], timeout=5) == 8


def test_arrays_that_the_parent_had_got_can_be_read_in_the_child() -> None:
    view = nbray.get(nbray.put(np.full(200_000, 7.0)))

    def work() -> None:
        gc.collect()
        assert float(view.sum()) == 1_400_000.0

    assert in_child(work) == ""


def test_shutdown_in_the_child_ends_nothing() -> None:
    def work() -> None:
        assert nbray.shutdown() == 0

    assert in_child(work) == ""
    assert_session_works()


def test_a_child_may_start_a_session_of_its_own() -> None:
    parent = nbray.status().to_dict()["session_dir"]

    def work() -> None:
        nbray.init(num_cpus=1, log_to_driver=False)
        assert nbray.get(double.remote(21), timeout=5) == 42
        assert nbray.status().to_dict()["session_dir"] != parent
        nbray.shutdown()

    assert in_child(work) == ""
    assert_session_works()


def test_a_fork_beside_busy_threads_leaves_no_lock_taken() -> None:
    stop = threading.Event()

    def work() -> None:
        with pytest.raises(ForkedProcessError):
            nbray.remote(lambda: 1).remote()
        nbray.shutdown()
        gc.collect()

    def load() -> None:
        while not stop.is_set():
            nbray.get([double.remote(i) for i in range(20)])

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_child(work) == ""
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert_session_works()


def test_ctrl_c_in_the_child_is_its_own_though_the_parent_was_waiting(folder: Path) -> None:
    @nbray.remote
    def waits_for(path: str) -> int:
        while not Path(path).exists():
            time.sleep(0.002)
        return 7

    def work() -> None:
        def interrupted() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

        with pytest.raises(KeyboardInterrupt):
            interrupted()

    outcome: list[str] = []

    def fork_and_go() -> None:
        outcome.append(in_child(work))
        (folder / "go").touch()

    # The thread forks while the main thread is inside ``get``, where interrupts are put off.
    thread = threading.Timer(0.1, fork_and_go)
    thread.start()
    assert nbray.get(waits_for.remote(str(folder / "go")), timeout=10) == 7
    thread.join()
    assert outcome == [""]


def test_multiprocessing_children_end_quietly() -> None:
    script = """
        import multiprocessing, numpy
        nbray.init(num_cpus=2)
        @nbray.remote
        def double(x): return 2 * x
        ref = nbray.put(numpy.ones(200_000))
        def refused(i):
            try:
                nbray.get(ref)
            except nbray.NbrayError as exc:
                return type(exc).__name__
        with multiprocessing.get_context("fork").Pool(2) as pool:
            tell(pool.map(refused, range(4)))
        process = multiprocessing.get_context("fork").Process(target=sys.exit, args=(3,))
        process.start(); process.join()
        tell(process.exitcode)
        tell([nbray.get(double.remote(21), timeout=5), float(nbray.get(ref).sum())])
    """
    with driver(script) as running:
        assert running.told() == ["ForkedProcessError"] * 4
        assert running.told() == 3
        assert running.told() == [42, 200_000.0]
        assert running.ended() == 0


def test_a_child_that_runs_its_exit_handlers_does_not_end_the_session() -> None:
    script = """
        nbray.init(num_cpus=2)
        @nbray.remote
        def double(x): return 2 * x
        refs = [double.remote(i) for i in range(3)]
        child = os.fork()
        if child == 0:
            sys.exit(5)
        tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        tell(nbray.get([*refs, double.remote(21)], timeout=5))
    """
    with driver(script) as running:
        assert running.told() == 5
        assert running.told() == [0, 2, 4, 42]
        assert running.ended() == 0


def test_a_dead_sessions_directory_is_not_kept_by_a_forked_child(folder: Path) -> None:
    script = f"""
        nbray.init(num_cpus=1, temp_dir={str(folder)!r})
        child = os.fork()
        if child == 0:
            time.sleep(600)
        tell([child, nbray.status().to_dict()["processes"]["daemon"]])
        hear()
    """
    with driver(script) as running:
        child, daemon = recorded(running.told())
        try:
            os.kill(daemon.pid, signal.SIGKILL)
            running.kill()

            until(lambda: remove_stale(folder), "the next init can remove it", 5.0)
            assert list(folder.iterdir()) == []
        finally:
            os.kill(child.pid, signal.SIGKILL)


# --- tasks that fork -----------------------------------------------------------------------------------


def test_a_task_whose_forked_child_returns_too_answers_once(folder: Path) -> None:
    @nbray.remote
    def returns_twice(path: str) -> str:
        child = os.fork()
        if child:
            Path(path).write_text(str(child))
        return "child" if child == 0 else "parent"

    for index in range(3):
        path = folder / f"child-{index}"
        assert nbray.get(returns_twice.remote(str(path)), timeout=5) == "parent"
        pid = int(path.read_text())
        until(lambda: _has_ended(pid), "the child does not run on in the worker's loop", 2.0)  # noqa: B023
    assert_session_works()


def _has_ended(pid: int) -> bool:
    found = procfs.process(pid)
    return found is None or found.state == "Z"


def test_a_task_may_use_a_pool_of_forked_processes() -> None:
    @nbray.remote
    def pooled() -> list[int]:
        import multiprocessing

        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert nbray.get(pooled.remote(), timeout=10) == [1, 2, 3]


def test_a_call_in_a_tasks_forked_child_is_refused() -> None:
    @nbray.remote
    def forks() -> str:
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                nbray.put(1)
            except BaseException as exc:  # noqa: BLE001  (whatever it was, the test reads it)
                os.write(writing, type(exc).__name__.encode())
            os._exit(0)
        os.wait()
        return os.read(reading, 100).decode()

    assert nbray.get(forks.remote(), timeout=5) == "ForkedProcessError"
