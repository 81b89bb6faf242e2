"""Drivers and daemons die with spilled objects; little memory; many who want more than the store has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.errors import RayletError
from tests.support import procfs
from tests.support.cgroups import MemoryCgroup, memory_cgroup
from tests.support.drivers import ROOT, driver, is_stopped, recorded, remains
from tests.support.faults import await_no_trace, file_holders, spill_file_of
from tests.support.sessions import session, store_figures
from tests.support.waiting import until

pytestmark = pytest.mark.integration

MB = 1_000_000
STORE_BYTES = 80 * MB
#: Everything is gone, and waits have ended, this soon after a death.
DEADLINE_S = 2.0


def array(n: int, size_bytes: int = 20 * MB) -> Any:
    return np.full(size_bytes, n, dtype=np.uint8)


def is_right(value: Any, n: int, size_bytes: int = 20 * MB) -> bool:
    return value.nbytes == size_bytes and bool((value == n).all())


class SpillFile:
    """The file of this daemon, to be looked for when the daemon is dead."""

    def __init__(self, daemon: int) -> None:
        found = os.stat(spill_file_of(daemon))
        self.inode, self.device = found.st_ino, found.st_dev
        self.blocks = found.st_blocks

    def holders(self) -> list[procfs.Process]:
        return file_holders(self.inode, self.device)


# --- deaths ----------------------------------------------------------------------------------------------


def test_kill_9_of_a_driver_with_spilled_objects_leaves_neither_a_process_nor_disk_space(
    folder: Path,
) -> None:
    (folder / "spill").mkdir()
    script = f"""
        import numpy as np
        nbray.init(
            num_cpus=2, object_store_memory={STORE_BYTES},
            object_spilling_directory={str(folder / "spill")!r},
        )
        refs = [nbray.put(np.full({20 * MB}, n, np.uint8)) for n in range(6)]
        large = nbray.put(np.full({90 * MB}, 9, np.uint8))
        view = nbray.get(large)

        @nbray.remote
        def keep(refs, path):
            view = nbray.get(refs[0])
            open(path, "w").close()
            time.sleep(600)

        running = keep.remote([large], {str(folder / "running")!r})
        while not os.path.exists({str(folder / "running")!r}):
            time.sleep(0.005)
        data = nbray.status().to_dict()
        tell([data["session_dir"], data["processes"], data["store"]["spill_file_bytes"]])
        hear()
    """
    with driver(script) as running:
        session_dir, pids, spilled_bytes = running.told()
        before = recorded([pids["daemon"], pids["zygote"], pids["redis"], *pids["workers"]])
        file = SpillFile(pids["daemon"])
        assert spilled_bytes >= 130 * MB
        assert len(file.holders()) >= 3  # the daemon, the driver, a worker

        running.kill()

        until(lambda: is_stopped(session_dir, before), remains(session_dir, before), DEADLINE_S)
        assert file.holders() == []
        assert list((folder / "spill").iterdir()) == []


@pytest.mark.parametrize("moment", ["at rest", "while it writes"])
def test_kill_9_of_the_daemon_with_spilled_objects(moment: str) -> None:
    nbray.init(num_cpus=2, object_store_memory=STORE_BYTES)
    try:
        lose_a_daemon(while_it_writes=moment == "while it writes")
    finally:
        nbray.shutdown()


def lose_a_daemon(*, while_it_writes: bool) -> None:
    # given more objects than the store holds, and views in the store and of the disk
    large = nbray.put(array(9, 90 * MB))
    refs = [nbray.put(array(n)) for n in range(6)]
    in_place, in_store = nbray.get(large), nbray.get(refs[5])
    status = nbray.status().to_dict()
    pids = status["processes"]
    before = recorded([pids["daemon"], pids["zygote"], pids["redis"], *pids["workers"]])
    file = SpillFile(pids["daemon"])
    ended: list[type[BaseException]] = []

    def put_more() -> None:
        try:
            refs.extend(nbray.put(array(n)) for n in range(200))
        except RayletError as exc:
            ended.append(type(exc))

    writer = threading.Thread(target=put_more)
    if while_it_writes:
        blocks = file.blocks
        writer.start()
        path = spill_file_of(pids["daemon"])
        until(lambda: os.stat(path).st_blocks > blocks, "more goes to the disk")

    # when the daemon is killed
    os.kill(pids["daemon"], signal.SIGKILL)
    died_s = time.monotonic()

    # then all who want something hear of it, soon, and what they have stays good
    for ref in refs[:4]:
        with pytest.raises(RayletError):
            nbray.get(ref)
    if while_it_writes:
        writer.join(DEADLINE_S)
        assert ended == [RayletError]
    assert time.monotonic() - died_s < DEADLINE_S
    assert is_right(in_store, 5)
    assert is_right(in_place, 9, 90 * MB)
    until(lambda: is_stopped(status["session_dir"], before, with_directory=False), "all is gone", DEADLINE_S)
    assert [p.pid for p in file.holders()] == [os.getpid()]  # for the view
    del in_place
    until(lambda: not file.holders(), "the disk space is back")

    # and a new session works
    nbray.init(num_cpus=2, object_store_memory=STORE_BYTES)
    again = [nbray.put(array(n)) for n in range(6)]
    assert [is_right(nbray.get(ref), n) for n, ref in enumerate(again)] == [True] * 6
    del again
    await_no_trace()
    assert not os.path.exists(status["session_dir"])


# --- little memory ---------------------------------------------------------------------------------------

ROUNDS_OF_PUTS = """
    refs = [nbray.put(np.full(BYTES, n, np.uint8)) for n in range(COUNT)]

    @nbray.remote
    def check(value, n):
        return bool((value == n).all())

    right = [bool((nbray.get(ref) == n).all()) for n, ref in enumerate(refs)]
    by_tasks = nbray.get([check.remote(ref, n) for n, ref in enumerate(refs)])
    figures = nbray.status().to_dict()["store"]
    del refs
    import gc
    gc.collect()
    until_s = time.monotonic() + 10
    while nbray.status().to_dict()["store"]["spill_file_bytes"] and time.monotonic() < until_s:
        time.sleep(0.01)
    left = nbray.status().to_dict()["store"]
    nbray.shutdown()
    print(json.dumps([right, by_tasks, figures, left]))
