"""Background work ends with its parent, and its crashes are told.

Called by:  pytest.
Imports:    nbray.transport.supervision.
Never:      leaves a task running.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from nbray.transport.supervision import Supervisor

Crashes = list[tuple[str, BaseException]]


def supervisor() -> tuple[Supervisor, Crashes]:
    crashes: Crashes = []
    return Supervisor(lambda name, exc: crashes.append((name, exc))), crashes


async def forever() -> None:
    await asyncio.Event().wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_work_that_ends_is_forgotten() -> None:
    async def story() -> None:
        parent, crashes = supervisor()
        done: list[int] = []

        async def work() -> None:
            done.append(1)

        parent.spawn("work", work())
        await settle()

        assert done == [1]
        assert not parent._tasks
        assert not crashes

    asyncio.run(story())


def test_a_crash_is_told_with_the_name_of_the_work() -> None:
    async def story() -> None:
        parent, crashes = supervisor()
        bug = RuntimeError("bug")

        async def work() -> None:
            raise bug

        parent.spawn("reporter", work())
        await settle()

        assert crashes == [("reporter", bug)]
        assert not parent._tasks

    asyncio.run(story())


def test_one_crash_does_not_end_the_others() -> None:
    async def story() -> None:
        parent, crashes = supervisor()

        async def work() -> None:
            raise RuntimeError("bug")

        parent.spawn("bad", work())
        parent.spawn("good", forever())
        await settle()

        assert [name for name, _exc in crashes] == ["bad"]
        assert [task.get_name() for task in parent._tasks] == ["good"]
        await parent.close()

    asyncio.run(story())


def test_closing_cancels_what_runs_and_waits_for_it() -> None:
    async def story() -> None:
        parent, crashes = supervisor()
        cleaned: list[str] = []

        async def work(name: str) -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0)
                cleaned.append(name)

        for name in ("a", "b"):
            parent.spawn(name, work(name))
        await settle()
        await parent.close()

        assert sorted(cleaned) == ["a", "b"]
        assert not crashes, "an end by cancellation is no crash"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(story())


def test_work_that_swallows_a_cancellation_is_cancelled_again() -> None:
    async def story() -> None:
        parent, _crashes = supervisor()

        async def deaf() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                await forever()

        parent.spawn("deaf", deaf())
        await settle()
        await parent.close()

        assert not parent._tasks

    asyncio.run(story())


def test_a_crash_while_closing_is_told() -> None:
    async def story() -> None:
        parent, crashes = supervisor()

        async def work() -> None:
            try:
                await forever()
            finally:
                raise RuntimeError("in its cleanup")

        parent.spawn("work", work())
        await settle()
        await parent.close()

        assert [name for name, _exc in crashes] == ["work"]

    asyncio.run(story())


def test_closing_without_work_returns_at_once() -> None:
    async def story() -> None:
        parent, _crashes = supervisor()

        await parent.close()
        await parent.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "crashed"), [(None, False), (OSError("no disk"), False), (RuntimeError("a bug"), True)]
)
def test_what_a_thread_did_is_told_and_only_bugs_are_crashes(error: Exception | None, crashed: bool) -> None:
    async def story() -> None:
        parent, crashes = supervisor()
        told: list[BaseException | None] = []
        is_done = asyncio.Event()
        loop_thread = threading.get_ident()

        def work() -> None:
            assert threading.get_ident() != loop_thread
            if error is not None:
                raise error

        def done(told_error: BaseException | None) -> None:
            told.append(told_error)
            is_done.set()

        parent.run_in_thread(work, done)
        await asyncio.wait_for(is_done.wait(), 5)
        await parent.close()

        assert told == [error]
        assert bool(crashes) is crashed

    asyncio.run(story())
