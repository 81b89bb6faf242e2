"""kill -9 of Redis under a running session: work goes on, and what was in it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.control.client import ControlClient
from nbray.control.config import USER
from nbray.control.records import FunctionRecord, JobRecord, NodeRecord, StampSource
from nbray.control.secrets import redis_password, redis_values_key
from nbray.control.tables import ControlTables
from nbray.runtime.current import current
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def session() -> Iterator[None]:
    nbray.init(num_cpus=2)
    until(lambda: status()["redis"]["connected"], "the daemon has connected to Redis")
    yield
    nbray.shutdown()


def status() -> dict[str, Any]:
    return nbray.status().to_dict()


def kill_redis() -> None:
    os.kill(status()["processes"]["redis"], signal.SIGKILL)


def is_back(restarts: int) -> bool:
    redis = status()["redis"]
    return bool(redis["connected"] and redis["restarts"] == restarts)


Records = tuple[list[NodeRecord], JobRecord | None, FunctionRecord | None]


def records(function_id: bytes) -> Records:
    """What lies in the session's Redis, read as another node of the cluster would."""
    folder = Path(status()["session_dir"])
    token = (folder / "token").read_bytes()
    cluster_id = folder.name.removeprefix("nbray-")

    async def read() -> Records:
        client = ControlClient(str(folder / "redis.sock"), username=USER, password=redis_password(token))
        reading = asyncio.get_running_loop().create_task(client.run())
        try:
            await client.connect(10)
            tables = ControlTables(
                client, cluster_id, values_key=redis_values_key(token), stamps=StampSource(1, 1)
            )
            job = await tables.jobs.get(current().job_id)
            return await tables.nodes.list(), job, await tables.functions.get(function_id)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    return asyncio.run(read())


def complete_records(function_id: bytes) -> Records | None:
    found = records(function_id)
    return found if all(found) else None


@nbray.remote
def double(x: int) -> int:
    return 2 * x


def test_running_work_is_unaffected(folder: Path) -> None:
    @nbray.remote
    def waits_for(path: str) -> int:
        import time

        while not Path(path).exists():
            time.sleep(0.002)
        return 7

    ref = waits_for.remote(str(folder / "go"))

    kill_redis()

    assert nbray.get([double.remote(i) for i in range(200)], timeout=10) == [2 * i for i in range(200)]
    (folder / "go").touch()
    assert nbray.get(ref, timeout=10) == 7


def test_functions_that_are_new_meanwhile_run_too() -> None:
    kill_redis()

    @nbray.remote
    def triple(x: int) -> int:
        return 3 * x

    assert nbray.get(triple.remote(14), timeout=10) == 42


def test_it_is_started_again_and_everything_is_published_again() -> None:
    assert nbray.get(double.remote(21)) == 42
    (function_id,) = current().submitter.exports.messages
    before = until(lambda: complete_records(function_id), "all is published")

    kill_redis()
    until(lambda: is_back(1), "Redis is back", deadline_s=2.0)

    after = until(lambda: complete_records(function_id), "all is published again", 2.0)
    assert after == before
    assert before is not None
    assert after is not None
    (node,), job, function = after
    assert node.pid == status()["processes"]["daemon"]
    assert job is not None
    assert (job.driver_pid, job.state) == (os.getpid(), "running")
    assert function is not None
    assert function.name.endswith("double")


def test_after_too_many_deaths_it_stays_away_and_work_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    for restarts in range(1, 4):
        kill_redis()
        until(lambda: is_back(restarts), f"Redis is back, {restarts}", deadline_s=5.0)  # noqa: B023

    kill_redis()

    until(lambda: not status()["redis"]["connected"], "the loss is seen")
    assert nbray.get([double.remote(i) for i in range(50)], timeout=10) == [2 * i for i in range(50)]
    shown = until(lambda: capfd.readouterr().err, "people are told")
    assert "Redis was started again 3 times" in shown
