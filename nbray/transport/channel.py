"""A framed, non-blocking connection for drivers and workers; the loop decides when to read.

Called by:  runtime.loop (reads, flushes), runtime and worker (send).
Imports:    nbray.wire.
Never:      blocks, locks, or starts a thread. Callers hold the loop's lock where they must.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from nbray.model.errors import ProtocolError
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode

_SMALL_READ_BYTES = 16 * 1024
_LARGE_READ_BYTES = 256 * 1024


class Channel:
    """One connection. ``incoming`` bytes stay until ``commit``, so an interrupt loses no message.

    ``rows`` wait to leave together in one message, which ``batch`` makes of them: many in one cost a
    fifth of one in each. What is sent after them leaves after them.
    """

    __slots__ = (
        "_cursor",
        "_read_bytes",
        "_sock",
        "batch",
        "closed",
        "dirty",
        "fd",
        "incoming",
        "name",
        "on_closed",
        "on_message",
        "outgoing",
        "rows",
        "wants_write",
    )

    def __init__(
        self,
        sock: socket.socket,
        name: str,
        on_message: Callable[[Message], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._sock = sock
        self.fd = sock.fileno()
        self.name = name
        self.on_message = on_message
        self.on_closed = on_closed
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.rows: list[Any] = []
        self.batch: Callable[[list[Any]], Message] | None = None
        self.closed = False
        self.dirty = False  # outgoing bytes wait for the next flush
        self.wants_write = False  # the kernel's buffer is full; epoll says when it drains
        self._cursor = 0
        self._read_bytes = _SMALL_READ_BYTES

    def read(self, out: list[Message]) -> bool:
        """Take what has arrived; append whole messages to ``out``. False at end of file.

        Call ``commit`` once the messages are dispatched.

        Raises:
            ProtocolError: the peer does not speak our protocol.
        """
        try:
            data = self._sock.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        if not data:
            return False
        # A large buffer costs 30 us a call even when little arrives, so it grows with the traffic.
        self._read_bytes = _LARGE_READ_BYTES if len(data) == self._read_bytes else _SMALL_READ_BYTES
        self.incoming += data
        self._cursor = decode_buffer(self.incoming, out)
        return True

    def commit(self) -> None:
        """The messages of the last ``read`` are dispatched: forget their bytes."""
        del self.incoming[: self._cursor]
        self._cursor = 0

    def read_last_words(self) -> None:
        """Dispatch what the socket of a peer that is dead still holds."""
        while True:
            messages: list[Message] = []
            before = len(self.incoming)
            try:
                alive = self.read(messages)
            except ProtocolError:  # what came before it counts
                alive = False
            for message in messages:
                self.on_message(message)
            grew = len(self.incoming) != before
            self.commit()
            if not alive or not grew:
                return

    def append(self, frame: bytes) -> None:
        """Queue a frame behind all that waits."""
        if self.rows:
            self._pack_rows()
        self.outgoing += frame

    def _pack_rows(self) -> None:
        rows, self.rows = self.rows, []
        assert self.batch is not None
        self.outgoing += encode(self.batch(rows))

    def flush(self) -> bool:
        """Send what waits. True when nothing is left."""
        if self.rows:
            self._pack_rows()
        if not self.closed:
            try:
                while self.outgoing:
                    sent = self._sock.send(self.outgoing)
                    del self.outgoing[:sent]
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # The peer is gone: reading will say so, in the order of events. Drop the rest.
                self.outgoing.clear()
        return True

    def close(self) -> None:
        self.closed = True
        self._sock.close()
