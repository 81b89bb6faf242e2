"""Asyncio actors: a class with one ``async def`` runs all of its calls on one event loop, many at once."""

# ruff: noqa: T201  (the actors of these tests print)
# A decorated class is one for mypy, too.
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray as ray
from tests.support.drivers import driver, is_gone, recorded
from tests.support.sessions import await_empty_store, await_forgotten, session, this_process
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
    """Calls wait in it until it is opened; it counts them."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0
        self.most = 0
        self.order: list[Any] = []

    async def enter(self, name: Any = None) -> Any:
        self.order.append(name)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.event.wait()
        finally:
            self.waiting -= 1
        return name

    async def open(self) -> None:
        self.event.set()

    def report(self) -> tuple[int, int]:
        return self.waiting, self.most

    def begun(self) -> list[Any]:
        return self.order

    async def leave(self) -> None:
        ray.exit_actor()

    async def pid(self) -> int:
        return os.getpid()


def await_inside(gate: Any, count: int) -> None:
    until(lambda: ray.get(gate.report.remote())[0] == count, f"{count} calls are inside")


# --- many at once ----------------------------------------------------------------------------------------


def test_thousand_calls_wait_at_once_and_a_later_call_lets_them_go() -> None:
    gate = Gate.remote()
    refs = [gate.enter.remote(n) for n in range(999)]
    await_inside(gate, 999)

    gate.open.remote()

    assert ray.get(refs) == list(range(999))


def test_thousand_sleeps_take_about_as_long_as_one() -> None:
    @ray.remote
    class Sleeper:
        async def sleep(self, for_s: float) -> float:
            await asyncio.sleep(for_s)
            return for_s

    sleeper = Sleeper.remote()
    ray.get(sleeper.sleep.remote(0))
    began_s = time.monotonic()

    assert sum(ray.get([sleeper.sleep.remote(0.2) for _ in range(1000)])) == pytest.approx(200)

    assert time.monotonic() - began_s < 100  # one after the other: 200


def test_no_more_calls_than_max_concurrency_run_at_once_and_the_rest_follow() -> None:
    gate = Gate.options(max_concurrency=5).remote()
    refs = [gate.enter.remote(n) for n in range(4)]
    await_inside(gate, 4)
    late = [gate.enter.remote(n) for n in range(4, 20)]  # one of them takes the last place
    pid = gate.pid.remote()
    ready, _ = ray.wait([pid], timeout=0.1)
    assert ready == []

    ray.kill(gate)

    for ref in (*refs, *late, pid):
        with pytest.raises(ray.RayActorError):
            ray.get(ref)


def test_several_thousand_calls_may_run_at_once() -> None:
    gate = Gate.options(max_concurrency=3001).remote()
    refs = [gate.enter.remote() for _ in range(3000)]
    await_inside(gate, 3000)

    gate.open.remote()

    assert ray.get(refs) == [None] * 3000


def test_calls_begin_in_the_order_in_which_they_were_made() -> None:
    gate = Gate.remote()
    refs = [gate.enter.remote(n) for n in range(500)]

    assert ray.get(gate.begun.remote()) == list(range(500))

    gate.open.remote()
    ray.get(refs)


def test_with_max_concurrency_one_a_call_ends_before_the_next_one_begins() -> None:
    @ray.remote(max_concurrency=1)
    class Log:
        def __init__(self) -> None:
            self.lines: list[str] = []

        async def work(self, n: int) -> list[str]:
            self.lines.append(f"begin {n}")
            await asyncio.sleep(0)
            self.lines.append(f"end {n}")
            return self.lines

    log = Log.remote()
    lines = ray.get([log.work.remote(n) for n in range(20)])[-1]

    assert lines == [f"{word} {n}" for n in range(20) for word in ("begin", "end")]


# --- one event loop --------------------------------------------------------------------------------------


@ray.remote
class Plain:
    """Most of it is not async; one method is."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()

    async def same_loop(self) -> bool:
        return asyncio.get_running_loop() is self.loop and threading.get_ident() == self.thread

    def same_loop_in_sync(self) -> bool:
        return asyncio.get_running_loop() is self.loop and threading.get_ident() == self.thread

    def is_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()

    def wrapped(self) -> Any:
        async def inner() -> int:
            await asyncio.sleep(0)
            return 7

        return inner()

    def get_value(self) -> Any:
        return self.value

    def number_twice(self) -> tuple[int, int]:
        return 1, 2


