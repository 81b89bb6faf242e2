"""kill -9 of the node daemon: the driver lives, hears a typed error, and can start again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.model.errors import RayConnectionError, RayletError, StaleSessionError
from tests.support import procfs
from tests.support.drivers import is_stopped, recorded, remains
from tests.support.waiting import until

pytestmark = pytest.mark.integration

#: Waits and calls end with the typed error this soon, and everything is gone.
DEADLINE_S = 2.0
#: A new session's first result is there this soon; waiting in vain for the dead daemon would take longer.
RESTARTED_S = 5.0


@pytest.fixture
def session() -> Iterator[dict[str, Any]]:
    nbray.init(num_cpus=2)
    yield nbray.status().to_dict()
    nbray.shutdown()


def kill_daemon(status: dict[str, Any]) -> list[procfs.Process]:
    """Kill it; returns the processes that it had."""
    pids = status["processes"]
    before = recorded([pids["daemon"], pids["zygote"], pids["redis"], *pids["workers"]])
    os.kill(pids["daemon"], signal.SIGKILL)
    return before


def assert_all_gone(session_dir: str, before: list[procfs.Process]) -> None:
    def is_lost() -> bool:
        return is_stopped(session_dir, before, with_directory=False)

    end_s = time.monotonic() + DEADLINE_S
    while not is_lost() and time.monotonic() < end_s:
        time.sleep(0.005)
    assert is_lost(), remains(session_dir, before)


def test_a_pending_get_ends_with_a_typed_error(session: dict[str, Any], folder: Path) -> None:
    @nbray.remote
    def slow(path: str) -> None:
        Path(path).touch()
        time.sleep(60)

    ref = slow.remote(str(folder / "started"))
    until((folder / "started").exists, "the task runs")
    killer = threading.Timer(0.1, kill_daemon, [session])
    killer.start()

    started_s = time.monotonic()
    with pytest.raises(RayletError, match=r"call nbray\.shutdown\(\), then nbray\.init\(\)"):
        nbray.get(ref)

    assert time.monotonic() - started_s < DEADLINE_S
    killer.join()


def test_waits_of_other_threads_end_too(session: dict[str, Any]) -> None:
    @nbray.remote
    def slow() -> None:
        time.sleep(60)

    refs = [slow.remote() for _ in range(4)]
    ended: list[type[BaseException]] = []

    def wait_for(ref: nbray.ObjectRef) -> None:
        try:
            nbray.get(ref)
        except RayletError as exc:
            ended.append(type(exc))

    threads = [threading.Thread(target=wait_for, args=[ref]) for ref in refs]
    for thread in threads:
        thread.start()

    kill_daemon(session)

    for thread in threads:
        thread.join(DEADLINE_S)
    assert ended == [RayletError] * 4


def test_new_calls_end_with_a_typed_error_at_once(session: dict[str, Any]) -> None:
    @nbray.remote
    def double(x: int) -> int:
        return 2 * x

    done = double.remote(1)
    assert nbray.get(done) == 2
    kill_daemon(session)
    until(lambda: not nbray.is_initialized(), "the loss is noticed", deadline_s=DEADLINE_S)

    calls = {
        "remote": lambda: double.remote(1),
        "get": lambda: nbray.get(done),
        "put": lambda: nbray.put(1),
        "put large": lambda: nbray.put(bytes(1 << 20)),
        "wait": lambda: nbray.wait([done]),
        "status": nbray.status,
    }
    for name, call in calls.items():
        try:
            call()
        except RayletError:
            continue
        pytest.fail(f"{name} raised nothing")


def test_a_call_that_meets_the_loss_itself_ends_with_the_typed_error(session: dict[str, Any]) -> None:
    kill_daemon(session)

    # Whether the loss was noticed before, during or after the call: it ends, with this error.
    with pytest.raises(RayletError):
        nbray.put(bytes(1 << 20))


def test_a_lost_session_keeps_no_frames_of_its_failed_calls(session: dict[str, Any]) -> None:
    kill_daemon(session)
    until(lambda: not nbray.is_initialized(), "the loss is noticed", deadline_s=DEADLINE_S)

    def depth_of_failure() -> int:
        try:
            nbray.put(1)
        except RayletError as exc:
            frames, at = 0, exc.__traceback__
            while at is not None:
                frames, at = frames + 1, at.tb_next
            return frames
        return 0

    assert {depth_of_failure() for _ in range(5)} == {depth_of_failure()}


def test_nothing_of_the_session_is_left(session: dict[str, Any], folder: Path) -> None:
    @nbray.remote
    def many_children(path: str) -> None:
        import subprocess

        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        plain = subprocess.Popen(["sleep", "600"], **quiet).pid  # type: ignore[call-overload]
        detached = subprocess.Popen(["sleep", "600"], start_new_session=True, **quiet).pid  # type: ignore[call-overload]
        Path(path + ".new").write_text(json.dumps([plain, detached]))
        os.rename(path + ".new", path)
        time.sleep(600)

    ref = many_children.remote(str(folder / "pids"))
    until((folder / "pids").exists, "the task has started its children")
    children = recorded(json.loads((folder / "pids").read_text()))

    before = kill_daemon(nbray.status().to_dict())

    assert_all_gone(session["session_dir"], before + children)
    nbray.shutdown()
    assert not os.path.exists(session["session_dir"])
    del ref


def test_init_works_again_at_once(session: dict[str, Any]) -> None:
    @nbray.remote
    def double(x: int) -> int:
        return 2 * x

    old = double.remote(1)
    assert nbray.get(old) == 2
    before = kill_daemon(session)
    until(lambda: not nbray.is_initialized(), "the loss is noticed", deadline_s=DEADLINE_S)

    started_s = time.monotonic()
    nbray.init(num_cpus=2)

    assert nbray.get(double.remote(21), timeout=10) == 42
    assert time.monotonic() - started_s < RESTARTED_S
    assert nbray.status().to_dict()["session_dir"] != session["session_dir"]
    assert is_stopped(session["session_dir"], before), remains(session["session_dir"], before)
    with pytest.raises(StaleSessionError):
        nbray.get(old)
    with pytest.raises(StaleSessionError):
        nbray.wait([old], timeout=1)
    with pytest.raises(StaleSessionError):
        double.remote(old)
    with pytest.raises(StaleSessionError):
        double.remote([old])


def test_init_works_though_the_loss_was_not_noticed_yet(session: dict[str, Any]) -> None:
    (daemon,) = recorded([session["processes"]["daemon"]])
    os.kill(daemon.pid, signal.SIGKILL)

    # The very next statement of a notebook.
    for _ in range(100):
        try:
            nbray.init(num_cpus=1)
            break
        except RuntimeError:
            assert nbray.is_initialized()  # then it says so, and does nothing halfway
            time.sleep(0.01)

    assert nbray.status().to_dict()["processes"]["daemon"] != daemon.pid


def test_shutdown_after_the_loss_does_not_raise(session: dict[str, Any]) -> None:
    kill_daemon(session)

    nbray.shutdown()

    assert not nbray.is_initialized()
    assert not os.path.exists(session["session_dir"])
    with pytest.raises(RayConnectionError):
        nbray.put(1)


def test_a_daemon_that_is_asked_to_end_tidies_up(session: dict[str, Any]) -> None:
    pids = session["processes"]
    before = recorded([pids["daemon"], pids["zygote"], pids["redis"], *pids["workers"]])

    os.kill(pids["daemon"], signal.SIGTERM)

    until(lambda: not nbray.is_initialized(), "the loss is noticed", deadline_s=DEADLINE_S)
    with pytest.raises(RayletError):
        nbray.put(1)
    assert_all_gone(session["session_dir"], before)
