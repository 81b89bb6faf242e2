"""The driver ends, by whatever means: nothing of its session may outlive it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nbray.cluster.session import remove_stale
from tests.support import procfs
from tests.support.drivers import (
    Driver,
    driver,
    is_gone,
    is_stopped,
    memory_holders,
    recorded,
    remains,
    session_processes,
)
from tests.support.waiting import until

pytestmark = pytest.mark.integration

#: Everything is gone this soon after the driver.
GONE_S = 2.0

START = """
nbray.init(num_cpus=2)
def facts():
    data = nbray.status().to_dict()
    return {"dir": data["session_dir"], **data["processes"]}
"""

#: SIGTERM comes while a value is pickled.
PICKLED = """
class Pickled:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
"""

#: A task that leaves every kind of child, tells their PIDs in a file, and does not end.
BUSY = """
import numpy as np

@nbray.remote
def many_children(path):
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    plain = subprocess.Popen(["sleep", "600"], **quiet).pid
    detached = subprocess.Popen(["sleep", "600"], start_new_session=True, **quiet).pid
    unmarked = subprocess.Popen(["sleep", "600"], start_new_session=True, env={}, **quiet).pid
    shell = "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!"
    twice = int(subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        forked = os.fork()
        if forked:
            os.write(writing, str(forked).encode())
            os._exit(0)
        time.sleep(600)
        os._exit(0)
    forked = int(os.read(reading, 20))
    with open(path + ".new", "w") as file:
        json.dump([plain, detached, unmarked, twice, forked], file)
    os.rename(path + ".new", path)
    time.sleep(600)

kept = nbray.put(np.ones(6_250_000))
running = many_children.remote(os.environ["CHILDREN"])
"""


def children_in(path: Path) -> list[procfs.Process]:
    until(path.exists, "the task has started its children")
    return recorded(json.loads(path.read_text()))


def everything(facts: dict[str, Any]) -> list[procfs.Process]:
    return recorded([facts["daemon"], facts["zygote"], facts["redis"], *facts["workers"]])


def memory_of(running: Driver) -> str:
    (inode,) = procfs.shared_mappings(running.pid)
    return inode


def assert_all_gone(session_dir: str, before: list[procfs.Process], inode: str) -> None:
    with contextlib.suppress(AssertionError):
        until(lambda: is_stopped(session_dir, before), "all gone", deadline_s=GONE_S)
    assert is_stopped(session_dir, before), remains(session_dir, before)
    assert memory_holders(inode) == []


def test_kill_9_of_the_driver_leaves_nothing(folder: Path) -> None:
    with driver(START + BUSY + "tell(facts()); hear()", env={"CHILDREN": str(folder / "pids")}) as running:
        children = children_in(folder / "pids")
        facts = running.told()
        before, inode = everything(facts) + children, memory_of(running)
        assert len(memory_holders(inode)) >= 4

        running.kill()

        assert_all_gone(facts["dir"], before, inode)


def test_kill_9_of_the_driver_leaves_nothing_though_a_forked_child_of_it_lives(folder: Path) -> None:
    script = """
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        tell({**facts(), "child": child})
        hear()
    """
    script = START + BUSY + "\n".join(line[8:] for line in script.splitlines())
    with driver(script, env={"CHILDREN": str(folder / "pids")}) as running:
        children = children_in(folder / "pids")
        facts = running.told()
        (forked,) = recorded([facts["child"]])
        before, inode = everything(facts) + children, memory_of(running)
        try:
            running.kill()

            assert_all_gone(facts["dir"], before, inode)
            assert not is_gone(forked)
        finally:
            os.kill(forked.pid, signal.SIGKILL)


@pytest.mark.parametrize("after_ms", [20, 50, 80, 110, 140])
def test_kill_9_of_a_driver_that_starts_leaves_nothing(folder: Path, after_ms: int) -> None:
    script = f"""
        import threading
        threading.Timer({after_ms / 1000}, os.kill, [os.getpid(), 9]).start()
        nbray.init(num_cpus=2, temp_dir={str(folder)!r})
        time.sleep(10)
    """
    mark = f"{os.getpid()}-{after_ms}"
    with driver(script, env={"NBRAY_TEST_START": mark}) as running:
        assert running.ended() == -signal.SIGKILL

        def all_gone() -> bool:
            remove_stale(folder)  # as the next init does: the daemon may not have known of it yet
            return not procfs.marked("NBRAY_TEST_START", mark) and not list(folder.iterdir())

        until(all_gone, "neither a process nor a directory is left", deadline_s=GONE_S)


@pytest.mark.parametrize("point", ["_await_welcome", "_on_message"])
def test_a_daemon_whose_driver_is_killed_during_the_start_removes_the_directory(
    folder: Path, point: str
) -> None:
    script = f"""
        from nbray.cluster.launch import LocalCluster
        LocalCluster.{point} = lambda *_: os.kill(os.getpid(), 9)
        nbray.init(num_cpus=2, temp_dir={str(folder)!r})
        nbray.status()
    """
    with driver(script) as running:
        assert running.ended() == -signal.SIGKILL

        until(lambda: not list(folder.iterdir()), "the directory is gone", deadline_s=GONE_S)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("sys.exit(3)", 3),
        ("raise ValueError('end')", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)", 128 + signal.SIGTERM),
        ("nbray.put(Pickled())", 128 + signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(10)", -signal.SIGINT),
    ],
)
def test_every_way_to_end_leaves_nothing(ending: str, code: int, folder: Path) -> None:
    script = START + PICKLED + BUSY + "tell(facts()); hear(); sys.stderr = open(os.devnull, 'w')\n" + ending
    with driver(script, env={"CHILDREN": str(folder / "pids")}) as running:
        children = children_in(folder / "pids")
        facts = running.told()
        before, inode = everything(facts) + children, memory_of(running)

        running.say()

        assert running.ended() == code
        assert_all_gone(facts["dir"], before, inode)


def test_ctrl_c_at_the_terminal_reaches_the_driver_only(folder: Path) -> None:
    script = START + (
        "@nbray.remote\n"
        "def slow(path):\n"
        "    open(path, 'w').close()\n"
        "    time.sleep(0.5)\n"
        "    return 7\n"
        "ref = slow.remote(os.environ['STARTED'])\n"
        "tell(facts())\n"
        "try:\n"
        "    nbray.get(ref)\n"
        "except KeyboardInterrupt:\n"
        "    tell('interrupted')\n"
        "tell(nbray.get(ref, timeout=10))\n"
        "tell(facts())\n"
    )
    with driver(script, env={"STARTED": str(folder / "started")}, new_session=True) as running:
        before = running.told()
        until((folder / "started").exists, "the task runs")

        os.killpg(running.pid, signal.SIGINT)

        assert running.told() == "interrupted"
        assert running.told() == 7
        after = running.told()
        assert {k: after[k] for k in ("daemon", "zygote", "redis")} == {
            k: before[k] for k in ("daemon", "zygote", "redis")
        }
        assert set(before["workers"]) <= set(after["workers"])
        assert running.ended() == 0
        assert session_processes(after["dir"]) == []