def test_constructor_and_all_methods_run_on_one_event_loop_in_the_main_thread() -> None:
    plain = Plain.remote()

    assert ray.get(
        [plain.same_loop.remote(), plain.same_loop_in_sync.remote(), plain.is_main_thread.remote()]
    )


def test_coroutine_that_a_plain_method_returns_is_awaited_and_a_reference_is_not() -> None:
    inner = ray.put("inner")
    plain = Plain.remote([inner])

    assert ray.get(plain.wrapped.remote()) == 7
    (found,) = ray.get(plain.get_value.remote())
    assert isinstance(found, ray.ObjectRef)
    assert ray.get(found) == "inner"


def test_constructor_may_block_since_nothing_else_runs_and_it_cannot_await() -> None:
    @ray.remote
    class Loaded:
        def __init__(self, refs: list[Any]) -> None:
            self.total: int = sum(ray.get(refs))

        async def sum(self) -> int:
            return self.total

    assert ray.get(Loaded.remote([ray.put(1), ray.put(2)]).sum.remote()) == 3


def test_constructor_that_is_a_coroutine_is_refused_where_the_class_is_decorated() -> None:
    with pytest.raises(TypeError, match="async def"):

        @ray.remote
        class _Wrong:
            async def __init__(self) -> None:  # type: ignore[misc]  # that is the point
                pass


def test_checkpoints_of_an_asyncio_actor_are_refused_however_few_calls_run_at_once() -> None:
    for options in ({}, {"max_concurrency": 1}):
        with pytest.raises(ValueError, match="event loop"):
            Gate.options(checkpoint_interval=5, **options)


def test_constructors_error_is_every_calls_error() -> None:
    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise KeyError("no such model")

        async def work(self) -> None:
            pass

    broken = Broken.remote()

    for _ in range(2):
        with pytest.raises(KeyError, match="no such model"):
            ray.get(broken.work.remote())


def test_method_may_return_several_values() -> None:
    plain = Plain.remote()

    first, second = plain.number_twice.options(num_returns=2).remote()

    assert ray.get([second, first]) == [2, 1]


# --- awaiting inside -------------------------------------------------------------------------------------


@ray.remote
def square(x: int) -> int:
    return x * x


@ray.remote
class Adder:
    def __init__(self, number: int = 0) -> None:
        self.number = number

    def add(self, x: int) -> int:
        return x + self.number


@ray.remote
class Asker:
    async def ask(self, handle: Any, x: int) -> Any:
        return await handle.add.remote(x)

    async def chain(self, nexts: list[Any], x: int) -> int:
        if not nexts:
            return x
        found: int = await nexts[0].chain.remote(nexts[1:], x + 1)
        return found

    async def squares(self, count: int) -> list[int]:
        return list(await asyncio.gather(*[square.remote(n) for n in range(count)]))

    async def first_of(self, refs: list[Any]) -> list[Any]:
        done, _ = await asyncio.wait([ref.as_future() for ref in refs], return_when=asyncio.FIRST_COMPLETED)
        return [future.result() for future in done]

    async def caught(self, refs: list[Any]) -> str:
        try:
            await refs[0]
        except ValueError as exc:
            return type(exc).__name__
        return "nothing"


def test_calls_of_other_actors_are_awaited_in_one_call_and_in_many() -> None:
    asker, adder = Asker.remote(), Adder.remote(10)

    assert ray.get(asker.ask.remote(adder, 1)) == 11
    assert ray.get([asker.ask.remote(adder, n) for n in range(300)]) == [10 + n for n in range(300)]


def test_actors_await_each_other_along_a_chain() -> None:
    askers = [Asker.remote() for _ in range(4)]

    refs = [askers[0].chain.remote([*askers[1:], *askers[1:]], n) for n in range(20)]  # twice through each

    assert ray.get(refs) == [n + 6 for n in range(20)]


def test_tasks_are_gathered_and_the_first_of_several_is_waited_for() -> None:
    asker, gate = Asker.remote(), Gate.remote()
    never = gate.enter.remote()

    assert ray.get(asker.squares.remote(50)) == [n * n for n in range(50)]
    assert ray.get(asker.first_of.remote([never, ray.put("at once")])) == ["at once"]

    gate.open.remote()
    ray.get(never)


