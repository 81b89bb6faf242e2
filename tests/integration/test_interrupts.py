"""Ctrl-C: wherever it comes, it is raised once, nothing is torn, and the session goes on."""

# ruff: noqa: PT012  (a signal that comes from outside may strike at any line of a block)

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
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
SOON_S = 0.2
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
    """Interrupt at every ``stride``-th bytecode until the call is over before; how often was it raised?"""
    interrupter = Interrupter(WATCHED)
    at, raised = 1, 0
    while True:
        refs: list[Any] = []
        outcome = interrupter.run(partial(operation, refs), at)
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


class Presser:
    """A task that presses Ctrl-C here once ``ready`` was called, and works on until ``go_on`` was."""

    def __init__(self, folder: Path) -> None:
        @nbray.remote(num_cpus=0)
        def press(pid: int, ready: str, go_on: str) -> float:
            while not os.path.exists(ready):
                time.sleep(0.001)
            pressed_s = time.monotonic()  # one clock for the whole machine
            os.kill(pid, signal.SIGINT)
            while not os.path.exists(go_on):
                time.sleep(0.001)
            return pressed_s

        self._ready, self._go_on = folder / "ready", folder / "go on"
        self.ref = press.remote(os.getpid(), str(self._ready), str(self._go_on))

    def ready(self) -> None:
        self._ready.touch()

    def go_on(self) -> None:
        self._go_on.touch()

    def pressed_s(self) -> float:
        """When it was; waits for the task's end."""
        pressed_s: float = nbray.get(self.ref, timeout=10)
        return pressed_s


@pytest.fixture
def presser(add: Any, tmp_path: Path) -> Presser:
    return Presser(tmp_path)


def test_interrupt_of_a_long_get_comes_at_once_and_the_task_goes_on(add: Any, presser: Presser) -> None:
    with pytest.raises(KeyboardInterrupt):
        presser.ready()
        nbray.get(presser.ref, timeout=20)
    raised_s = time.monotonic()

    assert nbray.get(add.remote(1)) == 2
    presser.go_on()
    assert raised_s - presser.pressed_s() < SOON_S


@pytest.mark.parametrize("many", [1, 50])
def test_interrupt_of_a_long_wait_comes_at_once(add: Any, presser: Presser, many: int) -> None:
    refs = [*(add.remote(n) for n in range(many)), presser.ref]

    with pytest.raises(KeyboardInterrupt):
        presser.ready()
        nbray.wait(refs, num_returns=len(refs), timeout=20)
    raised_s = time.monotonic()

    presser.go_on()
    assert nbray.get(refs[:-1]) == list(range(1, many + 1))
    assert raised_s - presser.pressed_s() < SOON_S


def test_interrupt_while_another_thread_reads_comes_at_once(presser: Presser) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(nbray.get(presser.ref, timeout=20)))
    thread.start()
    until(this_process().loop.is_led, "the thread reads")

    with pytest.raises(KeyboardInterrupt):
        presser.ready()
        nbray.get(presser.ref, timeout=20)
    raised_s = time.monotonic()

    presser.go_on()
    assert raised_s - presser.pressed_s() < SOON_S
    thread.join(10)
    assert answers == [presser.pressed_s()]


def test_get_in_another_thread_is_not_interrupted(add: Any, presser: Presser) -> None:
    answers: list[Any] = []
    answered = threading.Event()

    def get() -> None:
        answers.append(nbray.get(presser.ref, timeout=20))
        answered.set()

    thread = threading.Thread(target=get)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        presser.ready()
        answered.wait(10)  # not join: interrupted, it takes the thread for ended (CPython 3.11)
    presser.go_on()
    assert answered.wait(10)
    thread.join(10)

    assert answers == [presser.pressed_s()]
    assert nbray.get(add.remote(1)) == 2


@pytest.fixture
def handler(cluster: None) -> Iterator[Callable[[Any], None]]:
    """Sets SIGINT's handler for one test."""
    before = signal.getsignal(signal.SIGINT)

    def choose(chosen: Any) -> None:
        signal.signal(signal.SIGINT, chosen)

    yield choose
    signal.signal(signal.SIGINT, before)


def test_handler_of_the_users_own_is_called_and_get_goes_on(
    presser: Presser, handler: Callable[[Any], None]
) -> None:
    calls: list[Any] = []

    def note(signum: int, frame: Any) -> None:
        calls.append((signum, frame is not None))
        presser.go_on()

    handler(note)

    presser.ready()
    nbray.get(presser.ref, timeout=10)

    assert calls == [(signal.SIGINT, True)]


def test_handler_that_returns_lets_every_operation_finish(add: Any, handler: Callable[[Any], None]) -> None:
    calls: list[int] = []
    handler(lambda signum, frame: calls.append(signum))

    for operation, is_right in operations(add).values():
        points = count_points(operation)
        for at in range(1, points, points // 23):
            before = len(calls)
            outcome = Interrupter(WATCHED).run(partial(operation, []), at)
            assert not outcome.interrupted
            assert is_right(outcome.value), outcome.where
            assert len(calls) - before == outcome.reached, outcome.where


def test_ignored_interrupt_stays_ignored(presser: Presser, handler: Callable[[Any], None]) -> None:
    handler(signal.SIG_IGN)

    presser.ready()
    presser.go_on()
    nbray.get(presser.ref, timeout=10)

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
