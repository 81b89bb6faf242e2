"""A mixed load that knows its results, and deaths at random moments under it.

Called by:  tests.integration.test_chaos. Workers import it, too.
Imports:    nbray, tests.support.procfs.
Never:      draws a number from anything but the random generator that it is given.

A ``Load`` starts work of all kinds at once and says afterwards of each result whether it is *right* or
*typed*: an error that this kind of work may end with when one process has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import numpy as np

import nbray
from tests.support import procfs

#: No answer for so long is a hang. Far more than a loaded machine takes for any load.
HANG_S = 30.0
LARGE = 200_000
Check = Callable[[Any], bool]
Errors = tuple[type[BaseException], ...]


class Result(NamedTuple):
    """``refs`` is what ``get`` is given. ``errors``: how it may end when one process dies."""

    what: str
    refs: Any
    is_right: Check
    errors: Errors = ()


def array(seed: int) -> Any:
    return np.arange(seed, seed + LARGE // 8, dtype=np.int64)


# --- what is run -----------------------------------------------------------------------------------------


@nbray.remote
def add(a: int, b: int) -> int:
    return a + b


@nbray.remote
def nap(for_s: float, value: int) -> int:
    time.sleep(for_s)
    return value


@nbray.remote
def tree(depth: int) -> int:
    if not depth:
        return 1
    return sum(nbray.get([tree.remote(depth - 1), tree.remote(depth - 1)], timeout=HANG_S))


@nbray.remote
def make_array(seed: int) -> Any:
    return array(seed)


@nbray.remote
def double(values: Any) -> Any:
    return values * 2


@nbray.remote
def total(boxed: dict[str, Any]) -> int:
    """Of an array behind a reference in a container."""
    return int(nbray.get(boxed["array"], timeout=HANG_S).sum())


@nbray.remote
def lend(seed: int) -> list[Any]:
    """A reference whose owner is this worker."""
    return [nbray.put(array(seed))]


class Echo:
    """Answers with who it is, its how-manieth call this is, and what it was given."""

    def __init__(self) -> None:
        self.calls = 0

    def call(self, value: int) -> tuple[int, int, int]:
        self.calls += 1
        return os.getpid(), self.calls, value

    def large(self, seed: int) -> Any:
        return array(seed)


class AsyncEcho:
    async def call(self, value: int) -> int:
        await asyncio.sleep(0.001 * (value % 5))
        return value


# --- the load --------------------------------------------------------------------------------------------


class Load:
    """Work of all kinds, started when this is made; as much as a small machine does in half a second."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.results: list[Result] = []
        starts = [
            self._short_tasks, self._naps, self._trees, self._arrays, self._loans, self._cancelled,
            self._plain_actor, self._restarting_actor, self._async_actor, self._puts,
        ]  # fmt: skip
        random.shuffle(starts)
        for start in starts:
            start()

    def _expect(self, what: str, refs: Any, is_right: Check, errors: Errors = ()) -> None:
        self.results.append(Result(what, refs, is_right, errors))

    def _equals(self, what: str, refs: Any, value: Any, errors: Errors = ()) -> None:
        self._expect(what, refs, lambda got: bool(got == value), errors)

    def _short_tasks(self) -> None:
        count = self._random.randrange(50, 300)
        self._equals("short", [add.remote(i, i) for i in range(count)], [2 * i for i in range(count)])
        for i in range(5):
            self._equals("only once", add.options(max_retries=0).remote(i, 1), i + 1, (nbray.RayWorkerError,))

    def _naps(self) -> None:
        for i in range(4):
            self._equals("nap", nap.remote(self._random.uniform(0.01, 0.2), i), i)

    def _trees(self) -> None:
        depth = self._random.randrange(1, 4)
        self._equals("tree", tree.remote(depth), 2**depth)

    def _arrays(self) -> None:
        for _ in range(3):
            seed = self._random.randrange(1000)
            ref = make_array.remote(seed)
            self._expect("array", double.remote(ref), lambda got, seed=seed: (got == array(seed) * 2).all())  # type: ignore[misc]
            self._equals("boxed", total.remote({"array": ref}), int(array(seed).sum()))

    def _loans(self) -> None:
        seed = self._random.randrange(1000)

        def is_right(got: Any) -> bool:
            with contextlib.suppress(nbray.OwnerDiedError):
                return bool((nbray.get(got[0], timeout=HANG_S) == array(seed)).all())
            return True

        self._expect("loan", lend.remote(seed), is_right)

    def _cancelled(self) -> None:
        for i in range(3):
            ref = nap.remote(self._random.uniform(0, 0.1), i)
            nbray.cancel(ref, force=self._random.random() < 0.3)
            self._equals("cancelled", ref, i, (nbray.RayCancellationError,))

    def _plain_actor(self) -> None:
        actor = nbray.remote(num_cpus=0)(Echo).remote()
        for i in range(20):
            self._equals("plain actor", _third.remote(actor.call.remote(i)), i, (nbray.RayActorError,))

    def _restarting_actor(self) -> None:
        actor = nbray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Echo).remote()
        seed = self._random.randrange(1000)
        refs = [actor.call.remote(i) for i in range(60)]
        self._expect("restarting actor", refs, is_in_order)
        self._expect("its array", actor.large.remote(seed), lambda got: bool((got == array(seed)).all()))

    def _async_actor(self) -> None:
        actor = nbray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AsyncEcho).remote()
        self._equals("async actor", [actor.call.remote(i) for i in range(40)], list(range(40)))

    def _puts(self) -> None:
        seed = self._random.randrange(1000)
        small, large = nbray.put(seed), nbray.put(array(seed))
        self._equals("put", small, seed)
        self._expect("large put", large, lambda got: bool((got == array(seed)).all()))

    def is_fine(self, result: Result) -> bool:
        """Get it: right, or an error that it may end with."""
        if isinstance(result.refs, list):
            ready, left = nbray.wait(result.refs, num_returns=len(result.refs) // 2, timeout=HANG_S)
            assert len(ready) + len(left) == len(result.refs)
        try:
            return result.is_right(nbray.get(result.refs, timeout=HANG_S))
        except result.errors:
            return True


@nbray.remote(num_cpus=0)
def _third(answer: tuple[int, int, int]) -> int:
    return answer[2]


def is_in_order(answers: list[tuple[int, int, int]]) -> bool:
    """Every call has its own answer, and no life of the actor ran a later call before an earlier one."""
    if [value for _pid, _calls, value in answers] != list(range(len(answers))):
        return False
    by_life = itertools.groupby(sorted(answers, key=lambda answer: (answer[0], answer[2])), lambda a: a[0])
    return all(_rises([calls for _pid, calls, _value in life]) for _pid, life in by_life)


def _rises(numbers: list[int]) -> bool:
    return all(a < b for a, b in itertools.pairwise(numbers))


# --- deaths ----------------------------------------------------------------------------------------------


class Victims(NamedTuple):
    """The processes of one session."""

    daemon: int
    zygote: int
    redis: int

    @classmethod
    def now(cls) -> Victims:
        found = nbray.status().to_dict()["processes"]
        return cls(found["daemon"], found["zygote"], found["redis"])

    def pid_of(self, role: str, random: Random) -> int:
        """One of that role now; 0: there is none."""
        if role != "worker":
            pid: int = getattr(self, role)
            return pid
        others = [p.pid for p in procfs.children(self.daemon) if p.pid not in self and p.state != "Z"]
        return random.choice(others) if others else 0


@contextlib.contextmanager
def death(after_s: float, choose: Callable[[], int]) -> Iterator[list[tuple[int, float]]]:
    """While the block runs: after so long kill -9 what ``choose`` says then. Gives (PID, when)."""
    killed: list[tuple[int, float]] = []

    def kill() -> None:
        time.sleep(after_s)
        pid = choose()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append((pid, time.monotonic()))

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        thread.join()


def daemon_of_this_process() -> int:
    """The daemon that this process is starting, or has started; 0: there is none yet."""
    for child in procfs.children(os.getpid()):
        if "nbray.node" in procfs.command_line(child.pid):
            return child.pid
    return 0
