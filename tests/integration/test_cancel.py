"""``nbray.cancel``: what has not begun never does, what runs is interrupted, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.api.cancelling import cancel_cell
from tests.support.procfs import process as process_of
from tests.support.sessions import session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"
DEADLINE_S = 30


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@nbray.remote
def one(*_: Any) -> int:
    return 1


@nbray.remote
def leave_a_mark(path: str, *_: Any) -> None:
    Path(path).touch()


@nbray.remote
def sleep(path: str, seconds: float = 60.0) -> str:
    """Tells its PID, and sleeps."""
    write_pid(path)
    time.sleep(seconds)
    return "slept"


def is_alive(pid: int) -> bool:
    return process_of(pid) is not None


def write_pid(path: str) -> None:
    Path(f"{path}.new").write_text(str(os.getpid()))
    Path(f"{path}.new").rename(path)


def pid_in(path: Path) -> int:
    until(path.exists, f"{path.name} is there")
    return int(path.read_text())


def started(function: Any, folder: Path, *args: Any) -> tuple[Any, int]:
    """Start a task that tells its PID; returns its reference and that PID once it runs."""
    path = folder / f"pid-{len(list(folder.iterdir()))}"
    ref = function.remote(str(path), *args)
    return ref, pid_in(path)


@contextlib.contextmanager
def both_cpus_busy(folder: Path) -> Iterator[list[Any]]:
    busy = [started(sleep, folder)[0] for _ in range(2)]
    yield busy
    for ref in busy:
        nbray.cancel(ref)
    for ref in busy:
        with pytest.raises(nbray.RayCancellationError):
            nbray.get(ref, timeout=DEADLINE_S)


def assert_cancelled(ref: Any) -> nbray.RayCancellationError:
    with pytest.raises(nbray.RayCancellationError) as caught:
        nbray.get(ref, timeout=DEADLINE_S)
    return caught.value


# --- what has not begun ---------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_queued_task_never_runs(folder: Path, force: bool) -> None:
    mark = folder / "mark"
    with both_cpus_busy(folder):
        ref = leave_a_mark.remote(str(mark))

        nbray.cancel(ref, force=force)

        error = assert_cancelled(ref)
        assert not isinstance(error, nbray.RayWorkerError)
        assert error.task_id == ref.task_id().hex()
        assert "leave_a_mark" in str(error)
    assert nbray.get(one.remote(), timeout=DEADLINE_S) == 1
    assert not mark.exists()


def test_task_that_waits_for_its_arguments_never_runs_and_neither_do_its_dependents(folder: Path) -> None:
    mark, mark2 = folder / "mark", folder / "mark2"
    slow, _pid = started(sleep, folder, 0.3)
    waiting = leave_a_mark.remote(str(mark), slow)
    dependent = leave_a_mark.remote(str(mark2), waiting)

    nbray.cancel(waiting)

    assert_cancelled(waiting)
    assert_cancelled(dependent)
    assert nbray.get(slow, timeout=DEADLINE_S) == "slept"
    assert nbray.get(one.remote(), timeout=DEADLINE_S) == 1
    assert not mark.exists()
    assert not mark2.exists()


def test_what_was_pushed_behind_a_slow_task_never_runs(folder: Path) -> None:
    nbray.get([one.remote() for _ in range(300)], timeout=DEADLINE_S)  # now several are pushed ahead
    with both_cpus_busy(folder):
        marks = [folder / f"mark-{n}" for n in range(20)]
        refs = [leave_a_mark.remote(str(mark)) for mark in marks]
        for ref in refs[::2]:
            nbray.cancel(ref)
        for ref in refs[::2]:
            assert_cancelled(ref)
    nbray.get(refs[1::2], timeout=DEADLINE_S)
    assert [mark.exists() for mark in marks] == [False, True] * 10


# --- what runs --------------------------------------------------------------------------------------------


def test_sleeping_task_is_interrupted_and_its_worker_serves_on(folder: Path) -> None:
    ref, pid = started(sleep, folder)

    nbray.cancel(ref)

    assert_cancelled(ref)
    assert_cancelled(one.remote(ref))
    again, pid_again = started(sleep, folder, 0.0)
    assert nbray.get(again, timeout=DEADLINE_S) == "slept"
    assert pid_again == pid
    assert is_alive(pid)


def test_task_that_waits_in_get_wait_or_await_is_interrupted_and_its_child_runs_on(folder: Path) -> None:
    @nbray.remote
    def parent(how: str, path: str) -> Any:
        child = sleep.remote(f"{path}-child", 1.0)
        Path(f"{path}-ref").write_bytes(child.binary())
        if how == "get":
            return nbray.get(child)
        if how == "get many":
            return nbray.get([child, one.remote()])
        if how == "wait":
            return nbray.wait([child])

        async def main() -> Any:
            return await child

        return asyncio.run(main())

    for how in ("get", "get many", "wait", "await"):
        path = folder / how
        ref = parent.remote(how, str(path))
        child_pid = pid_in(folder / f"{how}-child")

        nbray.cancel(ref)

        assert_cancelled(ref)
        assert is_alive(child_pid)
    until(lambda: nbray.status().to_dict()["leases"]["granted"] == 0, "the children ended by themselves")


def test_what_a_task_returns_although_it_was_interrupted_counts(folder: Path) -> None:
    @nbray.remote
    def careful(path: str) -> str:
        write_pid(path)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            return "saved"
        return "slept"

    ref, _pid = started(careful, folder)

    nbray.cancel(ref)

    assert nbray.get(ref, timeout=DEADLINE_S) == "saved"


def test_what_a_task_raises_when_it_is_interrupted_is_a_cancellation(folder: Path) -> None:
    @nbray.remote
    def translates(path: str) -> None:
        write_pid(path)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise ValueError from None

    ref, _pid = started(translates, folder)

    nbray.cancel(ref)

    assert_cancelled(ref)


def test_builtin_function_is_interrupted_too(folder: Path) -> None:
    ref = nbray.remote(time.sleep).remote(60)
    process = this_process()
    until(lambda: any(x.inflight for x in process.submitter.pool.by_id.values()), "it was pushed")
    time.sleep(0.1)

    nbray.cancel(ref)

    assert_cancelled(ref)


@pytest.mark.parametrize("kind", ["catches", "ignores", "matches", "holds"])
def test_task_that_does_not_end_loses_its_process(folder: Path, kind: str) -> None:
    @nbray.remote(max_retries=3)
    def stubborn(path: str) -> None:
        write_pid(path)
        if kind == "catches":
            while True:
                with contextlib.suppress(KeyboardInterrupt):
                    time.sleep(60)
        if kind == "ignores":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        if kind == "matches":  # holds the GIL, but looks for signals
            re.match(r"(a+)+$", "a" * 40 + "b")
        if kind == "holds":  # holds the GIL and looks for nothing
            deque(itertools.repeat(0), maxlen=0)

    ref, pid = started(stubborn, folder)

    nbray.cancel(ref)

    assert_cancelled(ref)
    assert nbray.get([one.remote() for _ in range(10)], timeout=DEADLINE_S) == [1] * 10
    if kind != "matches":
        until(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone, and no zombie")


def test_force_kills_at_once_and_nothing_is_retried(folder: Path) -> None:
    @nbray.remote(max_retries=3)
    def count(path: str) -> None:
        with open(f"{path}-attempts", "a") as file:
            file.write("x")
        write_pid(path)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(60)
        time.sleep(60)

    path = folder / "pid"
    ref = count.remote(str(path))
    pid = pid_in(path)

    nbray.cancel(ref, force=True)

    error = assert_cancelled(ref)
    assert isinstance(error, nbray.RayWorkerError)
    assert "force=True" in str(error)
    until(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone, and no zombie")
    assert nbray.get([one.remote() for _ in range(10)], timeout=DEADLINE_S) == [1] * 10
    assert (folder / "pid-attempts").read_text() == "x"


def test_task_after_one_that_left_a_handler_of_its_own_can_be_interrupted(folder: Path) -> None:
    @nbray.remote
    def leave_it_ignored() -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return os.getpid()

    while True:
        left = nbray.get(leave_it_ignored.remote(), timeout=DEADLINE_S)
        ref, pid = started(sleep, folder)
        nbray.cancel(ref)
        assert_cancelled(ref)
        assert is_alive(pid)
        if pid == left:
            return


# --- from elsewhere, and too late ---------------------------------------------------------------------------


def test_reference_that_was_received_can_be_cancelled(folder: Path) -> None:
    @nbray.remote
    def cancel(refs: list[Any]) -> str:
        nbray.cancel(refs[0])
        return "asked"

    @nbray.remote
    def submit(path: str) -> list[Any]:
        return [sleep.remote(path)]

    mine, _pid = started(sleep, folder)
    assert nbray.get(cancel.remote([mine]), timeout=DEADLINE_S) == "asked"
    assert_cancelled(mine)

    (theirs,) = nbray.get(submit.remote(str(folder / "theirs")), timeout=DEADLINE_S)
    pid_in(folder / "theirs")
    nbray.cancel(theirs)
    assert_cancelled(theirs)


def test_finished_task_keeps_its_value() -> None:
    ref = one.remote()
    assert nbray.get(ref, timeout=DEADLINE_S) == 1

    nbray.cancel(ref)
    nbray.cancel(ref, force=True)

    assert nbray.get([ref, one.remote()], timeout=DEADLINE_S) == [1, 1]


@pytest.mark.parametrize("what", ["a name", 7, None, b"x" * 20])
def test_what_is_no_reference_cannot_be_cancelled(what: Any) -> None:
    with pytest.raises(TypeError, match="takes the reference of a task's result"):
        nbray.cancel(what)


def test_what_was_put_cannot_be_cancelled() -> None:
    with pytest.raises(TypeError, match="no task makes a value that was put"):
        nbray.cancel(nbray.put(1))


def test_classic_and_new_name_of_the_error_are_one() -> None:
    assert nbray.TaskCancelledError is nbray.RayCancellationError


# --- many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_a_hundred_thousand_queued_tasks_are_cancelled_in_seconds(folder: Path, order: int) -> None:
    with both_cpus_busy(folder):
        refs = [one.remote() for _ in range(100_000)]

        for ref in refs[::order]:
            nbray.cancel(ref)

        ready, rest = nbray.wait(refs, num_returns=len(refs), timeout=0)
        assert (len(ready), rest) == (100_000, [])
        assert_cancelled(refs[0])
        assert_cancelled(refs[-1])
        queues = this_process().submitter.pool.shapes.values()
        assert sum(len(shape.queue) for shape in queues) < 100
    assert nbray.get(one.remote(), timeout=DEADLINE_S) == 1


def test_what_a_cell_submitted_can_be_cancelled_together(folder: Path) -> None:
    process = this_process()
    before = process.context.place
    process.context.enter_cell("In[7]")
    try:
        mine = [started(sleep, folder)[0], *(one.options(resources={"none": 1}).remote() for _ in range(5))]
    finally:
        process.context.place = before
    others = started(sleep, folder, 0.2)[0]

    assert cancel_cell("In[7]") == 6

    for ref in mine:
        assert_cancelled(ref)
    assert nbray.get(others, timeout=DEADLINE_S) == "slept"


@pytest.mark.parametrize("seed", range(4))
def test_cancel_at_any_moment_hits_the_task_that_is_meant_or_none(seed: int) -> None:
    """Short tasks, each cancelled or not at a random moment of its life, or of the next one's."""
    chance = random.Random(seed)

    @nbray.remote(max_retries=3)
    def work(number: int, turns: int) -> tuple[int, int]:
        total = 0
        for turn in range(turns):
            total += turn % 7
        return number, os.getpid()

    turns = [chance.choice([0, 10, 1_000, 10_000]) for _ in range(500)]
    pids: set[int] = set()
    refs: list[Any] = []
    cancelled: set[int] = set()
    for number, count in enumerate(turns):
        refs.append(work.remote(number, count))
        if chance.random() < 0.5:  # else it may wait in a queue, or behind another one at a worker
            nbray.wait(refs[-3:], timeout=DEADLINE_S)
        if chance.random() < 0.5:
            victim = max(0, number - chance.choice([0, 0, 1, 2, 5]))
            until_s = time.perf_counter() + chance.choice([0, 0, 50e-6, 200e-6, 1e-3])
            while time.perf_counter() < until_s:
                pass
            nbray.cancel(refs[victim])
            cancelled.add(victim)

    ended = 0
    for number, ref in enumerate(refs):
        try:
            value, pid = nbray.get(ref, timeout=DEADLINE_S)
        except nbray.RayCancellationError:
            assert number in cancelled, "nobody cancelled it"
            ended += 1
        else:
            assert value == number
            pids.add(pid)
    assert ended > 0
    assert ended < len(cancelled)
    assert all(is_alive(pid) for pid in pids)
    assert len(pids) <= 3


def test_queued_tasks_are_no_more_when_the_program_ends_after_it_cancelled_one() -> None:
    script = """if True:
        import time, nbray
        nbray.init(num_cpus=1)
        ref = nbray.remote(time.sleep).remote(60)
        nbray.cancel(ref)
        try:
            nbray.get(ref)
        except nbray.RayCancellationError:
            print("cancelled")
        nbray.shutdown()
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.stderr) == ("cancelled\n", "")
