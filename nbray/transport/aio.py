"""A framed connection for the node daemon, on asyncio.

Called by:  node.daemon, node.workers.
Imports:    asyncio, nbray.wire.
Never:      lets a peer's mistake reach beyond its own connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from nbray.model.errors import ProtocolError
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode

_READ_BYTES = 256 * 1024
_LAST_READS = 64


class _Batch:
    """What the messages of one read set off leaves together: one send for each peer, not for each message."""

    def __init__(self) -> None:
        self._depth = 0
        self._waiting: list[Peer] = []

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            waiting, self._waiting = self._waiting, []
            for peer in waiting:
                peer.flush()

    def takes(self, peer: Peer) -> bool:
        """Whether it may wait for the end of a batch, which then sends."""
        if self._depth:
            self._waiting.append(peer)
        return self._depth > 0


_batch = _Batch()


class Peer(asyncio.Protocol):
    """One connected process. Handlers run on the loop; ``on_lost`` is called exactly once."""

    def __init__(
        self,
        on_message: Callable[[Peer, Message], None],
        on_lost: Callable[[Peer], None],
        sock: socket.socket,
    ) -> None:
        self._sock = sock
        self._on_message = on_message
        self._on_lost = on_lost
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self.process_id = b""
        self.role = ""
        self.error: ProtocolError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=1 << 24)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        messages: list[Message] = []
        try:
            used = decode_buffer(self._incoming, messages)
        except ProtocolError as exc:
            self.error = exc
            self.close()
            return
        del self._incoming[:used]
        with _batch:
            for message in messages:
                if self._closed:  # by the handler of an earlier one: what follows is not to be believed
                    return
                self._on_message(self, message)

    def drain(self) -> None:
        """Serve what a dead peer had sent and nobody has read yet. Bounded, for its children may write on."""
        for _ in range(_LAST_READS):
            if self._closed or self._transport is None or self._transport.is_closing():
                return
            try:
                data = self._sock.recv(_READ_BYTES)
            except OSError:  # nothing more, or it was reset
                return
            if not data:
                return
            self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self)

    def send(self, message: Message) -> None:
        """Queue a message; silently dropped when the peer is gone (``on_lost`` tells)."""
        if self._transport is not None and not self._transport.is_closing():
            self._outgoing.append(encode(message))
            if len(self._outgoing) == 1 and not _batch.takes(self):
                self.flush()

    def flush(self) -> None:
        """Send what was queued."""
        outgoing, self._outgoing = self._outgoing, []
        if self._transport is not None and outgoing:
            self._transport.write(b"".join(outgoing))

    def close(self) -> None:
        self._closed = True
        self.flush()
        if self._transport is not None:
            self._transport.close()


async def attach(
    sock: socket.socket,
    on_message: Callable[[Peer, Message], None],
    on_lost: Callable[[Peer], None],
) -> Peer:
    """Serve an accepted or inherited socket."""
    loop = asyncio.get_running_loop()
    _transport, peer = await loop.connect_accepted_socket(lambda: Peer(on_message, on_lost, sock), sock)
    return peer
