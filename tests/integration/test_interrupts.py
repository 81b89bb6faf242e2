"""Ctrl-C: wherever it comes, it is raised once, nothing is torn, and the session goes on."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.interrupting import Interrupter
from tests.support.sessions import session, store_figures, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

SRC = Path(nbray.__file__).parent
#: All of what runs between a call of the API and its answer. Not model: it is pure.
WATCHED = [SRC / room for room in ("api", "core", "runtime", "transport", "wire")]
FEW_POINTS = 211  # so many, spread evenly, in the quick sweeps
MEGABYTE = np.arange(131_072, dtype=np.float64)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=100 << 20):
        yield


@pytest.fixture
def add(cluster: None) -> Any:
    @nbray.remote
    def add(x: int) -> int:
        return x + 1

    assert nbray.get(add.remote(1)) == 2  # its code is exported, a worker is there
    return add


Operation = Callable[[list[Any]], Any]


def operations(add: Any) -> dict[str, tuple[Operation, Callable[[Any], bool]]]:
    """Each leaves the references that it got hold of in the list, and comes with a check of its answer."""

    def submit_and_get(refs: list[Any]) -> Any:
        refs.append(add.remote(41))
        return nbray.get(refs[0])

    def submit(refs: list[Any]) -> Any:
        refs.extend(add.remote(n) for n in range(3))
        return refs

    def put(refs: list[Any]) -> Any:
        refs.append(nbray.put(MEGABYTE))
        return refs

    def wait(refs: list[Any]) -> Any:
        refs.extend(add.remote(n) for n in range(3))
        return nbray.wait(refs, num_returns=2)

    def large_argument_and_result(refs: list[Any]) -> Any:
        refs.append(add.remote(MEGABYTE))
        return nbray.get(refs[0])

    def reference_inside(refs: list[Any]) -> Any:
        refs.append(nbray.put([add.remote(1)]))
        return nbray.get(nbray.get(refs[0]))

    return {
        "submit_and_get": (submit_and_get, lambda answer: bool(answer == 42)),
        "submit": (submit, lambda refs: bool(nbray.get(refs) == [1, 2, 3])),
        "put": (put, lambda refs: bool((nbray.get(refs[0]) == MEGABYTE).all())),
        "wait": (wait, lambda answer: (len(answer[0]), len(answer[1])) == (2, 1)),
        "large_argument_and_result": (
            large_argument_and_result, lambda answer: bool((answer == MEGABYTE + 1).all())
        ),
        "reference_inside": (reference_inside, lambda answer: bool(answer == [2])),
    }  # fmt: skip


NAMES = ("submit_and_get", "submit", "put", "wait", "large_argument_and_result", "reference_inside")


@pytest.mark.parametrize("name", NAMES)
def test_interrupt_at_many_points_leaves_the_session_whole(add: Any, name: str) -> None:
    operation, is_right = operations(add)[name]
    stride = max(1, count_points(operation) // FEW_POINTS)
    before = until(at_rest, "no task is open")

    interrupted = sweep(add, operation, is_right, stride)

    assert interrupted > FEW_POINTS // 2
    if name != "reference_inside":  # a reference that was pickled into a value stays for the session
        until(lambda: at_rest() == before, f"no more is held than {before}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_interrupt_at_every_point_leaves_the_session_whole(add: Any, name: str) -> None:
    operation, is_right = operations(add)[name]
    before = until(at_rest, "no task is open")

    interrupted = sweep(add, operation, is_right, 1)

    assert interrupted > FEW_POINTS
    if name != "reference_inside":
        until(lambda: at_rest() == before, f"no more is held than {before}")


def count_points(operation: Operation) -> int:
    """How many bytecodes one call takes; it varies a little with who reads the sockets."""
    far = 10_000_000
    interrupter = Interrupter(WATCHED)
    interrupter.run(lambda: operation([]), far)
    return far - interrupter.left


def sweep(add: Any, operation: Operation, is_right: Callable[[Any], bool], stride: int) -> int:
    """Interrupt at every ``stride``-th bytecode until the call is over before; return how often it was raised."""
    interrupter = Interrupter(WATCHED)
    at, raised = 1, 0
    while True:
        refs: list[Any] = []
        outcome = interrupter.run(lambda: operation(refs), at)
        place = f"interrupted before bytecode {at}: {outcome.where}"
        if not outcome.reached:
            assert is_right(outcome.value)
            return raised
        assert outcome.interrupted, f"swallowed when {place}"
        raised += 1
        outcome.value = None
        check_whole(add, refs, place)
        at += stride


def at_rest() -> tuple[int, int] | None:
    """Objects of this driver and in the store, once no task is open."""
    gc.collect()
    process = this_process()
    with process.loop.lock:
        process.objects.drain()
        known, tasks = len(process.objects.table), len(process.submitter.tasks)
    return None if tasks else (known, store_figures()["objects"])


def check_whole(add: Any, refs: list[Any], place: str) -> None:
    """Nothing is held or pending, what was got hold of can be got, and new work is done right."""
    process = this_process()
    guard = process.loop.guard
    assert (guard._depth, guard.pending) == (0, False), place
    for lock in (process.loop.lock, process.loop._lead):
        assert lock.acquire(timeout=2), f"a lock was left held, {place}"
        lock.release()
    if refs:
        nbray.get(refs, timeout=10)
    assert nbray.get(add.remote(1), timeout=10) == 2, place


# --- one that comes from outside ------------------------------------------------------------------------


@pytest.fixture
def interrupt_then_go_on(cluster: None) -> Any:
    """A task in another process that presses Ctrl-C here, then works on until it is let go; tells when it did."""

    @nbray.remote
    def interrupt_then_go_on(pid: int, go_on: str) -> float:
        pressed_s = time.monotonic()  # one clock for the whole machine
        os.kill(pid, signal.SIGINT)
        while not os.path.exists(go_on):
            time.sleep(0.005)
        return pressed_s

    return interrupt_then_go_on


def test_interrupt_of_a_long_get_comes_at_once_and_the_task_goes_on(
    add: Any, interrupt_then_go_on: Any, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    ref = None

    with pytest.raises(KeyboardInterrupt):
        ref = interrupt_then_go_on.remote(os.getpid(), str(go_on))
        nbray.get(ref, timeout=20)
    raised_s = time.monotonic()

    assert nbray.get(add.remote(1)) == 2
    go_on.touch()
    assert ref is not None
    assert raised_s - nbray.get(ref, timeout=10) < 0.2


@pytest.mark.parametrize("many", [1, 50])
def test_interrupt_of_a_long_wait_comes_at_once(
    add: Any, interrupt_then_go_on: Any, tmp_path: Path, many: int
) -> None:
    go_on = tmp_path / "go on"
    refs = [add.remote(n) for n in range(many)]

    with pytest.raises(KeyboardInterrupt):
        refs.append(interrupt_then_go_on.remote(os.getpid(), str(go_on)))
        nbray.wait(refs, num_returns=len(refs), timeout=20)
    raised_s = time.monotonic()

    go_on.touch()
    assert nbray.get(refs[:-1]) == list(range(1, many + 1))
    assert raised_s - nbray.get(refs[-1], timeout=10) < 0.2


def test_interrupt_while_another_thread_reads_comes_at_once(
    add: Any, interrupt_then_go_on: Any, tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"

    @nbray.remote
    def wait_for(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return "went on"

    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(nbray.get(wait_for.remote(str(go_on)))))
    thread.start()
    until(this_process().loop.is_led, "the thread reads")
    ref = None
    with pytest.raises(KeyboardInterrupt):
        ref = interrupt_then_go_on.remote(os.getpid(), str(go_on))
        nbray.get(ref, timeout=20)
    raised_s = time.monotonic()

    go_on.touch()
    thread.join(10)
    assert answers == ["went on"]
    assert ref is not None
    assert raised_s - nbray.get(ref, timeout=10) < 0.2


@pytest.fixture
def handler() -> Iterator[Callable[[Any], None]]:
    """Sets SIGINT's handler for one test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda chosen: signal.signal(signal.SIGINT, chosen)
    signal.signal(signal.SIGINT, before)