def test_awaited_error_is_raised_inside_the_coroutine() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("no")

    assert ray.get(Asker.remote().caught.remote([fail.remote()])) == "RayTaskError(ValueError)"


def test_driver_awaits_calls_and_its_own_blocking_get_is_not_checked() -> None:
    adder, gate = Adder.remote(1), Gate.remote()

    async def main() -> list[Any]:
        inside = gate.enter.remote("opened")
        blocked = ray.get(adder.add.remote(1))
        ready, _ = ray.wait([adder.add.remote(2)])
        awaited = await adder.add.remote(3)
        await gate.open.remote()
        return [blocked, len(ready), awaited, await inside]

    assert asyncio.run(main()) == [2, 1, 4, "opened"]


# --- blocking inside -------------------------------------------------------------------------------------


@ray.remote
class Blocker:
    async def get(self, refs: list[Any], timeout: float | None = None) -> Any:
        return ray.get(refs, timeout=timeout)

    async def get_one(self, refs: list[Any]) -> Any:
        return ray.get(refs[0])

    def get_in_sync(self, refs: list[Any]) -> Any:
        return ray.get(refs)

    async def wait(self, refs: list[Any], timeout: float | None) -> int:
        return len(ray.wait(refs, timeout=timeout)[0])

    async def in_thread(self, refs: list[Any]) -> Any:
        return await asyncio.to_thread(ray.get, refs)


def test_blocking_call_raises_and_says_what_to_do() -> None:
    blocker, ref = Blocker.remote(), ray.put(5)  # one that is there, too: it does not depend on luck

    for call in (
        blocker.get.remote([ref]),
        blocker.get_one.remote([ref]),
        blocker.get_in_sync.remote([ref]),
        blocker.wait.remote([ref], None),
        blocker.wait.remote([ref], 1.0),
    ):
        with pytest.raises(ray.RayTaskError, match=r"BlockingCallError.*Await it: `await ref`"):
            ray.get(call)


def test_what_does_not_block_the_event_loop_is_allowed() -> None:
    blocker, ref, gate = Blocker.remote(), ray.put(5), Gate.remote()
    never = gate.enter.remote()

    assert ray.get(blocker.wait.remote([ref], 0)) in (0, 1)
    assert ray.get(blocker.in_thread.remote([ref])) == [5]
    with pytest.raises(ray.RayTaskError, match="RayTimeoutError"):
        ray.get(blocker.get.remote([never], 0))

    gate.open.remote()
    ray.get(never)


def test_switch_lets_calls_block() -> None:
    script = """
        @nbray.remote
        class Blocker:
            async def get(self, refs): return nbray.get(refs)
            async def wait(self, refs): return len(nbray.wait(refs)[0])
        @nbray.remote
        def slow(x): time.sleep(0.05); return x
        nbray.init(num_cpus=2)
        blocker = Blocker.remote()
        refs = [slow.remote(1), slow.remote(2)]
        tell(nbray.get([blocker.get.remote(refs), blocker.wait.remote(refs)]))
        nbray.shutdown()
    """
    with driver(script, env={"NBRAY_ASYNC_BLOCKING": "allow"}) as running:
        assert running.told() == [[1, 2], 1]
        assert running.ended() == 0


# --- errors ----------------------------------------------------------------------------------------------


@ray.remote
class Raiser:
    async def fail(self, kind: type[BaseException], text: str) -> None:
        await asyncio.sleep(0)
        raise kind(text)

    async def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    async def leave_a_task_that_raises(self, kind: type[BaseException]) -> None:
        async def fail() -> None:
            raise kind

        self.left = asyncio.get_running_loop().create_task(fail())

    def stop_the_loop(self) -> None:
        asyncio.get_running_loop().stop()

    async def work(self) -> str:
        return "works"


