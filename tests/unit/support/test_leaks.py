"""The leak fixture: a checker that cannot fail is worthless, so each kind of leak is planted once."""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.support import procfs
from tests.support.leaks import MARK, Watch

ROOT = Path(__file__).parents[3]


def a_watch(*, deep: bool = False) -> Watch:
    return Watch(os.environ[MARK], deep)


def test_a_test_that_leaves_nothing_has_no_leaks() -> None:
    watch = a_watch(deep=True)

    with tempfile.TemporaryFile():
        subprocess.run(["true"], check=True)

    assert watch.leaks() == []


def test_an_open_descriptor_is_found_and_named() -> None:
    watch = a_watch()

    reader, writer = os.pipe()
    found = watch.settled_leaks(settle_s=0)
    os.close(reader)
    os.close(writer)

    assert [leak.split(" -> ")[0] for leak in found] == [f"fd {reader}", f"fd {writer}"]
    assert watch.leaks() == []


def test_a_descriptor_that_is_reused_for_another_file_is_found() -> None:
    reader, writer = os.pipe()
    watch = a_watch()

    other, another = os.pipe()
    os.dup2(other, reader)
    os.close(other)
    os.close(another)

    assert [leak.split(" -> ")[0] for leak in watch.leaks()] == [f"fd {reader}"]
    os.close(reader)
    os.close(writer)


def test_a_tcp_listener_is_named_with_its_address() -> None:
    watch = a_watch()

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp 127.0.0.1:{server.getsockname()[1]}"

        assert [leak.split(", ")[1] for leak in watch.leaks()] == [f"TCP listener {address}"]
        assert procfs.tcp_listeners() == [address]


def test_a_unix_socket_is_named_with_its_path(tmp_path: Path) -> None:
    watch = a_watch()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0nbray-test-leaks")

        assert [leak.split(", ")[1] for leak in watch.leaks()] == ["unix socket @nbray-test-leaks"]


def test_a_running_thread_is_found() -> None:
    watch = a_watch()
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait, name="forgotten")

    thread.start()
    found = watch.settled_leaks(settle_s=0)
    may_end.set()
    thread.join()

    assert found == ["thread 'forgotten'"]
    assert watch.leaks() == []


def test_a_thread_that_ends_soon_is_no_leak() -> None:
    watch = a_watch()
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)

    thread.start()
    threading.Timer(0.05, may_end.set).start()

    assert watch.settled_leaks() == []


def test_a_memfd_that_is_only_mapped_is_found() -> None:
    watch = a_watch()

    fd = os.memfd_create("forgotten")
    os.ftruncate(fd, mmap.PAGESIZE)
    mapping = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)  # mmap keeps a copy of its own
    found = watch.leaks()
    mapping.close()

    assert [leak for leak in found if leak.startswith("mapping of /memfd:forgotten")]
    assert watch.leaks() == []


def test_a_child_is_found_and_ended() -> None:
    watch = a_watch()

    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as child:
        found = watch.settled_leaks(settle_s=0)
        watch.end_processes()

        assert child.wait() == -9

    assert [leak for leak in found if leak.startswith(f"process {child.pid} (sleep 60)")]


def test_a_child_that_was_never_waited_for_is_called_a_zombie() -> None:
    watch = a_watch()

    pid = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and still there
    found = watch.leaks()
    os.waitpid(pid, 0)

    assert found == [f"process {pid} (zombie, never waited for)"]
    assert watch.leaks() == []


def test_an_orphan_in_its_own_session_is_found_by_its_mark() -> None:
    watch = a_watch(deep=True)

    # The shell ends at once; what it started belongs to init and to another session.
    subprocess.run(["sh", "-c", "setsid sleep 60 >/dev/null 2>&1 </dev/null &"], check=True)
    found = watch.settled_leaks(settle_s=0)
    watch.end_processes()

    assert len(found) == 1
    assert "sleep 60" in found[0]
    assert watch.settled_leaks() == []


def test_a_session_directory_is_found() -> None:
    watch = a_watch()

    folder = tempfile.mkdtemp(prefix="nbray-")
    found = watch.leaks()
    shutil.rmtree(folder)

    assert found == [f"left on disk or in memory: {folder}"]


def test_shared_memory_with_a_name_is_found() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("this machine has no /dev/shm")
    watch = a_watch()

    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="nbray-test-") as segment:
        found = watch.leaks()

        assert f"left on disk or in memory: {segment.name}" in found


@pytest.mark.parametrize("its_mark", [{}, {MARK: "1-1"}], ids=["another program", "another test run"])
def test_a_session_directory_that_others_work_in_is_not_ours(its_mark: dict[str, str]) -> None:
    watch = a_watch()
    folder = tempfile.mkdtemp(prefix="nbray-")
    other_environment = {name: value for name, value in os.environ.items() if name != MARK} | its_mark

    # setsid --fork detaches, so it is no descendant; it ends when its input does.
    reader, writer = os.pipe()
    subprocess.run(["setsid", "--fork", "cat"], cwd=folder, stdin=reader, env=other_environment, check=True)
    os.close(reader)
    found = watch.leaks()
    os.close(writer)
    shutil.rmtree(folder)

    assert [leak for leak in found if folder in leak] == []


@pytest.mark.slow
def test_the_fixture_turns_a_leaking_test_into_an_error(tmp_path: Path) -> None:
    story = tmp_path / "test_story.py"
    story.write_text("import os\ndef test_forgets_a_pipe(): os.pipe()\ndef test_is_tidy(): pass\n")
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    environment = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", str(tmp_path), str(story)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=tmp_path,
    )

    assert outcome.returncode == 1
    assert "2 leaked and still there after 2 s:" in outcome.stdout
    assert "pipe:[" in outcome.stdout
    assert "2 passed, 1 error" in outcome.stdout