def test_handler_of_the_users_own_is_called_and_get_goes_on(
    add: Any, interrupt_then_go_on: Any, handler: Callable[[Any], None], tmp_path: Path
) -> None:
    go_on = tmp_path / "go on"
    calls: list[Any] = []

    def note(signum: int, frame: Any) -> None:
        calls.append((signum, frame is not None))
        go_on.touch()

    handler(note)

    nbray.get(interrupt_then_go_on.remote(os.getpid(), str(go_on)), timeout=10)

    assert calls == [(signal.SIGINT, True)]
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler


def test_handler_that_returns_lets_every_operation_finish(
    add: Any, handler: Callable[[Any], None]
) -> None:
    calls: list[int] = []
    handler(lambda signum, frame: calls.append(signum))

    for operation, is_right in operations(add).values():
        points = count_points(operation)
        for at in range(1, points, points // 23):
            before = len(calls)
            outcome = Interrupter(WATCHED).run(lambda: operation([]), at)  # noqa: B023  (called at once)
            assert not outcome.interrupted
            assert is_right(outcome.value), outcome.where
            assert len(calls) - before == outcome.reached, outcome.where


def test_ignored_interrupt_stays_ignored(
    add: Any, interrupt_then_go_on: Any, handler: Callable[[Any], None], tmp_path: Path
) -> None:
    (tmp_path / "go on").touch()
    handler(signal.SIG_IGN)

    nbray.get(interrupt_then_go_on.remote(os.getpid(), str(tmp_path / "go on")), timeout=10)

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_get_in_another_thread_is_not_interrupted(add: Any, interrupt_then_go_on: Any, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    answers: list[Any] = []
    answered = threading.Event()

    def get() -> None:
        answers.append(nbray.get(interrupt_then_go_on.remote(os.getpid(), str(go_on)), timeout=10))
        answered.set()

    thread = threading.Thread(target=get)
    with pytest.raises(KeyboardInterrupt):
        thread.start()
        answered.wait(10)  # not join: interrupted, it takes the thread for ended (CPython 3.11)
    go_on.touch()
    assert answered.wait(10)
    thread.join(10)

    assert len(answers) == 1
    assert nbray.get(add.remote(1)) == 2
