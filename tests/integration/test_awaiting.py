"""``await ref``: values and errors as ``get`` has them, in an event loop that goes on meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray as ray
from tests.support.drivers import driver
from tests.support.sessions import await_forgotten, session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def nobody_waits_any_more() -> Iterator[None]:
    yield
    await_forgotten()
    assert this_process().loop.awaits == 0


@ray.remote
def double(x: Any) -> Any:
    return 2 * x


@ray.remote
def fail(error: BaseException) -> None:
    raise error


@ray.remote
def wait_for_file(path: str) -> str:
    until(lambda: os.path.exists(path), "the file is there", deadline_s=20)
    return path


def make(path: str) -> None:
    Path(path).touch()


def waiters_of(ref: ray.ObjectID) -> int:
    process = this_process()
    with process.loop.lock:
        return len(process.objects.table.entries[ref.binary()].waiters or [])


# --- values and errors -----------------------------------------------------------------------------------


def test_an_awaited_reference_is_its_value() -> None:
    async def main() -> None:
        assert await double.remote(4) == 8
        assert await ray.put(5) == 5
        assert await double.remote(double.remote(2)) == 8

    asyncio.run(main())


def test_a_reference_can_be_awaited_again_and_again() -> None:
    async def main() -> list[int]:
        ref = double.remote(1)
        return [await ref, await ref, *await asyncio.gather(ref, ref), await ref.as_future()]

    assert asyncio.run(main()) == [2, 2, 2, 2, 2]


def test_a_large_array_is_a_read_only_view_and_goes_when_it_is_let_go() -> None:
    async def main() -> None:
        array = await double.remote(np.arange(100_000))
        assert int(array[-1]) == 199_998
        assert not array.flags.writeable

    asyncio.run(main())


def test_errors_are_those_that_get_raises() -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os._exit(3)

    async def main() -> None:
        with pytest.raises(KeyError) as caught:
            await fail.remote(KeyError("gone"))
        assert isinstance(caught.value, ray.RayTaskError)
        with pytest.raises(KeyError):
            await double.remote(fail.remote(KeyError("gone"))).as_future()
        with pytest.raises(ray.RayWorkerError, match="exited with code 3"):
            await die.remote()
        results = await asyncio.gather(double.remote(1), fail.remote(ValueError("x")), return_exceptions=True)
        assert results[0] == 2
        assert isinstance(results[1], ValueError)

    asyncio.run(main())


def test_an_error_that_would_end_a_coroutine_silently_does_not() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await fail.remote(StopIteration(5))

    asyncio.run(main())


def test_ids_of_nothing_and_of_other_sessions_are_refused() -> None:
    async def main() -> None:
        with pytest.raises(ray.UnknownObjectError):
            await ray.ObjectID.from_random()
        with pytest.raises(ray.UnknownObjectError):
            ray.ObjectID.nil().as_future()

    asyncio.run(main())


def test_a_future_needs_a_loop_and_says_so() -> None:
    ref = double.remote(1)

    with pytest.raises(RuntimeError, match=r"needs a running event loop.*nbray\.get\(\)"):
        ref.as_future()

    assert ray.get(ref, timeout=10) == 2


# --- many, and together with asyncio's own ---------------------------------------------------------------


def test_thousands_are_gathered_in_order() -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(*(double.remote(i) for i in range(2000))))

    assert asyncio.run(main()) == [2 * i for i in range(2000)]


def test_futures_can_be_waited_for_and_time_out(folder: Path) -> None:
    async def main() -> None:
        slow = wait_for_file.remote(str(folder / "now"))
        futures = [double.remote(1).as_future(), slow.as_future()]

        done, pending = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        assert [future.result() for future in done] == [2]
        assert pending == {futures[1]}
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow, timeout=0.01)
        (folder / "now").touch()

        assert await futures[1] == await slow == str(folder / "now")
        assert [await future for future in asyncio.as_completed([double.remote(3)])] == [6]

    asyncio.run(main())


def test_asyncio_wait_says_what_it_takes_where_it_takes_futures_only() -> None:
    async def main() -> None:
        await asyncio.wait([double.remote(1)])

    if sys.version_info < (3, 11):  # there it makes futures of all that can be awaited
        asyncio.run(main())
    else:
        with pytest.raises(AttributeError, match=r"asyncio\.wait\(\) takes futures: give it ref\.as_future"):
            asyncio.run(main())


def test_the_loop_goes_on_while_a_task_runs(folder: Path) -> None:
    """The task waits for what another coroutine of the same loop does."""

    async def main() -> str:
        awaited = asyncio.ensure_future(awaits(wait_for_file.remote(str(folder / "now"))))  # noqa: TID251
        while not awaited.done():
            await asyncio.sleep(0.001)
            (folder / "now").touch()
        return await awaited

    async def awaits(ref: Any) -> str:
        return str(await ref)

    assert asyncio.run(main()) == str(folder / "now")


def test_loops_in_several_threads_await_at_once_and_others_get() -> None:
    ref = double.remote(21)
    found: list[Any] = []

    async def main(number: int) -> list[int]:
        mine = await asyncio.gather(*(double.remote(i + number) for i in range(50)))
        return [*mine, await ref]

    def run(number: int) -> None:
        found.append(asyncio.run(main(number)) == [*(2 * (i + number) for i in range(50)), 42])

    def get(number: int) -> None:
        values = ray.get([double.remote(i + number) for i in range(50)], timeout=20)
        found.append(values == [2 * (i + number) for i in range(50)])

    threads = [threading.Thread(target=f, args=(n,)) for n in range(4) for f in (run, get)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == [True] * 8


def test_a_loop_that_runs_again_awaits_again() -> None:
    loop = asyncio.new_event_loop()

    assert loop.run_until_complete(double.remote(1)) == 2
    assert loop.run_until_complete(double.remote(2)) == 4
    loop.close()


# --- ends that come early ----------------------------------------------------------------------------------


def test_a_cancelled_await_leaves_nothing_behind_and_the_task_goes_on(folder: Path) -> None:
    async def main() -> str:
        ref = wait_for_file.remote(str(folder / "now"))
        waits = [asyncio.ensure_future(awaits(ref)) for _ in range(3)]  # noqa: TID251
        waits.append(ref.as_future())
        await asyncio.sleep(0)
        assert waiters_of(ref) == 4

        for wait in waits:
            wait.cancel()
        results = await asyncio.gather(*waits, return_exceptions=True)

        assert [type(result) for result in results] == [asyncio.CancelledError] * 4
        assert waiters_of(ref) == 0
        (folder / "now").touch()
        return str(await ref)

    async def awaits(ref: Any) -> Any:
        return await ref

    assert asyncio.run(main()) == str(folder / "now")


def test_a_coroutine_that_is_dropped_in_the_middle_leaves_nothing_behind(folder: Path) -> None:
    async def main() -> None:
        ref = wait_for_file.remote(str(folder / "now"))
        coroutine = awaits(ref)
        coroutine.send(None)
        assert waiters_of(ref) == 1

        del coroutine
        gc.collect()
        await asyncio.sleep(0)
        assert waiters_of(ref) == 0
        (folder / "now").touch()
        await ref

    async def awaits(ref: Any) -> Any:
        return await ref

    asyncio.run(main())


def test_a_loop_that_is_closed_in_the_middle_harms_nobody(folder: Path) -> None:
    ref = wait_for_file.remote(str(folder / "now"))

    async def main() -> None:
        ref.as_future()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    (folder / "now").touch()

    assert ray.get(ref, timeout=20) == str(folder / "now")


def test_an_object_is_let_go_when_its_await_is_over() -> None:
    async def main() -> None:
        for number in range(20):
            await double.remote(np.zeros(50_000) + number)
            with pytest.raises(ValueError, match="x"):
                await fail.remote(ValueError("x"))

    gc.disable()  # without the collector: nothing hangs in a cycle
    try:
        asyncio.run(main())
        process = this_process()
        with process.loop.lock:
            process.objects.drain()
            assert len(process.objects.table.entries) < 10
    finally:
        gc.enable()


def test_awaits_hear_of_the_shutdown_and_ctrl_c_ends_them() -> None:
    script = """
        import asyncio

        @nbray.remote
        def slow():
            time.sleep(60)

        @nbray.remote
        def one():
            return 1

        async def main():
            ref = slow.remote()
            tell("waits")
            return await ref

        async def end():
            wait = asyncio.ensure_future(main())
            await asyncio.sleep(0)
            nbray.shutdown()
            try:
                await wait
            except nbray.RayConnectionError as exc:
                return str(exc)

        nbray.init(num_cpus=4)
        for _ in range(2):
            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                tell("interrupted")
            tell(nbray.get(one.remote(), timeout=10))
        tell(asyncio.run(end()))
        nbray.init(num_cpus=1)
        tell(nbray.get(one.remote(), timeout=10))
    """
    with driver(script) as running:
        for _ in range(2):
            assert running.told() == "waits"
            running.kill(2)
            assert running.told() == "interrupted"
            assert running.told() == 1
        assert running.told() == "waits"
        assert "was shut down" in running.told()
        assert running.told() == 1
        assert running.ended() == 0


# --- in a task ---------------------------------------------------------------------------------------------


@ray.remote
def awaits_children(depth: int) -> int:
    async def main() -> int:
        if not depth:
            return 1
        return sum(await asyncio.gather(*(awaits_children.remote(depth - 1) for _ in range(2))))

    return asyncio.run(main())


def test_a_task_that_awaits_lends_its_cpu_to_its_children() -> None:
    assert ray.get(awaits_children.remote(3), timeout=60) == 8


def test_a_task_awaits_a_reference_of_its_caller(folder: Path) -> None:
    @ray.remote
    def look(container: list[Any]) -> list[Any]:
        async def main() -> list[Any]:
            return list(await asyncio.gather(*container))

        return asyncio.run(main())

    late = wait_for_file.options(num_cpus=0).remote(str(folder / "now"))
    looking = look.remote([ray.put(1), ray.put(np.arange(50_000)), late])
    (folder / "now").touch()

    one, array, path = ray.get(looking, timeout=20)
    assert (one, int(array[-1]), path) == (1, 49_999, str(folder / "now"))


def test_a_task_that_gets_while_it_awaits_keeps_lending_its_cpus(folder: Path) -> None:
    @ray.remote(num_cpus=2)
    def parent(path: str) -> list[Any]:
        async def main() -> list[Any]:
            first = wait_for_file.options(num_cpus=0).remote(path)
            waits = double.options(num_cpus=2).remote(first).as_future()
            got = ray.get(double.options(num_cpus=0).remote(1))
            make(path)  # only from now on a child wants the CPUs
            return [got, await waits]

        return asyncio.run(main())

    path = str(folder / "now")

    assert ray.get(parent.remote(path), timeout=20) == [2, 2 * path]


def test_a_worker_whose_task_left_an_await_unfinished_goes_on_working(folder: Path) -> None:
    @ray.remote(num_cpus=2)
    def leaves_it(path: str) -> int:
        async def main() -> None:
            wait_for_file.options(num_cpus=0).remote(path).as_future()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        return os.getpid()

    pids = ray.get([leaves_it.remote(str(folder / "now")) for _ in range(10)], timeout=20)

    assert len(pids) == 10
    until(lambda: not ray.status().to_dict()["workers"]["blocked"], "no worker says that it waits")
    (folder / "now").touch()