"""


def script(start: str, count: int, size_bytes: int) -> str:
    text = (
        "import json, os, time, numpy as np, nbray\n"
        + textwrap.dedent(start)
        + textwrap.dedent(ROUNDS_OF_PUTS)
    )
    return text.replace("COUNT", str(count)).replace("BYTES", str(size_bytes))


def assert_all_right(printed: str, count: int) -> dict[str, int]:
    """What such a script found; the store's figures when all was stored."""
    right, by_tasks, figures, left = json.loads(printed)
    assert right == by_tasks == [True] * count
    assert (left["objects"], left["used_bytes"], left["spill_file_bytes"]) == (0, 0, 0)
    return dict(figures)


def private_dev_shm(size: str) -> list[str]:
    """How to start a command that sees a /dev/shm of this size; skips where that may not be."""
    for how in (["unshare", "-m"], ["unshare", "-r", "-m"]):
        mount = [*how, "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
        try:
            done = subprocess.run([*mount, "true"], capture_output=True, text=True, timeout=10, check=False)
        except OSError as exc:
            pytest.skip(f"unshare cannot be run here: {exc}")
        if done.returncode == 0:
            return mount
    pytest.skip(f"a mount of our own is not allowed here: {done.stderr.strip()}")


def test_a_small_dev_shm_limits_nothing() -> None:
    inside = private_dev_shm("64m")
    start = """
        assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
        nbray.init(num_cpus=2, object_store_memory=200_000_000)
    """

    done = subprocess.run(
        [*inside, sys.executable, "-c", script(start, 12, 10 * MB)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    figures = assert_all_right(done.stdout, 12)
    assert figures["used_bytes"] >= 120 * MB


@pytest.fixture
def group() -> Iterator[MemoryCgroup]:
    try:
        made = memory_cgroup(300 << 20)
        entered = made.__enter__()
    except OSError as exc:
        pytest.skip(f"memory cgroups cannot be made here: {exc}")
    try:
        yield entered
    finally:
        made.__exit__(None, None, None)


@pytest.mark.parametrize("store", ["None", "1 << 30"], ids=["default store", "store larger than the cgroup"])
def test_more_data_than_a_memory_cgroup_allows_is_right_and_nobody_is_killed(
    group: MemoryCgroup, folder: Path, store: str
) -> None:
    start = (
        f"nbray.init(num_cpus=1, object_store_memory={store}, object_spilling_directory={str(folder)!r})\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script(start, 40, 10 * MB)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=group.enter,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, f"{group.kills()} killed\n{done.stderr}"
    figures = assert_all_right(done.stdout, 40)
    assert figures["spill_file_bytes"] >= 200 * MB
    assert group.kills() == 0


# --- many ------------------------------------------------------------------------------------------------


@pytest.fixture
def small_store() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=STORE_BYTES, log_to_driver=False):
        yield


def bytes_of(seed: int, size_bytes: int) -> tuple[Any, int]:
    """An array that no other seed gives, and its checksum."""
    value = np.arange(size_bytes // 8, dtype=np.uint64) * np.uint64(2 * seed + 1)
    return value, zlib.crc32(value)


def go(random: Random, steps: int) -> int:
    """Put, read and drop; how many were wrong."""
    held: list[tuple[Any, int]] = []
    wrong = 0
    for _ in range(steps):
        step = random.random()
        if step < 0.5 or not held:
            value, checksum = bytes_of(random.getrandbits(40), random.choice([4, 6, 9]) * MB)
            held.append((nbray.put(value), checksum))
            del value
        elif step < 0.85:
            ref, checksum = random.choice(held)
            wrong += zlib.crc32(nbray.get(ref, timeout=30)) != checksum
        else:
            del held[random.randrange(len(held))]
    return wrong + sum(zlib.crc32(nbray.get(ref, timeout=30)) != checksum for ref, checksum in held)


def test_many_threads_share_a_store_that_is_too_small(small_store: None) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        wrong.append(go(Random(seed), 25))

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == [0] * 6
    assert store_figures()["total_objects_spilled"] > 0
    await_no_trace()


def test_nested_tasks_share_a_store_that_is_too_small(small_store: None) -> None:
    @nbray.remote(num_cpus=0.5)
    def child(seed: int, given: list[tuple[Any, int]]) -> tuple[int, Any, int]:
        wrong = go(Random(seed), 8)
        wrong += sum(zlib.crc32(nbray.get(ref)) != checksum for ref, checksum in given)
        value, checksum = bytes_of(seed, 7 * MB)
        return wrong, nbray.put(value), checksum

    @nbray.remote(num_cpus=0.5)
    def parent(seed: int) -> tuple[int, list[tuple[Any, int]]]:
        held = []
        for n in range(3):
            value, checksum = bytes_of(100 * seed + n, 8 * MB)
            held.append((nbray.put(value), checksum))
            del value
        found = nbray.get([child.remote(10 * seed + n, held) for n in range(3)])
        return sum(one[0] for one in found), [*held, *((ref, checksum) for _, ref, checksum in found)]

    results = nbray.get([parent.remote(seed) for seed in range(1, 5)], timeout=60)

    assert [wrong for wrong, _ in results] == [0] * 4
    assert [zlib.crc32(nbray.get(ref)) for _, held in results for ref, _ in held] == [
        checksum for _, held in results for _, checksum in held
    ]
    assert store_figures()["total_objects_spilled"] > 0
    del results
    await_no_trace()


def test_arguments_and_results_of_many_tasks_that_do_not_fit_together(small_store: None) -> None:
    @nbray.remote
    def change(*values: Any) -> Any:
        return sum(int(value[0]) for value in values) % 251 + values[0] * 0

    refs = [nbray.put(array(n, 9 * MB)) for n in range(20)]
    results = [change.remote(refs[n], refs[(n + 5) % 20]) for n in range(20)]

    for n, result in enumerate(results):
        assert is_right(nbray.get(result, timeout=30), n + (n + 5) % 20, 9 * MB)
    del refs, results, result
    await_no_trace()


def test_task_may_wait_for_another_though_the_arguments_of_both_do_not_fit_together(
    small_store: None, folder: Path
) -> None:
    @nbray.remote(num_cpus=0)
    def gate(path: str) -> None:
        import time

        while not os.path.exists(path):
            time.sleep(0.005)

    @nbray.remote
    def half(value: Any, _gate: None) -> Any:
        return value[: len(value) // 2]

    @nbray.remote
    def first_of(value: Any, other: list[Any], path: str) -> int:
        Path(path).touch()
        return int(value[0]) + int(nbray.get(other[0])[0])

    refs = [nbray.put(array(n, 25 * MB)) for n in range(5)]
    path = str(folder / "it runs")
    later = half.remote(refs[4], gate.remote(path))  # ready when the task that waits for it runs

    assert nbray.get(first_of.remote(refs[3], [later], path), timeout=10) == 7
    assert is_right(nbray.get(later), 4, 25 * MB // 2)
    del refs, later
    await_no_trace()
