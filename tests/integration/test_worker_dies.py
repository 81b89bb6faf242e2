"""kill -9 of a worker: a typed error or another attempt, and nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.errors import RayWorkerError
from tests.support import procfs
from tests.support.drivers import is_gone, recorded
from tests.support.sessions import await_empty_store, session, store_figures
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

#: A dead worker's children are gone this soon.
CHILDREN_GONE_S = 1.0


@pytest.fixture(autouse=True, scope="module")
def cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


def worker_pids() -> set[int]:
    return set(nbray.status().to_dict()["processes"]["workers"])


def process_of_daemon() -> int:
    (pid,) = (child.pid for child in procfs.children(os.getpid()) if child.name == "nbray-node")
    return pid


def told(path: Path) -> Any:
    """What a task wrote into a file, at once and whole."""
    until(path.exists, f"{path.name} was written")
    return json.loads(path.read_text())


@nbray.remote(max_retries=0)
def tells_pid_and_stays(path: str, *_held: Any) -> None:
    import time

    Path(path + ".new").write_text(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(600)


# --- the task ----------------------------------------------------------------------------------------


def test_without_retries_the_error_names_signal_task_and_process(folder: Path) -> None:
    ref = tells_pid_and_stays.remote(str(folder / "pid"))
    pid = told(folder / "pid")

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(RayWorkerError, match="SIGKILL") as caught:
        nbray.get(ref, timeout=2)
    error = caught.value
    assert (error.term_signal, error.pid, error.attempt, error.max_attempts) == (signal.SIGKILL, pid, 1, 1)
    assert error.task_name.endswith("tells_pid_and_stays")


def test_by_default_the_task_is_run_again(folder: Path) -> None:
    @nbray.remote
    def dies_once(path: str) -> str:
        marker = Path(path)
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "second attempt"

    assert nbray.get(dies_once.remote(str(folder / "first")), timeout=5) == "second attempt"


def test_retries_end_and_the_error_counts_the_attempts(folder: Path) -> None:
    @nbray.remote(max_retries=2)
    def always_dies(path: str) -> None:
        with open(path, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RayWorkerError, match="attempt 3 of 3"):
        nbray.get(always_dies.remote(str(folder / "attempts")), timeout=10)

    assert (folder / "attempts").read_text() == "xxx"


def test_tasks_that_waited_behind_the_dead_one_run(folder: Path) -> None:
    @nbray.remote(max_retries=0)
    def waits_and_dies(path: str) -> None:
        import time

        while not Path(path).exists():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGKILL)

    @nbray.remote(max_retries=0)
    def double(x: int) -> int:
        return 2 * x

    dying = [waits_and_dies.remote(str(folder / "go")) for _ in range(2)]
    others = [double.remote(i) for i in range(50)]
    (folder / "go").touch()

    for ref in dying:
        with pytest.raises(RayWorkerError):
            nbray.get(ref, timeout=5)
    assert nbray.get(others, timeout=5) == [2 * i for i in range(50)]


def test_tasks_that_ended_before_the_dead_one_keep_their_results(folder: Path) -> None:
    @nbray.remote(max_retries=0)
    def gate(path: str) -> None:
        import time

        while not Path(path).exists():
            time.sleep(0.002)

    @nbray.remote(max_retries=0)
    def noted(path: str, index: int, dies: bool) -> int:
        with open(f"{path}-{index}", "a") as file:
            file.write("x")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    gates = [gate.remote(str(folder / "go")) for _ in range(2)]
    refs = [noted.remote(str(folder / "run"), index, index == 20) for index in range(40)]
    (folder / "go").touch()

    failed = []
    for index, ref in enumerate(refs):
        try:
            assert nbray.get(ref, timeout=5) == index
        except RayWorkerError:
            failed.append(index)
    assert failed == [20]
    assert {(folder / f"run-{index}").read_text() for index in range(40)} == {"x"}  # none ran twice
    nbray.get(gates)


def test_a_task_that_waits_for_the_dead_ones_result_gets_its_error(folder: Path) -> None:
    @nbray.remote
    def length(value: Any) -> int:
        return len(value)

    ref = length.remote(tells_pid_and_stays.remote(str(folder / "pid")))

    os.kill(told(folder / "pid"), signal.SIGKILL)

    with pytest.raises(RayWorkerError, match="tells_pid_and_stays"):
        nbray.get(ref, timeout=5)


def test_what_the_dead_one_had_submitted_goes_with_it(folder: Path) -> None:
    @nbray.remote(max_retries=0)
    def parent(own: str, childs: str) -> None:
        ref = tells_pid_and_stays.remote(childs)
        Path(own + ".new").write_text(str(os.getpid()))
        os.rename(own + ".new", own)
        nbray.get(ref)

    ref = parent.remote(str(folder / "parent"), str(folder / "child"))
    mother, child = recorded([told(folder / "parent"), told(folder / "child")])

    os.kill(mother.pid, signal.SIGKILL)

    with pytest.raises(RayWorkerError):
        nbray.get(ref, timeout=5)
    until(lambda: is_gone(child), "the child's worker is gone", 2.0)


# --- objects -----------------------------------------------------------------------------------------


def test_views_that_the_running_task_held_are_dropped(folder: Path) -> None:
    value = nbray.put(np.ones(1_000_000))
    ref = tells_pid_and_stays.remote(str(folder / "pid"), value)
    pid = told(folder / "pid")

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RayWorkerError):
        nbray.get(ref, timeout=5)

    del value, ref
    await_empty_store()


def test_views_that_outlived_their_task_are_dropped() -> None:
    @nbray.remote
    def keeps(array: np.ndarray[Any, Any]) -> int:
        import builtins

        builtins.kept = array[10:20]  # type: ignore[attr-defined]
        return os.getpid()

    value = nbray.put(np.ones(1_000_000))
    pid = nbray.get(keeps.remote(value), timeout=5)
    del value
    assert store_figures()["used_bytes"] > 0  # the worker's view keeps it

    os.kill(pid, signal.SIGKILL)

    await_empty_store()


def test_the_space_of_a_result_that_was_being_written_returns() -> None:
    @nbray.remote(max_retries=0)
    def dies_writing() -> Any:
        from nbray.runtime.creating import Creating

        def half(_self: Any, _descriptor: Any, _cold_bytes: int, _serialized: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Creating, "_write", half)  # noqa: B010  (mypy refuses the assignment)
        return np.ones(5_000_000)

    with pytest.raises(RayWorkerError, match="SIGKILL"):
        nbray.get(dies_writing.remote(), timeout=5)

    await_empty_store()
    assert store_figures()["creating"] == 0


def test_a_result_in_a_slab_outlives_its_worker_though_the_daemon_had_not_heard_of_it() -> None:
    # given a result that a worker makes in a slab of its own, while the daemon sleeps
    @nbray.remote(max_retries=0)
    def makes() -> tuple[int, bool, Any]:
        from nbray.runtime.current import current

        has_slab = current().objects.slabs._current is not None
        if has_slab:
            os.kill(os.getppid(), signal.SIGSTOP)
        return os.getpid(), has_slab, np.full(50_000, 7)

    @nbray.remote
    def total(made: tuple[int, bool, Any]) -> int:
        return int(made[2].sum())

    def made_in_a_slab() -> Any:
        ref = makes.remote()
        return ref if nbray.get(ref, timeout=5)[1] else None

    ref = until(made_in_a_slab, "a worker makes its result in a slab")

    # when its worker is killed before the daemon wakes up
    os.kill(nbray.get(ref)[0], signal.SIGKILL)
    os.kill(process_of_daemon(), signal.SIGCONT)

    # then it is whole, here and for others, and its space returns when nobody wants it
    assert nbray.get(total.remote(ref), timeout=5) == 350_000
    assert nbray.get(ref)[2].sum() == 350_000
    del ref
    await_empty_store()


# --- its children --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "setsid", "setsid, empty environment", "forked twice, no exec"])
def test_its_children_go_with_it(folder: Path, kind: str) -> None:
    @nbray.remote(max_retries=0)
    def starts_child(path: str, kind: str) -> None:
        import subprocess
        import time

        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        if kind == "plain":
            child = subprocess.Popen(["sleep", "600"], **quiet).pid
        elif kind == "setsid":
            child = subprocess.Popen(["sleep", "600"], start_new_session=True, **quiet).pid
        elif kind == "setsid, empty environment":
            child = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={}, **quiet).pid
        else:
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.setsid()
                child = os.fork()
                if child:
                    os.write(writing, str(child).encode())
                else:
                    time.sleep(600)
                os._exit(0)
            child = int(os.read(reading, 20))
        Path(path + ".new").write_text(json.dumps([os.getpid(), child]))
        os.rename(path + ".new", path)
        time.sleep(600)

    ref = starts_child.remote(str(folder / "pids"), kind)
    pid, child = told(folder / "pids")
    (process,) = recorded([child])

    os.kill(pid, signal.SIGKILL)

    until(lambda: is_gone(process), f"the {kind} child is gone", CHILDREN_GONE_S)
    with pytest.raises(RayWorkerError):
        nbray.get(ref, timeout=5)


def test_a_living_workers_detached_child_stays_when_another_worker_dies(folder: Path) -> None:
    @nbray.remote
    def detaches(go: str) -> tuple[int, int]:
        import subprocess
        import time

        shell = "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!"
        child = int(subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE, check=True).stdout)
        while not Path(go).exists():
            time.sleep(0.002)
        return os.getpid(), child

    # Both run, so that they are two workers.
    living = detaches.remote(str(folder / "go"))
    ref = tells_pid_and_stays.remote(str(folder / "pid"))
    dying = told(folder / "pid")
    (folder / "go").touch()
    worker, child = nbray.get(living, timeout=5)
    (process,) = recorded([child])
    assert worker != dying

    os.kill(dying, signal.SIGKILL)
    with pytest.raises(RayWorkerError):
        nbray.get(ref, timeout=5)
    until(lambda: dying not in worker_pids(), "the dead worker is forgotten")

    # What another death sweeps would have been swept by now: the sweep runs before the next is started.
    nbray.get(detaches.options(num_cpus=0).remote(str(folder / "go")), timeout=5)
    assert not is_gone(process)
    os.kill(worker, signal.SIGKILL)
    until(lambda: is_gone(process), "it goes with its own worker", CHILDREN_GONE_S)
