"""What a client does while there is no Redis at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nbray.control.client import ControlClient, url_of
from nbray.control.errors import RedisUnavailableError


def test_addresses_become_urls() -> None:
    assert url_of("/run/a b/redis.sock") == "unix:///run/a%20b/redis.sock"
    assert url_of("host:6379") == "redis://host:6379"
    assert url_of("rediss://host:6379") == "rediss://host:6379"


def test_a_command_without_redis_ends_at_its_deadline_and_hides_the_password() -> None:
    async def story() -> None:
        client = ControlClient("redis://:hunter2@127.0.0.1:1")

        with pytest.raises(RedisUnavailableError, match=r"gave no answer within 0\.01 s") as caught:
            await client.execute("GET", "k", timeout_s=0.01)

        assert "hunter2" not in str(caught.value)

    asyncio.run(story())


def test_pauses_between_attempts_double_up_to_half_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()
    real_sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= 8:
            enough.set()
        await real_sleep(0)

    async def story() -> None:
        client = ControlClient(str(tmp_path / "no.sock"))
        monkeypatch.setattr(asyncio, "sleep", record)
        run = asyncio.get_running_loop().create_task(client.run())
        await asyncio.wait_for(enough.wait(), 30)
        monkeypatch.setattr(asyncio, "sleep", real_sleep)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

    asyncio.run(story())

    assert pauses[:8] == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5])


def test_soft_writes_wait_without_raising(tmp_path: Path) -> None:
    client = ControlClient(str(tmp_path / "no.sock"))

    client.publish_soft("slot", ("SET", "k", b"v"))

    assert client.soft.has_pending
    assert not client.is_connected