def test_what_one_call_raises_ends_that_call_alone() -> None:
    raiser = Raiser.remote()

    for kind in (ValueError, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
        good = [raiser.work.remote() for _ in range(10)]
        bad = raiser.fail.remote(kind, "in vain")
        good += [raiser.work.remote() for _ in range(10)]

        with pytest.raises(ray.RayTaskError, match=kind.__name__):
            ray.get(bad)
        assert ray.get(good) == ["works"] * 20
    with pytest.raises(ray.RayTaskError, match="CancelledError"):
        ray.get(raiser.cancel_itself.remote())
    assert ray.get(raiser.work.remote()) == "works"


def test_event_loop_goes_on_whatever_user_code_does_to_it(capfd: pytest.CaptureFixture[str]) -> None:
    raiser = Raiser.remote()

    for harm in (
        raiser.leave_a_task_that_raises.remote(ValueError),
        raiser.leave_a_task_that_raises.remote(KeyboardInterrupt),
        raiser.stop_the_loop.remote(),
    ):
        ray.get(harm)
        assert ray.get([raiser.work.remote() for _ in range(5)]) == ["works"] * 5
    assert "KeyboardInterrupt" in capfd.readouterr().err  # it is told, not swallowed


def test_result_that_cannot_be_pickled_is_that_calls_error() -> None:
    @ray.remote
    class Locks:
        async def lock(self) -> Any:
            return threading.Lock()

        async def number(self) -> int:
            return 1

    locks = Locks.remote()

    with pytest.raises(ray.SerializationError):
        ray.get(locks.lock.remote())
    assert ray.get(locks.number.remote()) == 1


# --- the end ---------------------------------------------------------------------------------------------


def test_calls_that_run_when_the_actor_is_killed_are_all_typed_errors() -> None:
    gate = Gate.remote()
    refs = [gate.enter.remote(n) for n in range(100)]
    await_inside(gate, 100)

    ray.kill(gate)

    for ref in refs:
        with pytest.raises(ray.RayActorError):
            ray.get(ref)


def test_calls_of_a_restarted_actor_are_sent_again_where_they_may_be() -> None:
    gate = Gate.options(max_restarts=1, max_task_retries=1).remote()
    refs = [gate.enter.remote(n) for n in range(100)]
    await_inside(gate, 100)
    os.kill(ray.get(gate.pid.remote()), signal.SIGKILL)

    await_inside(gate, 100)
    gate.open.remote()

    assert ray.get(refs) == list(range(100))


def test_exit_lets_calls_finish_that_run_and_begins_no_others() -> None:
    gate = Gate.options(max_restarts=1).remote()
    refs = [gate.enter.remote(n) for n in range(10)]
    await_inside(gate, 10)
    (process,) = recorded([ray.get(gate.pid.remote())])
    opened = gate.open.remote()

    left = gate.leave.remote()

    assert ray.get([*refs, opened]) == [*range(10), None]
    with pytest.raises(ray.RayActorError, match="exit_actor"):
        ray.get(left)
    until(lambda: is_gone(process), "the actor's process is gone")
    with pytest.raises(ray.RayActorError):  # it is not restarted
        ray.get(gate.pid.remote())


@pytest.mark.parametrize("way", ["exit in a task of its own", "terminate"])
def test_actor_ends_by_its_own_will_in_every_way(way: str) -> None:
    @ray.remote
    class Server:
        async def serve(self) -> str:
            self.task = asyncio.get_running_loop().create_task(self.stop())
            return "served"

        async def stop(self) -> None:
            raise SystemExit

    server = Server.remote()
    if way == "terminate":
        assert ray.get(server.__ray_terminate__.remote()) is None
    else:
        assert ray.get(server.serve.remote()) == "served"

    def is_dead() -> bool:
        with contextlib.suppress(ray.RayActorError):
            ray.get(server.serve.remote())
            return False
        return True

    until(is_dead, "calls fail")


def test_tasks_that_an_ending_actor_has_left_over_may_clean_up(tmp_path: Path) -> None:
    @ray.remote
    class Service:
        async def start(self, path: str) -> None:
            self.task = asyncio.get_running_loop().create_task(self.run(path))
            await asyncio.sleep(0)

        async def run(self, path: str) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                os.close(os.open(path, os.O_CREAT))

    service = Service.remote()
    ray.get(service.start.remote(str(tmp_path / "mark")))

    del service  # the last handle

    until((tmp_path / "mark").exists, "it cleaned up")


# --- objects, output, events -----------------------------------------------------------------------------


@ray.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    async def total(self, array: Any, keep: int | None = None) -> float:
        await asyncio.sleep(0)
        assert not array.flags.writeable
        if keep is not None:
            self.kept[keep] = array[: len(array) // 2]
        return float(array.sum())

    async def make(self, n: int) -> Any:
        return np.full(100_000, n)

    async def drop(self) -> list[float]:
        sums = [float(array.sum()) for array in self.kept.values()]
        self.kept.clear()
        return sums

    async def put(self, n: int) -> list[Any]:
        await asyncio.sleep(0)
        return [ray.put(n), square.remote(n)]

    async def keep(self, refs: list[Any]) -> None:
        self.kept[len(self.kept)] = refs[0]

    async def read_kept(self) -> list[Any]:
        refs = list(self.kept.values())
        self.kept.clear()
        return list(await asyncio.gather(*refs))


def test_large_arrays_are_views_in_many_calls_at_once_and_all_memory_comes_back() -> None:
    keeper = Keeper.remote()
    refs = [ray.put(np.full(50_000, float(n))) for n in range(10)]

    totals = ray.get([keeper.total.remote(ref) for ref in refs for _ in range(5)])

    assert totals == [50_000.0 * n for n in range(10) for _ in range(5)]
    del refs
    await_empty_store()


def test_view_that_an_actor_keeps_stays_valid_when_everybody_else_let_go() -> None:
    keeper = Keeper.remote()
    ray.get([keeper.total.remote(np.full(50_000, float(n)), n) for n in range(8)])
    filler = [ray.put(np.zeros(50_000)) for _ in range(20)]

    assert ray.get(keeper.drop.remote()) == [25_000.0 * n for n in range(8)]
    del filler
    await_empty_store()


def test_large_results_of_many_calls_at_once_are_right() -> None:
    keeper = Keeper.remote()

    for n, array in enumerate(ray.get([keeper.make.remote(n) for n in range(30)])):
        assert array[0] == array[-1] == n
    del array
    await_empty_store()


def test_references_in_results_and_those_that_an_actor_keeps_live() -> None:
    keeper = Keeper.remote()

    pairs = ray.get([keeper.put.remote(n) for n in range(50)])
    assert [ray.get(pair) for pair in pairs] == [[n, n * n] for n in range(50)]

    ray.get([keeper.keep.remote([ray.put(str(n))]) for n in range(50)])
    assert ray.get(keeper.read_kept.remote()) == [str(n) for n in range(50)]


def test_lines_of_calls_that_overlap_do_not_mix_and_are_there_before_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_RENDERER", "text")

    @ray.remote
    class Talker:
        async def say(self, n: int) -> None:
            print(n, end=" ")
            await asyncio.sleep(0.001)
            print("and", n)

        def shout(self, n: int) -> None:
            print(n, "without an end", end="")

    talker = Talker.remote()
    ray.get([talker.say.remote(n) for n in range(50)] + [talker.shout.remote(50)])

    lines = capsys.readouterr().out.splitlines()
    expected = [f"(Talker.say) {n} and {n}" for n in range(50)]
    assert sorted(lines) == sorted([*expected, "(Talker.shout) 50 without an end"])


def test_status_counts_calls_that_run_at_once() -> None:
    def running() -> int:
        tasks = ray.status().to_dict()["tasks"]
        return int(tasks["running"])

    gate = Gate.remote()
    refs = [gate.enter.remote(n) for n in range(40)]
    until(lambda: running() == 40, "forty run")

    gate.open.remote()
    ray.get(refs)

    until(lambda: running() == 0, "none runs")


def test_idle_actor_does_not_wake() -> None:
    gate = Gate.remote()
    waits = [gate.enter.remote() for _ in range(10)]
    pid = ray.get(gate.pid.remote())

    def switches() -> int:
        total = 0
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/status") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith("voluntary"))
        return total

    def sleeps() -> bool:
        before = switches()
        time.sleep(0.2)
        return switches() == before

    until(sleeps, "its threads sleep for a fifth of a second")
    gate.open.remote()
    ray.get(waits)
    assert this_process().failure is None


def test_why_tells_of_a_call_that_runs_beside_others() -> None:
    gate = Gate.remote()
    refs = [gate.enter.remote(n) for n in range(3)]
    await_inside(gate, 3)

    told = str(ray.why(refs[1]))
    gate.open.remote()
    ray.get(refs)

    assert "call Gate.enter runs on its actor, pid" in told
