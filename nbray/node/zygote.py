"""The daemon's end of its zygote: start it, order forks, start it again when it dies.

Called by:  node.workers.
Imports:    node.zygote_process, nbray.transport, wire.
Never:      waits for the zygote: orders queue until it says that it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import NamedTuple

from nbray.node.zygote_process import ZygoteProcess
from nbray.transport import linux
from nbray.transport.sockets import send_with_descriptors
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import (
    ForkWorker,
    Welcome,
    WorkerForked,
    ZygoteReady,
)

_PACKET_BYTES = 64 * 1024
_RESTARTS_IN_A_ROW = 3
#: Orders on their way; the socket's buffer takes some 280, then refuses. One fork takes 2 ms.
_UNANSWERED_MAX = 8


class Order(NamedTuple):
    message: ForkWorker
    descriptors: list[int]


class Zygote:
    """One zygote after another; the first was started before this was made.

    Args:
        first: it boots; it belongs to this object from now on.
        arena_fd: sent to the zygote, mapped there, and so inherited by all workers.
        welcome: handed on to every worker.
        sys_path: where the driver finds modules, this package among them.
    """

    def __init__(self, first: ZygoteProcess, arena_fd: int, welcome: Welcome, sys_path: list[str]) -> None:
        self._arena_fd = arena_fd
        self._welcome = welcome
        self._sys_path = sys_path
        self._on_forked: Callable[[bytes, int], None]
        self._on_give_up: Callable[[str], None]
        self._orders: list[Order] = []
        self._unanswered: dict[bytes, Order] = {}
        self._ready = self._ended = self._reaped = False
        self._failures = 0
        self._given_up = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._greet(first)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_forks_under_way(self) -> bool:
        """A child of ours that we do not know may be a worker that is just being adopted."""
        return bool(self._unanswered)

    def _greet(self, process: ZygoteProcess) -> None:
        """Tell a zygote that boots what it needs to know; it reads that when it has come so far."""
        self._process = process
        self._socket = process.socket
        self._ready = self._ended = self._reaped = False
        with contextlib.suppress(OSError):  # it died: its end comes through the loop
            send_with_descriptors(self._socket, encode(self._welcome), [self._arena_fd])
        if self._loop is not None:
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def serve(
        self,
        loop: asyncio.AbstractEventLoop,
        on_forked: Callable[[bytes, int], None],
        on_give_up: Callable[[str], None],
    ) -> None:
        """Listen to it on the daemon's loop.

        Args:
            loop: the daemon's.
            on_forked: told process ID and PID of each new worker; PID 0: it cannot be made.
            on_give_up: told why, when it died several times before it was ready.
        """
        self._loop = loop
        self._on_forked = on_forked
        self._on_give_up = on_give_up
        loop.add_reader(self._socket.fileno(), self._on_readable)

    def fork(self, message: ForkWorker, descriptors: list[int]) -> None:
        """Order a worker; the descriptors are closed here once it is there."""
        order = Order(message, descriptors)
        if self._given_up:
            assert self._loop is not None
            self._loop.call_soon(self._refuse, order)
            return
        self._orders.append(order)
        self._send_orders()

    def _refuse(self, order: Order) -> None:
        """There will be no such worker; whoever waits for it must hear so."""
        for fd in order.descriptors:
            os.close(fd)
        self._on_forked(order.message.process_id, 0)

    def _send_orders(self) -> None:
        while self._ready and self._orders and len(self._unanswered) < _UNANSWERED_MAX:
            order = self._orders.pop(0)
            self._unanswered[order.message.process_id] = order
            with contextlib.suppress(OSError):  # it is dying: the order is repeated to the next one
                send_with_descriptors(self._socket, encode(order.message), order.descriptors)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_end()
            return
        messages: list[Message] = []
        decode_buffer(bytearray(data), messages)
        for message in messages:
            if isinstance(message, ZygoteReady):
                self._on_ready()
            elif isinstance(message, WorkerForked):
                self._answered(message.process_id)
                self._on_forked(message.process_id, message.pid)

    def _on_ready(self) -> None:
        self._ready = True
        self._failures = 0
        self._send_orders()

    def _answered(self, process_id: bytes) -> None:
        order = self._unanswered.pop(process_id, None)
        for fd in order.descriptors if order else ():
            os.close(fd)
        self._send_orders()

    def exited(self) -> None:
        """The daemon reaped it. Workers live on; another is started when all its answers are read."""
        self._reaped = True
        if self._ended:
            self._start_another()

    def _on_end(self) -> None:
        """Neither it nor a fork of it is left that could answer: what is unanswered was never done.

        A fork may answer after the zygote's death. Repeating its order would make two workers of one name.
        """
        assert self._loop is not None
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._ended = True
        if self._reaped:
            self._start_another()

    def _start_another(self) -> None:
        self._failures = 0 if self._ready else self._failures + 1
        orders = [*self._unanswered.values(), *self._orders]
        self._unanswered.clear()
        if self._failures >= _RESTARTS_IN_A_ROW:
            self._given_up = True
            self._orders = []
            for order in orders:
                self._refuse(order)
            self._on_give_up(
                f"The process that forks workers died {self._failures} times before it was ready. "
                "Does `python -c 'import numpy, cloudpickle'` work with this interpreter?"
            )
            return
        self._orders = orders
        self._greet(ZygoteProcess(self._sys_path))

    def close(self) -> None:
        if self._loop is not None and not self._ended:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if not self._reaped:
            linux.kill_quietly(self._process.pid)
