"""Actors with ``max_concurrency=n`` and no ``async def``: n threads run their calls, in no order."""

# ruff: noqa: T201  (the actors of these tests print)
# A decorated class is one for mypy, too.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbray as ray
from tests.support.drivers import is_gone, recorded
from tests.support.sessions import await_empty_store, await_forgotten, session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def nothing_is_held_any_more() -> Iterator[None]:
    yield
    await_forgotten()


@ray.remote
class Gate:
    """Calls wait in it until it is opened."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.lock = threading.Lock()
        self.waiting = 0

    def enter(self, name: Any = None) -> Any:
        with self.lock:
            self.waiting += 1
        self.event.wait()
        return name

    def open(self, after_s: float = 0.0) -> None:
        time.sleep(after_s)
        self.event.set()

    def count(self) -> int:
        return self.waiting

    def pid(self) -> int:
        return os.getpid()

    def threads(self) -> int:
        return len([t for t in threading.enumerate() if t.name.startswith("nbray-call")])

    def leave(self) -> None:
        ray.exit_actor()


def await_inside(gate: Any, count: int) -> None:
    until(lambda: ray.get(gate.count.remote()) == count, f"{count} calls are inside")


# --- several at once -------------------------------------------------------------------------------------


def test_calls_wait_in_threads_until_another_call_lets_them_go() -> None:
    gate = Gate.options(max_concurrency=5).remote()
    refs = [gate.enter.remote(n) for n in range(4)]
    await_inside(gate, 4)

    ray.get(gate.open.remote())

    assert ray.get(refs) == [0, 1, 2, 3]
    assert ray.get(gate.threads.remote()) <= 4  # beside the main thread


def test_no_more_calls_than_max_concurrency_run_at_once() -> None:
    gate = Gate.options(max_concurrency=3).remote()
    refs = [gate.enter.remote() for _ in range(3)]

    ready, _ = ray.wait([gate.count.remote(), gate.open.remote()], timeout=0.1)

    assert ready == []
    ray.kill(gate)
    for ref in refs:
        with pytest.raises(ray.RayActorError):
            ray.get(ref)


def test_threads_are_started_for_calls_that_no_other_one_has_time_for() -> None:
    gate = Gate.options(max_concurrency=100).remote()

    for _ in range(50):
        ray.get(gate.count.remote())

    # A call may come before the thread that answered the one before it is free again.
    assert ray.get(gate.threads.remote()) < 10


def test_another_callers_calls_run_while_mine_wait() -> None:
    @ray.remote
    def open_it(gate: Any) -> None:
        ray.get(gate.open.remote())

    gate = Gate.options(max_concurrency=2).remote()
    mine = gate.enter.remote("mine")
    await_inside(gate, 1)

    ray.get(open_it.remote(gate))

    assert ray.get(mine) == "mine"


# --- the API in threads ----------------------------------------------------------------------------------


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote(max_concurrency=8)
class Worker:
    def __init__(self, other: Any = None) -> None:
        self.other = other
        self.kept: list[Any] = []

    def squares(self, n: int) -> list[int]:
        refs = [square.remote(n), square.remote(n + 1)]
        ready, rest = ray.wait(refs, num_returns=2)
        assert not rest
        return [*ray.get(ready), ray.get(ray.put(n))]

    def ask(self, n: int) -> list[int]:
        found: list[int] = ray.get(self.other.squares.remote(n))
        return found

    def fail(self, kind: type[BaseException]) -> None:
        raise kind("in vain")

    def total(self, array: Any, keep: bool = False) -> float:
        assert not array.flags.writeable
        if keep:
            self.kept.append(array[:10])
        return float(array.sum())

    def drop(self) -> float:
        total = sum(float(array.sum()) for array in self.kept)
        self.kept.clear()
        return total

    def make(self, n: int) -> Any:
        return np.full(100_000, n), ray.put(n)

    def hold(self, refs: list[Any]) -> None:
        self.kept.append(refs[0])

    def read(self) -> list[Any]:
        refs, self.kept = self.kept, []
        return list(ray.get(refs))

    def say(self, n: int) -> None:
        print(n, end=" ")
        time.sleep(0.001)
        print("and", n)

    def task_id(self) -> str:
        return str(ray.worker.global_worker.current_task_id.hex())


def test_get_wait_put_and_submitting_work_in_many_threads_at_once() -> None:
    worker = Worker.remote()

    found = ray.get([worker.squares.remote(n) for n in range(100)])

    assert found == [[n * n, (n + 1) ** 2, n] for n in range(100)]


def test_threads_of_one_actor_wait_for_those_of_another() -> None:
    inner = Worker.remote()
    outer = Worker.remote(inner)

    assert ray.get([outer.ask.remote(n) for n in range(40)]) == [[n * n, (n + 1) ** 2, n] for n in range(40)]


def test_each_call_has_a_context_of_its_own() -> None:
    worker = Worker.remote()
    refs = [worker.task_id.remote() for _ in range(40)]

    assert ray.get(refs) == [ref.task_id().hex() for ref in refs]


def test_what_one_call_raises_ends_that_call_alone() -> None:
    worker = Worker.remote()

    for kind in (ValueError, KeyboardInterrupt, GeneratorExit):
        bad = worker.fail.remote(kind)
        good = [worker.total.remote(np.ones(3)) for _ in range(20)]

        with pytest.raises(ray.RayTaskError, match=kind.__name__):
            ray.get(bad)
        assert ray.get(good) == [3.0] * 20


# --- objects and output ----------------------------------------------------------------------------------


def test_large_arrays_are_views_in_many_threads_and_all_memory_comes_back() -> None:
    worker = Worker.remote()
    refs = [ray.put(np.full(50_000, float(n))) for n in range(8)]

    totals = ray.get([worker.total.remote(ref, n % 2 == 0) for ref in refs for n in range(4)])

    assert totals == [50_000.0 * n for n in range(8) for _ in range(4)]
    del refs
    filler = [ray.put(np.zeros(50_000)) for _ in range(8)]
    assert ray.get(worker.drop.remote()) == 2 * sum(10.0 * n for n in range(8))
    del filler
    await_empty_store()


def test_results_with_references_and_arrays_come_from_many_threads() -> None:
    worker = Worker.remote()

    for n, (array, ref) in enumerate(ray.get([worker.make.remote(n) for n in range(30)])):
        assert array[0] == array[-1] == n
        assert ray.get(ref) == n
    ray.get([worker.hold.remote([ray.put(n)]) for n in range(50)])
    assert sorted(ray.get(worker.read.remote())) == list(range(50))


def test_lines_of_calls_that_overlap_do_not_mix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_RENDERER", "text")
    worker = Worker.remote()

    ray.get([worker.say.remote(n) for n in range(50)])

    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"(Worker.say) {n} and {n}" for n in range(50))


# --- the end ---------------------------------------------------------------------------------------------


def test_calls_of_a_restarted_actor_are_sent_again_where_they_may_be() -> None:
    gate = Gate.options(max_concurrency=20, max_restarts=1, max_task_retries=1).remote()
    refs = [gate.enter.remote(n) for n in range(18)]
    await_inside(gate, 18)
    os.kill(ray.get(gate.pid.remote()), signal.SIGKILL)

    await_inside(gate, 18)
    gate.open.remote()

    assert ray.get(refs) == list(range(18))


def test_exit_lets_calls_finish_that_run_or_wait_and_the_actor_is_not_restarted() -> None:
    gate = Gate.options(max_concurrency=4, max_restarts=1).remote()
    refs = [gate.enter.remote(n) for n in range(2)]
    await_inside(gate, 2)
    (process,) = recorded([ray.get(gate.pid.remote())])

    opened = gate.open.remote(0.1)
    left = gate.leave.remote()

    assert ray.get([*refs, opened]) == [0, 1, None]
    with pytest.raises(ray.RayActorError, match="exit_actor"):
        ray.get(left)
    until(lambda: is_gone(process), "the actor's process is gone")
    with pytest.raises(ray.RayActorError):
        ray.get(gate.count.remote())


def test_terminate_ends_it_when_its_calls_are_done() -> None:
    worker = Worker.remote()
    refs = [worker.squares.remote(n) for n in range(20)]

    assert ray.get(worker.__ray_terminate__.remote()) is None

    assert ray.get(refs) == [[n * n, (n + 1) ** 2, n] for n in range(20)]
    with pytest.raises(ray.RayActorError):
        ray.get(worker.drop.remote())
