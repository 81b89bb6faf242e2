"""Talking to Redis from the node daemon: one client that outlives any connection.

Called by:  node, control.tables, tests.
Imports:    asyncio, nbray.model; redis-py in ``connect`` only, on another thread: it takes 140 ms.
Never:      spins while Redis is away, waits without a deadline, starts a task of its own.

Two kinds of writes:

* *hard* (``execute``, ``pipeline``): awaited; they wait for a reconnect up to their deadline. They
  may then be sent twice, so each must be one that can be repeated;
* *soft* (``publish_soft``): queued and sent when Redis is there, the newest of a slot only. Those
  with ``keep`` are sent again after every reconnect, so that soft facts come back by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nbray.control.errors import RedisRefusedError, RedisUnavailableError
from nbray.control.soft import Command, SoftWrites
from nbray.control.source import without_password

if TYPE_CHECKING:
    from redis.asyncio import Redis

#: Between attempts to connect: from the first to the longest, doubling.
BACKOFF_FIRST_S = 0.01
BACKOFF_LONGEST_S = 0.5

_CONNECTIONS = 4
_SOFT_COMMANDS_PER_BATCH = 256


class ControlClient:
    """A client for one Redis. Spawn :meth:`run` once; all else may be called at any time.

    Args:
        address: a unix socket's path, ``host:port``, ``redis://``, ``rediss://`` or ``unix://``.
        username, password: of the ACL user; an address may hold them instead.
        marker_key: a key that is set on connect. When it is missing at a check, somebody emptied
            the server, and soft state is sent again. "" leaves that out.
        command_timeout_s: the deadline of hard writes that name none.
        check_interval_s: how often an idle connection is checked; None: never.
    """

    def __init__(
        self,
        address: str,
        *,
        username: str = "",
        password: str = "",
        marker_key: str = "",
        command_timeout_s: float = 5.0,
        check_interval_s: float | None = 1.0,
    ) -> None:
        self.soft = SoftWrites()
        self.last_error = ""
        self.connects = 0
        self._url = url_of(address)
        self._credentials = {"username": username or None, "password": password or None}
        self._marker_key = marker_key
        self._command_timeout_s = command_timeout_s
        self._check_interval_s = check_interval_s
        self._library: ModuleType | None = None
        self._redis: Redis | None = None
        self._up = asyncio.Event()
        self._wake = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

    # --- the connection ----------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """False from the first sign of a lost connection until soft state is published again."""
        return self._up.is_set()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call this after every connection but the first, when kept soft writes are back."""
        self._callbacks.append(callback)

    def reconnect_now(self) -> None:
        """Somebody knows that the server was replaced: do not wait for a command to fail."""
        self._lost("The server was started again.")

    async def connect(self, timeout_s: float) -> None:
        """Wait until :meth:`run` has a connection.

        Raises:
            RedisUnavailableError: none within ``timeout_s``.
        """
        await self._until_up(asyncio.get_running_loop().time() + timeout_s, timeout_s)

    async def run(self) -> None:
        """Connect, send soft writes, check, reconnect, until cancelled."""
        try:
            while True:
                await self._establish()
                while self._up.is_set():
                    await self._serve_once()
                # A server that takes connections and then drops them must not make this loop spin.
                await asyncio.sleep(BACKOFF_FIRST_S)
        finally:
            await self._drop()

    async def _establish(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            self._wake.clear()
            try:
                await self._contact()
            except self._failures() as exc:
                self.last_error = f"{type(exc).__name__}: {exc}"
            else:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, BACKOFF_LONGEST_S)
        self.connects += 1
        self._up.set()
        if self.connects > 1:
            for callback in self._callbacks:
                callback()

    async def _contact(self) -> None:
        """A new pool, proof that it works, and everything soft that the server should know."""
        await self._drop()
        self._redis = await self._new_pool()
        self.soft.requeue_kept()
        if self._marker_key:
            await self._send([("SET", self._marker_key, b"1")])
        else:
            await self._send([("PING",)])
        await self._flush()

    async def _serve_once(self) -> None:
        """Wait for something to do (or the next check), then do it."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._check_interval_s)
        self._wake.clear()
        if not self._up.is_set():
            return
        try:
            if self.soft.has_pending:
                await self._flush()
            else:
                await self._check()
        except self._failures() as exc:
            self._lost(f"{type(exc).__name__}: {exc}")

    async def _check(self) -> None:
        if not self._marker_key:
            await self._send([("PING",)])
        elif (await self._send([("EXISTS", self._marker_key)]))[0] != 1:
            self._lost("The server was emptied.")

    async def _flush(self) -> None:
        """Send what is pending; what fails to leave stays pending, unless a newer one came."""
        while batch := self.soft.take(_SOFT_COMMANDS_PER_BATCH):
            try:
                answers = await self._send([command for _, commands in batch for command in commands])
            except BaseException:
                self.soft.give_back(batch)
                raise
            self.soft.refused += sum(isinstance(answer, Exception) for answer in answers)

    def _lost(self, reason: str) -> None:
        self.last_error = reason
        self._up.clear()
        self._wake.set()

    async def _drop(self) -> None:
        redis, self._redis = self._redis, None
        self._up.clear()
        if redis is not None:
            await redis.connection_pool.disconnect()

    async def _new_pool(self) -> Redis:
        if self._library is None:
            # On another thread, so that the daemon goes on granting leases during the import.
            self._library = await asyncio.to_thread(importlib.import_module, "redis.asyncio")
        retry = importlib.import_module("redis.asyncio.retry")  # came in with the library
        backoff = importlib.import_module("redis.backoff")
        pool = self._library.BlockingConnectionPool.from_url(
            self._url,
            max_connections=_CONNECTIONS,
            timeout=self._command_timeout_s,
            protocol=2,
            socket_timeout=self._command_timeout_s,
            socket_connect_timeout=self._command_timeout_s,
            retry=retry.Retry(backoff.NoBackoff(), 0),  # the deadline is ours, so are the repetitions
            **{name: value for name, value in self._credentials.items() if value},
        )
        redis: Redis = self._library.Redis(connection_pool=pool)
        redis.response_callbacks.clear()  # plain RESP answers, the same from every redis-py
        return redis

    def _failures(self) -> tuple[type[BaseException], ...]:
        """What a lost, refused or stalled connection raises."""
        found: list[type[BaseException]] = [OSError, asyncio.TimeoutError]
        if self._library is not None:
            found.append(self._library.RedisError)
        return tuple(found)

    # --- hard commands -------------------------------------------------------------------------

    async def execute(self, *command: Any, timeout_s: float | None = None) -> Any:
        """One command and its plain answer (bytes, int, list or None).

        Raises:
            RedisUnavailableError: no answer within ``timeout_s`` (default: the client's).
            RedisRefusedError: the server answered with an error.
        """
        return (await self.pipeline([command], timeout_s=timeout_s))[0]

    async def pipeline(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Any]:
        """Several commands in one round trip (8 µs each instead of 55 to 180), not as a transaction.

        Raises:
            RedisUnavailableError, RedisRefusedError: as :meth:`execute`; the first refusal counts.
        """
        allowed_s = self._command_timeout_s if timeout_s is None else timeout_s
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + allowed_s
        while True:
            await self._until_up(deadline_s, allowed_s)
            redis = self._redis
            if redis is None:  # lost again before this task had its turn
                continue
            try:
                answers = await asyncio.wait_for(self._send(commands), max(0.0, deadline_s - loop.time()))
            except asyncio.TimeoutError:
                raise self._unavailable(allowed_s) from None
            except self._failures() as exc:
                if redis is self._redis:  # else the connection was replaced meanwhile
                    self._lost(f"{type(exc).__name__}: {exc}")
                continue
            _raise_first_refusal(commands, answers)
            return answers

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        assert self._redis is not None
        pipe = self._redis.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    async def _until_up(self, deadline_s: float, allowed_s: float) -> None:
        remaining_s = deadline_s - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(self._up.wait(), max(0.0, remaining_s))
        except asyncio.TimeoutError:
            raise self._unavailable(allowed_s) from None

    def _unavailable(self, allowed_s: float) -> RedisUnavailableError:
        return RedisUnavailableError(
            f"Redis at {without_password(self._url)} gave no answer within {allowed_s:g} s (last trouble: "
            f"{self.last_error or 'none'}). Work that runs goes on; check that the server runs."
        )

    # --- soft commands -------------------------------------------------------------------------

    def publish_soft(self, slot: str, *commands: Command, keep: bool = False) -> None:
        """Send these soon; a newer call with the same slot replaces them. Never waits or raises.

        Args:
            slot: names the fact.
            *commands: each a tuple like ``("SET", key, value)``; sent one after the other.
            keep: send them again after every reconnect, until :meth:`SoftWrites.forget`.
        """
        self.soft.put(slot, commands, keep=keep)
        self._wake.set()


def _raise_first_refusal(commands: Sequence[Command], answers: Sequence[Any]) -> None:
    for command, answer in zip(commands, answers, strict=True):
        if isinstance(answer, Exception):
            subject = " ".join(map(str, command[:2]))  # the command and its key, never a value
            raise RedisRefusedError(f"Redis refused {subject}: {answer}") from answer


def url_of(address: str) -> str:
    """The URL form of an address: a path becomes ``unix://``, ``host:port`` becomes ``redis://``."""
    if address.startswith("/"):
        return "unix://" + quote(address)
    return address if "://" in address else f"redis://{address}"
