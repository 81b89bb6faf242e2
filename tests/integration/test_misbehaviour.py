"""Tasks that misbehave: each ends in its value or its typed error, and the next ten are right.

The rows come with ``max_retries`` 0 and 3, in one session, one after the other: what one of them leaves
behind would hurt the next.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.errors import NbrayError, RayTaskError, RayWorkerError, SerializationError
from tests.support.drivers import is_gone, recorded
from tests.support.sessions import await_empty_store, session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

RETRIES = pytest.mark.parametrize("retries", [0, 3])


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False, logging_level="error"):
        yield


@nbray.remote
def double(n: int) -> int:
    return 2 * n


def assert_the_next_ten_are_right() -> None:
    assert nbray.get([double.remote(n) for n in range(10)], timeout=10) == [2 * n for n in range(10)]
    until(lambda: nbray.status().to_dict()["leases"]["queued"] == 0, "nothing is queued")


def submitted(body: Callable[[], Any], retries: int) -> Any:
    return nbray.remote(max_retries=retries)(body).remote()


# --- processes that end -----------------------------------------------------------------------------------


def _kill_self(name: str) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), getattr(signal, name))


def _read_address_zero() -> None:
    ctypes.string_at(0)


def _overflow_by_json() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    sys.setrecursionlimit(10**9)
    json.dumps(deep)


def _overflow_by_pickle() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    sys.setrecursionlimit(10**9)
    pickle.dumps(deep)


#: By which signal, or with which exit code; and whether that is a crash by what the task itself did.
ENDS: dict[str, tuple[Callable[[], Any], int, int, bool]] = {
    "address zero": (_read_address_zero, signal.SIGSEGV, 0, True),
    "abort": (os.abort, signal.SIGABRT, 0, True),
    **{
        name: (_kill_self(name), getattr(signal, name), 0, name not in ("SIGKILL", "SIGTERM", "SIGALRM"))
        for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGTERM", "SIGALRM")
    },
    "_exit 0": (lambda: os._exit(0), 0, 0, False),
    "_exit 7": (lambda: os._exit(7), 0, 7, False),
    "sys.exit": (sys.exit, 0, 0, False),
    "sys.exit 3": (lambda: sys.exit(3), 0, 3, False),
    "stack overflow in json": (_overflow_by_json, signal.SIGSEGV, 0, True),
    "stack overflow in pickle": (_overflow_by_pickle, signal.SIGSEGV, 0, True),
}


@RETRIES
@pytest.mark.parametrize("end", ENDS)
def test_a_worker_that_ends_is_a_typed_error_that_says_how(end: str, retries: int) -> None:
    body, term_signal, exit_code, is_crash = ENDS[end]
    if end.startswith("stack overflow") and sys.version_info >= (3, 12):
        pytest.skip("Python guards its C stack from 3.12 on: a RecursionError, or no error at all")

    def resourceful() -> Any:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return body()

    with pytest.raises(RayWorkerError) as caught:
        nbray.get(submitted(resourceful, retries), timeout=10)

    error = caught.value
    assert (error.term_signal, error.exit_code) == (term_signal, exit_code)
    assert error.max_attempts == retries + 1
    assert f"attempt {error.attempt} of {retries + 1}" in str(error)
    # A crash may come later than a moment after the start when the machine is busy: then all are made.
    assert error.attempt == retries + 1 or (is_crash and error.is_poison and error.attempt >= 2)
    assert error.pid > 0
    assert "resourceful" in str(error)
    if is_crash:
        assert "Fatal Python error" in error.stderr_tail
        assert "in resourceful" in error.stderr_tail or "stack overflow" in end
        assert "executor.py" not in error.stderr_tail
    assert_the_next_ten_are_right()


def test_a_crash_that_comes_at_once_is_not_repeated_and_the_error_says_so() -> None:
    def attempts() -> RayWorkerError:
        with pytest.raises(RayWorkerError) as caught:
            nbray.get(submitted(os.abort, 1000), timeout=60)
        return caught.value

    # On a machine that is busy an attempt may seem to last longer; two in a row do not, for long.
    error = attempts()

    assert error.is_poison
    assert error.attempt < 100
    assert "not run again" in str(error)


def test_a_signal_that_others_send_does_not_count_as_the_tasks_own_crash() -> None:
    with pytest.raises(RayWorkerError, match="attempt 6 of 6"):
        nbray.get(submitted(_kill_self("SIGKILL"), 5), timeout=20)


@RETRIES
def test_recursion_without_end_is_an_ordinary_failure(retries: int) -> None:
    def forever() -> None:
        def again() -> None:
            again()

        again()

    with pytest.raises(RecursionError):
        nbray.get(submitted(forever, retries), timeout=10)
    assert_the_next_ten_are_right()


# --- descriptors ------------------------------------------------------------------------------------------


def _close_all() -> None:
    os.closerange(3, 4096)


def _close_all_and_stay() -> None:
    os.closerange(3, 4096)
    time.sleep(30)


def _over_all_sockets() -> int:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in os.listdir("/proc/self/fd"):
        if _link(fd).startswith("socket:"):
            os.dup2(null, int(fd))
    return 1


def _close_newest_socket() -> None:
    """The owner's."""
    os.close(max(int(fd) for fd in os.listdir("/proc/self/fd") if _link(fd).startswith("socket:")))


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@RETRIES
@pytest.mark.parametrize("body", [_close_all, _close_all_and_stay, _over_all_sockets, _close_newest_socket])
def test_a_task_that_closes_our_descriptors_is_told_so(body: Callable[[], Any], retries: int) -> None:
    with pytest.raises(RayWorkerError, match="transport was closed by the task") as caught:
        nbray.get(submitted(body, retries), timeout=10)

    assert caught.value.attempt == retries + 1
    assert_the_next_ten_are_right()


