"""Actors whose process dies: typed errors, other lives, calls that are made again in their order."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.model.actor_errors import RayActorError
from tests.support.drivers import is_gone, recorded
from tests.support.sessions import await_forgotten, session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    yield
    await_forgotten()
    (node,) = nbray.status().to_dict()["nodes"]
    until(lambda: nbray.status().nodes[0]["free"] == node["resources"], "all resources came back")


class Mortal:
    """Notes in a file what it does; dies on demand."""

    def __init__(self, folder: str, *more: Any) -> None:
        self.folder, self.more = folder, more
        self.calls = 0
        self._note("made")

    def _note(self, text: str) -> None:
        with open(os.path.join(self.folder, "notes"), "a") as file:
            file.write(text + "\n")

    def pid(self) -> int:
        return os.getpid()

    def count(self, number: Any = "") -> int:
        self._note(f"count {number}")
        self.calls += 1
        return self.calls

    def die(self, sig: int = signal.SIGKILL) -> None:
        self._note("die")
        os.kill(os.getpid(), sig)

    def die_once(self, name: str = "died") -> int:
        """Die the first time, whatever became of the one that did."""
        path = Path(self.folder, name)
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self._note(name)
        return self.count()

    def wait(self) -> str:
        self._note("waits")
        while not Path(self.folder, "go").exists():
            time.sleep(0.005)
        return "waited"

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


def mortal(folder: Path, *more: Any, **options: Any) -> Any:
    return nbray.remote(num_cpus=0, **options)(Mortal).remote(str(folder), *more)


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


# --- one life -----------------------------------------------------------------------------------------------


def test_calls_under_way_and_later_ones_are_typed_when_its_process_dies(folder: Path) -> None:
    actor = mortal(folder)
    pid = nbray.get(actor.pid.remote())
    under_way, queued = actor.wait.remote(), [actor.count.remote() for _ in range(10)]
    until(lambda: "waits" in notes(folder), "it waits")

    os.kill(pid, signal.SIGKILL)

    for ref in (under_way, *queued, actor.count.remote()):
        with pytest.raises(RayActorError, match="SIGKILL") as caught:
            nbray.get(ref, timeout=5)
        assert caught.value.class_name == "Mortal"
        assert caught.value.actor_id == actor._actor_id.hex()
    time.sleep(0.05)
    assert notes(folder) == ["made", "waits"]


def test_chain_of_calls_ends_with_the_constructor_that_died(folder: Path) -> None:
    class Stillborn(Mortal):
        def __init__(self, folder: str) -> None:
            super().__init__(folder)
            self.wait()
            os._exit(1)

    actor = nbray.remote(num_cpus=0)(Stillborn).remote(str(folder))
    refs = [actor.count.remote()]
    for _ in range(3):
        refs.append(actor.count.remote(refs[-1]))  # each takes the one before

    (folder / "go").touch()

    for ref in refs:
        with pytest.raises(RayActorError):
            nbray.get(ref, timeout=10)
    assert nbray.is_initialized()


def test_actor_goes_although_its_last_calls_failed_one_through_the_other(folder: Path) -> None:
    @nbray.remote
    def fails(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.002)
        raise ValueError

    actor = mortal(folder)
    pid = nbray.get(actor.pid.remote())
    refs = [fails.remote(str(folder / "go"))]
    for _ in range(3):
        refs.append(actor.count.remote(refs[-1]))  # each takes the one before
    (process,) = recorded([pid])

    (folder / "go").touch()

    for ref in refs:
        with pytest.raises(ValueError):  # noqa: PT011  # it says nothing
            nbray.get(ref, timeout=10)
    assert notes(folder) == ["made"]
    del actor
    until(lambda: is_gone(process), "it is gone")


def deep(kind: str) -> None:
    """What ends a process: each by another way."""
    if kind == "null":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "exit code":
        os._exit(7)
    elif kind == "exit code 0":
        os._exit(0)
    elif kind == "stack":
        nested: list[Any] = []
        for _ in range(300_000):
            nested = [nested]
        sys.setrecursionlimit(10**9)
        repr(nested)
    elif kind == "descriptors":
        os.closerange(3, 4096)
        time.sleep(30)
    else:
        os.kill(os.getpid(), getattr(signal, kind))
        time.sleep(30)


CRASHES = [
    "null",
    "abort",
    "exit code",
    "exit code 0",
    "descriptors",
    "stack",
    "SIGKILL",
    "SIGSEGV",
    "SIGBUS",
    "SIGFPE",
]


@pytest.mark.parametrize("kind", CRASHES)
def test_whatever_ends_its_process_is_typed_and_the_next_tasks_are_well(kind: str, folder: Path) -> None:
    @nbray.remote
    def square(x: int) -> int:
        return x * x

    actor = mortal(folder)

    with pytest.raises(RayActorError):
        nbray.get(actor.run.remote(deep, kind), timeout=10)

    assert nbray.get([square.remote(i) for i in range(10)], timeout=30) == [i * i for i in range(10)]


def test_endless_recursion_is_an_error_like_others(folder: Path) -> None:
    def recurse(n: int = 0) -> int:
        return recurse(n + 1)

    actor = mortal(folder)

    with pytest.raises(RecursionError):
        nbray.get(actor.run.remote(recurse), timeout=20)
    assert nbray.get(actor.count.remote()) == 1


@pytest.mark.parametrize("kind", ["null", "exit code 0", "SIGKILL"])
def test_a_call_that_always_crashes_is_tried_so_often_and_no_more(kind: str, folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1, max_task_retries=3)

    with pytest.raises(RayActorError):
        nbray.get(actor.run.remote(deep, kind), timeout=20)

    assert nbray.get(actor.count.remote(), timeout=10) == 1
    assert notes(folder).count("made") == 5  # the first, and one after each of four attempts


@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt, GeneratorExit, StopIteration, TimeoutError, RecursionError, MemoryError]
)
def test_what_a_method_raises_is_caught_as_itself_and_does_not_end_the_actor(
    raised: Any, folder: Path
) -> None:
    def throw() -> None:
        raise raised("thrown")

    actor = mortal(folder)

    with pytest.raises(raised) as caught:
        nbray.get(actor.run.remote(throw), timeout=10)

    assert isinstance(caught.value, nbray.RayTaskError)
    assert nbray.get(actor.count.remote()) == 1
    assert notes(folder).count("made") == 1


def test_a_result_that_cannot_be_pickled_is_typed_and_the_actor_goes_on(folder: Path) -> None:
    actor = mortal(folder)

    with pytest.raises(nbray.SerializationError, match="result"):
        nbray.get(actor.run.remote(lambda: [threading.Lock()]))
    assert nbray.get(actor.count.remote()) == 1


def test_threads_that_a_method_leaves_stay_with_the_actor(folder: Path) -> None:
    def begin(path: str) -> None:
        def work() -> None:
            while not Path(path).exists():
                time.sleep(0.005)
            Path(path + ".seen").touch()

        threading.Thread(target=work, daemon=True).start()

    actor = mortal(folder)
    nbray.get(actor.run.remote(begin, str(folder / "thread")))
    assert nbray.get(actor.count.remote()) == 1

    (folder / "thread").touch()

    until((folder / "thread.seen").exists, "the thread of the actor lives")


def test_a_forked_child_that_returns_into_our_loop_ends_itself(folder: Path) -> None:
    def fork() -> int:
        return os.getpid() if os.fork() else -1

    actor = mortal(folder)
    pid = nbray.get(actor.pid.remote())

    assert nbray.get(actor.run.remote(fork), timeout=10) == pid
    assert nbray.get(actor.count.remote(), timeout=10) == 1


def test_sys_exit_in_a_method_is_an_intended_end(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1)
    process = recorded([nbray.get(actor.pid.remote())])[0]

    with pytest.raises(RayActorError, match="exit"):
        nbray.get(actor.run.remote(sys.exit, 3), timeout=10)

    until(lambda: is_gone(process), "it is gone")
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote(), timeout=10)
    assert notes(folder) == ["made"]


# --- other lives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["max_restarts", "max_reconstructions"])
def test_it_is_made_again_so_often_with_the_same_arguments(spelling: str, folder: Path) -> None:
    actor = mortal(folder, {"an": [nbray.put("argument")]}, **{spelling: 2})

    for _life in range(3):
        assert nbray.get(actor.count.remote(), timeout=10) == 1
        with pytest.raises(RayActorError):
            nbray.get(actor.die.remote(), timeout=10)

    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote(), timeout=10)
    assert notes(folder).count("made") == 3


def test_no_call_is_needed_for_it_to_be_made_again(folder: Path) -> None:
    actor = mortal(folder, max_restarts=1)
    pid = nbray.get(actor.pid.remote())

    os.kill(pid, signal.SIGKILL)

    until(lambda: notes(folder) == ["made", "made"], "it was made again")
    assert nbray.get(actor.pid.remote(), timeout=10) != pid


def test_its_large_and_its_stored_arguments_are_there_again(folder: Path) -> None:
    import numpy as np

    class Summing(Mortal):
        def sums(self) -> list[float]:
            return [float(array.sum()) for array in self.more]

    ones = np.ones(300_000)
    actor = nbray.remote(max_restarts=1, num_cpus=0)(Summing).remote(str(folder), ones, nbray.put(2 * ones))
    assert nbray.get(actor.sums.remote()) == [300_000, 600_000]

    nbray.kill(actor)

    assert nbray.get(actor.sums.remote(), timeout=10) == [300_000, 600_000]


def test_dying_in_its_constructor_counts_too(folder: Path) -> None:
    class Fragile(Mortal):
        def __init__(self, folder: str) -> None:
            super().__init__(folder)
            os.kill(os.getpid(), signal.SIGKILL)

    actor = nbray.remote(max_restarts=2)(Fragile).remote(str(folder))

    with pytest.raises(RayActorError, match="SIGKILL"):
        nbray.get(actor.count.remote(), timeout=20)
    assert notes(folder) == ["made"] * 3


def test_one_that_dies_in_its_constructor_may_make_it_in_the_end(folder: Path) -> None:
    class Stubborn(Mortal):
        def __init__(self, folder: str) -> None:
            super().__init__(folder)
            if notes(Path(folder)).count("made") < 6:
                os.kill(os.getpid(), signal.SIGKILL)

    actor = nbray.remote(max_restarts=-1)(Stubborn).remote(str(folder))

    assert nbray.get(actor.count.remote(), timeout=30) == 1
    assert notes(folder).count("made") == 6


# --- calls that are made again ------------------------------------------------------------------------------


def test_without_retries_a_call_runs_at_most_once(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1)

    refs = [actor.count.remote(0), actor.die_once.remote(), *(actor.count.remote(i) for i in range(1, 20))]
    ended = []
    for ref in refs:
        try:
            ended.append(nbray.get(ref, timeout=20))
        except RayActorError:
            ended.append(None)

    assert ended[0] in (1, None)  # its answer may have been on its way
    assert ended[1] is None
    assert all(n is None or n >= 1 for n in ended)
    ran = [note for note in notes(folder) if note.startswith("count")]
    assert len(ran) == len(set(ran))
    assert nbray.get(actor.count.remote(), timeout=10) >= 1


def test_with_retries_lost_calls_are_made_again_in_their_order(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1, max_task_retries=-1)

    refs = [actor.count.remote(i) for i in range(50)]
    refs += [actor.die_once.remote()]
    refs += [actor.count.remote(i) for i in range(50, 200)]
    nbray.get(refs, timeout=20)

    lives = " ".join(notes(folder)).split("made")[1:]
    assert len(lives) == 2
    last = [int(word) for word in lives[1].replace("count", "").split() if word.isdigit()]
    assert last == sorted(last)
    assert last[-150:] == list(range(50, 200))
    first = [int(word) for word in lives[0].replace("count", "").split()]
    assert first == list(range(50))


def test_a_result_that_was_seen_is_not_computed_again(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1, max_task_retries=-1)
    seen = [actor.count.remote(i) for i in range(20)]
    assert nbray.get(seen) == list(range(1, 21))

    nbray.get(actor.die_once.remote(), timeout=10)

    assert nbray.get(seen) == list(range(1, 21))
    counted = [note for note in notes(folder) if note != "count " and note.startswith("count ")]
    assert counted == [f"count {i}" for i in range(20)]


def test_calls_that_waited_for_another_life_are_not_counted_as_tried(folder: Path) -> None:
    class Slow(Mortal):
        def __init__(self, folder: str) -> None:
            super().__init__(folder)
            if notes(Path(folder)).count("made") in (2, 3):
                os.kill(os.getpid(), signal.SIGKILL)  # in its second and third life, before any call

    actor = nbray.remote(max_restarts=-1, max_task_retries=0)(Slow).remote(str(folder))
    pid = nbray.get(actor.pid.remote(), timeout=10)
    os.kill(pid, signal.SIGKILL)
    until(lambda: notes(folder).count("made") >= 2, "its next life began")

    assert nbray.get(actor.count.remote(), timeout=20) == 1


def test_retries_keep_their_place_before_calls_with_unready_arguments(folder: Path) -> None:
    @nbray.remote
    def slow(x: int) -> int:
        time.sleep(0.4)
        return x

    actor = mortal(folder, max_restarts=-1, max_task_retries=-1)

    first = actor.die_once.remote()
    late = actor.count.remote(slow.remote(1))
    last = actor.count.remote(2)
    nbray.get([first, late, last], timeout=20)

    assert [n for n in notes(folder) if n.startswith("count")] == ["count ", "count 1", "count 2"]


def test_each_caller_has_its_order_through_deaths(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1, max_task_retries=-1)

    @nbray.remote
    def call(handle: Any, who: int) -> None:
        for i in range(60):
            ref = handle.count.remote(f"{who}:{i}")
        nbray.get(ref, timeout=30)

    done = [call.remote(actor, who) for who in range(3)]
    for number in range(5):
        nbray.get(actor.die_once.remote(f"death {number}"), timeout=20)
    nbray.get(done, timeout=30)

    for life in "\n".join(notes(folder)).split("made"):
        for who in range(3):
            mine = [int(n.split(":")[1]) for n in life.splitlines() if n.startswith(f"count {who}:")]
            assert mine == sorted(set(mine))  # within a life each once, and in order
    ran = {n for n in notes(folder) if ":" in n}
    assert ran == {f"count {who}:{i}" for who in range(3) for i in range(60)}


def test_killed_over_and_over_it_counts_right(folder: Path) -> None:
    actor = mortal(folder, max_restarts=-1, max_task_retries=-1)
    values: list[int] = []
    over = threading.Event()

    def kill() -> None:
        deaths = 0
        while not over.wait(0.001):
            if len(values) > 15 * deaths:
                deaths += 1
                nbray.kill(actor)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while len(values) < 200:
            values.append(nbray.get(actor.count.remote(len(values)), timeout=30))
    finally:
        over.set()
        killer.join()

    assert all(value >= 1 for value in values)
    assert notes(folder).count("made") >= 10
    ran = [int(n.split()[1]) for n in notes(folder) if n.startswith("count ")]
    assert sorted(set(ran)) == list(range(200))
    assert ran == sorted(ran)  # one after the other: none again after the next one ran


def test_a_frozen_actor_can_be_killed(folder: Path) -> None:
    actor = mortal(folder, max_restarts=1)
    pid = nbray.get(actor.pid.remote())
    os.kill(pid, signal.SIGSTOP)
    stuck = actor.count.remote()

    nbray.kill(actor)

    with pytest.raises(RayActorError):
        nbray.get(stuck, timeout=10)
    assert nbray.get(actor.count.remote(), timeout=10) == 1
