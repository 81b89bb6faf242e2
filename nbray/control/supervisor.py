"""Keeping the embedded Redis alive: notice its end, start it again, give up when that is no use.

Called by:  node, which spawns ``RedisSupervisor.run`` in its group of tasks.
Imports:    asyncio, control.server.
Never:      polls a running server: the kernel tells its end through a pidfd.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from nbray.control.errors import RedisStartError
from nbray.control.server import EmbeddedRedis

READY_TIMEOUT_S = 10.0

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.02


class RestartBudget:
    """How often a thing may be started again: ``limit`` times in any ``window_s`` seconds.

    Source: the restart intensity of Erlang/OTP supervisors.
    """

    def __init__(self, limit: int = 3, window_s: float = 30.0) -> None:
        self.limit = limit
        self.window_s = window_s
        self._spent_at_s: deque[float] = deque()

    def allow(self, now_s: float) -> bool:
        """Spend one restart at ``now_s``; False (and nothing spent) when none is left."""
        while self._spent_at_s and now_s - self._spent_at_s[0] >= self.window_s:
            self._spent_at_s.popleft()
        if len(self._spent_at_s) >= self.limit:
            return False
        self._spent_at_s.append(now_s)
        return True


class RedisSupervisor:
    """Respawns a server that was started once; everything soft in it is gone then.

    Args:
        on_restart: called when a new server takes connections; usually
            :meth:`nbray.control.client.ControlClient.reconnect_now`, which re-publishes soft state.
        on_give_up: called once, with the reason for people, when the budget is spent.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        redis: EmbeddedRedis,
        *,
        on_restart: Callable[[], None],
        on_give_up: Callable[[str], None],
        budget: RestartBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.restarts = 0
        self._on_restart = on_restart
        self._on_give_up = on_give_up
        self._budget = budget or RestartBudget()
        self._clock = clock

    async def run(self) -> None:
        """Watch until cancelled or out of budget. Cancel this before :meth:`EmbeddedRedis.stop`."""
        while True:
            await _readable(self.redis.pidfd)
            self.redis.poll()  # reap it
            if not await self._respawn():
                return
            self.restarts += 1
            self._on_restart()

    async def _respawn(self) -> bool:
        reason = self.redis.exit_text()
        while self._budget.allow(self._clock()):
            failure = await self._start()
            if not failure:
                return True
            reason = failure
        limit, window_s = self._budget.limit, self._budget.window_s
        self._on_give_up(
            f"Redis was started again {limit} times within {window_s:g} s and ended each time; nbray leaves "
            f"it at that. Work that runs goes on. {reason}"
        )
        return False

    async def _start(self) -> str:
        try:
            self.redis.start()
            await wait_until_ready(self.redis)
        except RedisStartError as exc:
            return str(exc)
        return ""


async def wait_until_ready(redis: EmbeddedRedis, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Return when a started server takes connections.

    Raises:
        RedisStartError: it ended, with its last words, or was not ready in time.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not redis.is_accepting():
        if redis.poll() is not None:
            if not redis.adapt_to_version():
                raise RedisStartError(redis.exit_text())
            redis.start()
        if time.monotonic() > deadline_s:
            raise RedisStartError(
                f"The Redis server {redis.binary} (pid {redis.pid}) took no connection within "
                f"{timeout_s:g} s. Is the machine overloaded? The end of {redis.log_path}:\n"
                f"{redis.log_tail()}"
            )
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