@pytest.mark.parametrize("fds", [(0, 1, 2), (1,), (2,)])
def test_a_task_may_close_its_standard_streams_and_costs_the_worker(fds: tuple[int, ...]) -> None:
    def closes() -> int:
        for fd in fds:
            os.close(fd)
        return os.getpid()

    pid = nbray.get(submitted(closes, 0), timeout=10)
    (process,) = recorded([pid])

    until(lambda: is_gone(process), "a worker that can print takes its place", 5.0)
    assert_the_next_ten_are_right()


# --- what cannot travel -----------------------------------------------------------------------------------


class _Reduce:
    """Its pickling does something."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def __reduce__(self) -> Any:
        self.act()
        raise AssertionError("the act should have raised")


def _raise_value_error() -> None:
    raise ValueError("do not pickle me")


def _generator() -> Any:
    return (n for n in range(3))


def _socket() -> Any:
    import socket

    return socket.socket()


def _deep() -> Any:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    return deep


UNPICKLABLE: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "socket": _socket,
    "generator": _generator,
    "file": lambda: open(os.devnull, "w"),  # noqa: SIM115
    "frame": sys._getframe,
    "thread": threading.Thread,
    "reduce raises": lambda: _Reduce(_raise_value_error),
    "reduce exits": lambda: _Reduce(lambda: sys.exit(3)),
}


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_a_result_that_cannot_be_pickled_is_named_with_its_path(kind: str) -> None:
    make = UNPICKLABLE[kind]

    for retries in (0, 3):
        with pytest.raises(SerializationError, match=r"result\[3\]\['x'\]"):
            nbray.get(submitted(lambda: [0, 1, 2, {"x": make()}], retries), timeout=10)
    assert_the_next_ten_are_right()


@pytest.mark.parametrize("kind", UNPICKLABLE)
def test_an_argument_that_cannot_be_pickled_is_refused_at_the_call_with_its_path(kind: str) -> None:
    value = UNPICKLABLE[kind]()

    with pytest.raises(SerializationError, match=r"args\[0\]\[3\]\['x'\]"):
        double.remote([0, 1, 2, {"x": value}])
    with pytest.raises(SerializationError, match=r"kwargs\['n'\]"):
        double.remote(n=value)

    if hasattr(value, "close"):
        value.close()
    assert_the_next_ten_are_right()


def test_a_list_that_is_too_deep_is_a_typed_error_both_ways() -> None:
    with pytest.raises(SerializationError, match="result"):
        nbray.get(submitted(_deep, 0), timeout=10)
    with pytest.raises(SerializationError, match="args"):
        double.remote(_deep())
    assert_the_next_ten_are_right()


def test_values_that_look_odd_come_back_as_they_were() -> None:
    def odd() -> Any:
        return {
            "module": json,
            "nan": float("nan"),
            "minus zero": -0.0,
            "objects": np.array([1, "a", None], dtype=object),
            "0-d": np.array(3.5),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "masked": np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
            "bytearray": bytearray(b"ab"),
            "memoryview": memoryview(b"cd"),
        }

    got = nbray.get(submitted(odd, 0), timeout=10)

    assert got["module"] is json
    assert got["nan"] != got["nan"]
    assert str(got["minus zero"]) == "-0.0"
    assert got["objects"].tolist() == [1, "a", None]
    assert got["0-d"].shape == ()
    assert got["fortran"].flags.f_contiguous
    assert got["masked"].tolist() == [1, None, 3]
    assert got["bytearray"] == b"ab"
    assert bytes(got["memoryview"]) == b"cd"
    assert_the_next_ten_are_right()


def test_nothing_of_a_failed_result_stays_in_the_store() -> None:
    def large_and_bad() -> Any:
        return [np.ones(300_000), threading.Lock()]

    with pytest.raises(SerializationError):
        nbray.get(submitted(large_and_bad, 3), timeout=10)

    await_empty_store()


# --- what a task changes of its process -------------------------------------------------------------------


def _surroundings() -> dict[str, Any]:
    mask = os.umask(0o77)
    os.umask(mask)
    return {
        "cwd": os.getcwd(),
        "umask": mask,
        "environment": {name: value for name, value in os.environ.items() if name != "NBRAY_WORKER_ID"},
        "SIGTERM": str(signal.getsignal(signal.SIGTERM)),
        "SIGALRM": str(signal.getsignal(signal.SIGALRM)),
        "SIGINT": str(type(signal.getsignal(signal.SIGINT)).__name__),
        "collects": __import__("gc").isenabled(),
        "depth": sys.getrecursionlimit(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "streams": (type(sys.stdout).__name__, type(sys.stderr).__name__),
        "timer": signal.getitimer(signal.ITIMER_REAL),
    }


def _change_all() -> int:
    import gc

    os.chdir("/")
    os.umask(0)
    os.environ["NBRAY_TEST_LEFT"] = "1"
    os.environ.pop("PATH", None)
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGSEGV):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    gc.disable()
    sys.setrecursionlimit(4321)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    sys.stdout = sys.stderr = None
    return os.getpid()


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_task_changed_of_its_process_is_changed_back(fails: bool) -> None:
    def change() -> int:
        pid = _change_all()
        if fails:
            raise ValueError(pid)
        return pid

    before = nbray.get([submitted(_surroundings, 0) for _ in range(4)], timeout=10)[0]
    failed = 0
    for _ in range(4):  # so that both workers, if there are two, had one
        try:
            nbray.get(submitted(change, 0), timeout=10)
        except ValueError:
            failed += 1
    for after in nbray.get([submitted(_surroundings, 0) for _ in range(8)], timeout=10):
        assert after == before
    assert failed == (4 if fails else 0)

    time.sleep(0.4)  # a timer that went on would end a worker now
    assert_the_next_ten_are_right()
    with pytest.raises(RayWorkerError, match="Fatal Python error"):  # told again, though it was ignored
        nbray.get(submitted(_read_address_zero, 0), timeout=10)


def test_a_limit_that_cannot_be_raised_again_costs_the_worker() -> None:
    def lower() -> tuple[int, bool]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        except (ValueError, OSError):
            return os.getpid(), True
        return os.getpid(), False

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    pid, is_final = nbray.get(submitted(lower, 0), timeout=10)

    def limit() -> tuple[int, Any]:
        return os.getpid(), resource.getrlimit(resource.RLIMIT_NOFILE)

    for other, found in nbray.get([submitted(limit, 0) for _ in range(8)], timeout=10):
        assert found == before
        assert other != pid or not is_final


def test_modules_and_seeds_stay_as_tasks_left_them() -> None:
    def seed() -> tuple[int, float]:
        random.seed(7)
        return os.getpid(), random.random()

    pid, first = nbray.get(submitted(seed, 0), timeout=10)
    assert pid > 0
    assert 0 <= first < 1
    assert_the_next_ten_are_right()


# --- threads, forks, children -----------------------------------------------------------------------------


def test_a_worker_with_a_thread_that_does_not_end_is_replaced() -> None:
    def leaves() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    pid = nbray.get(submitted(leaves, 0), timeout=10)
    (process,) = recorded([pid])

    until(lambda: is_gone(process), "the worker with the thread is replaced", 5.0)
    assert_the_next_ten_are_right()


def test_a_busy_worker_with_a_thread_that_does_not_end_is_replaced_too() -> None:
    def leaves() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return os.getpid()

    def works() -> int:
        time.sleep(0.02)
        return os.getpid()

    pid = nbray.get(submitted(leaves, 0), timeout=10)
    task = nbray.remote(max_retries=0)(works)

    def others_work() -> bool:
        return pid not in nbray.get([task.remote() for _ in range(4)], timeout=10)

    until(others_work, "others work in its place", 8.0)


def test_a_worker_whose_thread_ends_in_time_is_kept() -> None:
    def leaves() -> int:
        threading.Thread(target=time.sleep, args=(0.2,)).start()
        return os.getpid()

    pid = nbray.get(submitted(leaves, 0), timeout=10)
    (process,) = recorded([pid])

    time.sleep(1.5)
    assert not is_gone(process)


def test_a_thread_of_a_task_may_get_results() -> None:
    def gets() -> list[int]:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: found.append(nbray.get(double.remote(n)))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(found)

    assert nbray.get(submitted(gets, 0), timeout=10) == [0, 2, 4, 6]
    assert_the_next_ten_are_right()


@RETRIES
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_returns_too_answers_nobody(retries: int) -> None:
    def forks() -> str:
        return "parent" if os.fork() else "child"

    assert nbray.get(submitted(forks, retries), timeout=10) == "parent"
    assert_the_next_ten_are_right()


def _plain_child() -> int:
    return subprocess.Popen(["sleep", "600"]).pid


def _own_session() -> int:
    return subprocess.Popen(["sleep", "600"], start_new_session=True).pid


def _forked_twice() -> int:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        child = os.fork()
        if child:
            os.write(writing, str(child).encode())
        else:
            time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(reading, 20))


@pytest.mark.parametrize("start", [_plain_child, _own_session, _forked_twice])
@pytest.mark.parametrize("end", ["exit", "crash", "max_calls"])
def test_children_of_a_task_go_with_its_worker(start: Callable[[], int], end: str, tmp_path: Any) -> None:
    path = tmp_path / "child"

    def starts(path: str) -> None:
        with open(path + ".new", "w") as file:
            file.write(str(start()))
        os.rename(path + ".new", path)
        while not os.path.exists(path + ".go"):
            time.sleep(0.002)
        if end == "exit":
            os._exit(1)
        if end == "crash":
            os.kill(os.getpid(), signal.SIGKILL)

    ref = nbray.remote(max_retries=0, max_calls=1)(starts).remote(str(path))
    until(path.exists, "the child was started")
    (process,) = recorded([int(path.read_text())])
    (tmp_path / "child.go").touch()

    until(lambda: is_gone(process), "the child is gone", 3.0)
    if end == "max_calls":
        assert nbray.get(ref, timeout=10) is None
    else:
        with pytest.raises(RayWorkerError):
            nbray.get(ref, timeout=10)
    assert_the_next_ten_are_right()


# --- what is raised ---------------------------------------------------------------------------------------


@RETRIES
@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, GeneratorExit, BaseException, StopIteration, TimeoutError]
)
def test_whatever_is_raised_is_raised_again_and_never_retried(
    kind: type[BaseException], retries: int, tmp_path: Any
) -> None:
    path = str(tmp_path / "runs")

    def fails() -> None:
        with open(path, "a") as file:
            file.write("x")
        raise kind("no more")

    with pytest.raises(kind) as caught:
        nbray.get(submitted(fails, retries), timeout=10)

    assert isinstance(caught.value, RayTaskError)
    assert isinstance(caught.value, NbrayError)
    assert (tmp_path / "runs").read_text() == "x"
    assert_the_next_ten_are_right()
