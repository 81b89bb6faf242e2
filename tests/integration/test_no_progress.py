"""What does not go on is told by itself: cycles, stopped and hung workers. What runs too long is ended."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _cluster(_test_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@nbray.remote
def gets(path: str) -> Any:
    """Get a reference that somebody wrote by hand."""
    Path(path + ".began").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    with open(path, "rb") as file:
        return nbray.get(pickle.load(file))


@nbray.remote
def takes(*_values: Any) -> int:
    return 1


@nbray.remote
def pid_then(path: str, duration_s: float) -> str:
    Path(path + ".new").write_text(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(duration_s)
    return path


@nbray.remote
def computes(duration_s: float) -> int:
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        sum(range(1000))
    return 1


@nbray.remote
def holds_the_lock(duration_s: float) -> int:
    """Big numbers are multiplied without a pause for other threads."""
    end_s, number = time.monotonic() + duration_s, 3**400_000
    while time.monotonic() < end_s:
        number * number
    return 1


@nbray.remote
def sleeps_with_the_lock(duration_s: int) -> int:
    return int(ctypes.PyDLL(None).sleep(duration_s))


def write(path: Path, ref: Any) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(pickle.dumps(ref))
    new.rename(path)


@pytest.mark.slow
def test_tasks_that_wait_for_each_other_are_named_within_five_seconds(folder: Path) -> None:
    with pytest.warns(RuntimeWarning, match="waited for each other") as caught:  # noqa: PT031
        first = gets.remote(str(folder / "ref"))
        second = takes.remote(first)
        until(Path(f"{folder / 'ref'}.began").exists, "the task began")
        write(folder / "ref", second)
        started_s = time.monotonic()
        until(lambda: len(caught) > 0, "somebody says so", 10.0)
        took_s = time.monotonic() - started_s
        links = nbray.why(second).links

    text = str(caught[0].message)
    assert took_s <= 5
    assert "gets (pid" in text
    assert "takes takes a result of gets as an argument" in text
    assert links[-1]["kind"] == "cycle"


@pytest.mark.slow
def test_stopped_worker_is_told_of_within_ten_seconds_and_goes_on(folder: Path) -> None:
    ref = pid_then.remote(str(folder / "pid"), 0.5)
    until((folder / "pid").exists, "the task began")
    pid = int((folder / "pid").read_text())

    match = f"pid {pid}, which runs task pid_then, (is stopped|goes on)"
    with pytest.warns(RuntimeWarning, match=match) as caught:  # noqa: PT031
        os.kill(pid, signal.SIGSTOP)
        started_s = time.monotonic()
        until(lambda: len(caught) > 0, "somebody says so", 15.0)
        took_s = time.monotonic() - started_s
        link = nbray.why(ref).links[-1]
        os.kill(pid, signal.SIGCONT)
        assert nbray.get(ref, timeout=10) == str(folder / "pid")
        until(lambda: len(caught) > 1, "that it goes on is said, too", 5.0)

    assert took_s <= 10
    assert (link["kind"], link["state"]) == ("worker", "stopped")
    assert f"kill -CONT {pid}" in link["remedy"]
    assert "is stopped" in str(caught[0].message)
    assert "goes on" in str(caught[1].message)


@pytest.mark.slow
def test_hung_worker_is_told_of_within_ten_seconds() -> None:
    with pytest.warns(RuntimeWarning, match="sleeps_with_the_lock, (neither|goes on)") as caught:  # noqa: PT031
        ref = sleeps_with_the_lock.remote(11)
        started_s = time.monotonic()
        until(lambda: len(caught) > 0, "somebody says so", 15.0)
        took_s = time.monotonic() - started_s
        assert nbray.get(ref, timeout=15) == 0

    assert took_s <= 10


@pytest.mark.slow
def test_tasks_that_compute_or_sleep_for_long_are_not_told_of(recwarn: pytest.WarningsRecorder) -> None:
    refs = [computes.remote(10), holds_the_lock.remote(10)]

    @nbray.remote(num_cpus=0)
    def sleeps() -> int:
        time.sleep(10)
        return 1

    assert nbray.get([*refs, sleeps.remote()], timeout=40) == [1, 1, 1]
    assert [str(warning.message) for warning in recwarn] == []


# --- time limits ------------------------------------------------------------------------------------------


def test_attempt_beyond_its_time_is_ended_and_typed(folder: Path) -> None:
    ref = pid_then.options(task_timeout_s=0.3, max_retries=0).remote(str(folder / "pid"), 60.0)

    with pytest.raises(nbray.TaskTimeoutError) as caught:
        nbray.get(ref, timeout=10)

    assert caught.value.limit_s == 0.3
    assert caught.value.pid == int((folder / "pid").read_text())
    assert caught.value.task_name == "pid_then"
    assert nbray.get(takes.remote()) == 1


def test_attempt_beyond_its_time_runs_again(folder: Path) -> None:
    @nbray.remote(task_timeout_s=0.5)
    def slow_at_first(path: str) -> str:
        if not os.path.exists(path):
            Path(path).touch()
            time.sleep(60)
        return "done"

    assert nbray.get(slow_at_first.remote(str(folder / "x")), timeout=10) == "done"


def test_stopped_worker_with_a_time_limit_is_replaced(folder: Path) -> None:
    ref = pid_then.options(task_timeout_s=1.0).remote(str(folder / "pid"), 0.3)
    until((folder / "pid").exists, "the task began")
    os.kill(int((folder / "pid").read_text()), signal.SIGSTOP)

    assert nbray.get(ref, timeout=10) == str(folder / "pid")


def test_time_limit_of_the_session_counts_for_tasks_of_tasks_and_an_option_of_the_task_wins() -> None:
    nbray.shutdown()

    @nbray.remote(task_timeout_s=0, max_retries=0)
    def parent(duration_s: float) -> Any:
        @nbray.remote(max_retries=0)
        def child() -> None:
            time.sleep(duration_s)

        return nbray.get(child.remote())

    with session(num_cpus=2, task_timeout_s=0.4):
        assert nbray.get(parent.remote(0.0), timeout=10) is None
        with pytest.raises(nbray.RayTaskError, match="TaskTimeoutError: Task child"):
            nbray.get(parent.remote(60.0), timeout=10)


@pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan")])
def test_impossible_time_limits_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="task_timeout_s"):
        takes.options(task_timeout_s=wrong)


def test_time_limit_must_be_a_number() -> None:
    with pytest.raises(TypeError, match="task_timeout_s"):
        takes.options(task_timeout_s="5")
