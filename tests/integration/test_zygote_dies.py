"""kill -9 of the process that forks workers: nobody notices."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from tests.support import procfs
from tests.support.waiting import until

pytestmark = pytest.mark.integration

RESPAWNED_S = 0.5


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    nbray.init(num_cpus=2)
    # A worker is there: the zygote is up, and has forked.
    until(lambda: processes()["workers"], "the first worker is there")
    yield
    nbray.shutdown()


def processes() -> dict[str, Any]:
    found: dict[str, Any] = nbray.status().to_dict()["processes"]
    return found


def kill_zygote() -> int:
    """Kill it; returns the PID of the new one."""
    old = processes()["zygote"]
    os.kill(old, signal.SIGKILL)

    def other() -> int:
        now: int = processes()["zygote"]
        found = procfs.process(now)
        return now if now != old and found is not None and found.state != "Z" else 0

    return until(other, "there is another zygote", deadline_s=RESPAWNED_S)


@nbray.remote
def waits_for(path: str) -> int:
    import time

    while not Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def test_it_is_started_again_and_running_work_goes_on(folder: Path) -> None:
    refs = [waits_for.remote(str(folder / "go")) for _ in range(2)]
    workers = until(lambda: processes()["workers"], "both workers are there")

    kill_zygote()
    (folder / "go").touch()

    assert set(nbray.get(refs, timeout=5)) <= set(workers) | set(processes()["workers"])


def test_new_workers_can_be_made_after_it() -> None:
    @nbray.remote
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @nbray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + int(nbray.get(depth.remote(n - 1)))

    before = set(processes()["workers"])
    new = kill_zygote()

    # Six blocked workers are more than there were: some were forked by the new one.
    assert nbray.get(depth.remote(6), timeout=10) == 6
    assert set(processes()["workers"]) - before
    assert processes()["zygote"] == new
    with pytest.raises(nbray.RayWorkerError):
        nbray.get(dies.options(max_retries=0).remote(), timeout=10)
    assert nbray.get(depth.remote(2), timeout=10) == 2


def test_it_may_die_while_workers_are_ordered() -> None:
    @nbray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + int(nbray.get(depth.remote(n - 1)))

    ref = depth.remote(12)
    for _ in range(3):
        kill_zygote()

    assert nbray.get(ref, timeout=20) == 12


def test_what_it_leaves_is_swept(folder: Path) -> None:
    kill_zygote()

    # Workers are told from other children by what the zygote says; a new one must not confuse that.
    (folder / "go").touch()
    assert nbray.get(waits_for.remote(str(folder / "go")), timeout=10) in processes()["workers"]
    assert [p for p in procfs.children(processes()["daemon"]) if p.state == "Z"] == []


def test_workers_that_are_ordered_while_it_starts_again_are_all_made(folder: Path) -> None:
    @nbray.remote(num_cpus=0)
    def arrives(path: str) -> None:
        import time

        Path(path, str(os.getpid())).touch()
        while len(os.listdir(path)) < 20:
            time.sleep(0.005)

    kill_zygote()
    refs = [arrives.remote(str(folder)) for _ in range(20)]

    nbray.get(refs, timeout=15)
    assert len(os.listdir(folder)) == 20
