"""The daemon's connections: one peer's mistake, or death, is its own.

Called by:  pytest.
Imports:    nbray.transport.{aio,sockets}.
Never:      sleeps: it waits for what the loop reports, with a deadline.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine

import pytest

from nbray.model.errors import ProtocolError
from nbray.transport.aio import Peer, attach
from nbray.transport.sockets import tuned
from nbray.wire.base import Message
from nbray.wire.codec import encode
from nbray.wire.messages import (
    CancelLease,
    GetStatus,
    ReturnLease,
)

GARBAGE = struct.pack("<IB", 1, 0) + b"\x90"
DEADLINE_S = 5.0


class Daemon:
    """What a daemon hears of its peers, in order."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Message] = asyncio.Queue()
        self.lost: asyncio.Queue[Peer] = asyncio.Queue()
        self.on_message: Callable[[Peer, Message], None] = lambda _peer, message: self.heard.put_nowait(
            message
        )

    async def join(self) -> tuple[Peer, socket.socket]:
        ours, theirs = map(tuned, socket.socketpair())
        return await attach(ours, self.on_message, self.lost.put_nowait), theirs

    async def hears(self, count: int) -> list[Message]:
        return [await asyncio.wait_for(self.heard.get(), DEADLINE_S) for _ in range(count)]

    async def loses(self) -> Peer:
        return await asyncio.wait_for(self.lost.get(), DEADLINE_S)


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(story)


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1000), DEADLINE_S)


def test_messages_are_heard_in_order_however_they_are_cut() -> None:
    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        frames = encode(CancelLease(b"1")) + encode(CancelLease(b"2")) + encode(CancelLease(b"3"))
        with sock:
            for at in range(0, len(frames), 5):
                sock.send(frames[at : at + 5])
                await asyncio.sleep(0)

            assert await daemon.hears(3) == [CancelLease(b"1"), CancelLease(b"2"), CancelLease(b"3")]
            peer.close()
            assert await daemon.loses() is peer

    run(story())


def test_what_is_sent_arrives() -> None:
    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        with sock:
            peer.send(GetStatus(7))

            assert await receive(sock) == encode(GetStatus(7))
            peer.close()
            await daemon.loses()

    run(story())


@pytest.mark.parametrize("who", ["the peer", "the daemon"])
def test_an_end_is_told_once_whoever_made_it(who: str) -> None:
    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        with sock:
            if who == "the peer":
                sock.close()
            else:
                peer.close()
                peer.close()

            assert await daemon.loses() is peer
            await asyncio.sleep(0)
            assert daemon.lost.empty()

    run(story())


def test_a_peer_that_is_gone_can_be_spoken_to() -> None:
    """Nothing comes of it: whoever sends need not know yet."""

    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        sock.close()
        await daemon.loses()

        peer.send(GetStatus(1))
        peer.close()

    run(story())


def test_last_words_are_heard_before_the_end() -> None:
    async def story() -> None:
        daemon = Daemon()
        _peer, sock = await daemon.join()
        sock.send(encode(CancelLease(b"last")))
        sock.close()
        await daemon.loses()

        assert await daemon.hears(1) == [CancelLease(b"last")]

    run(story())


def test_a_malformed_message_ends_that_connection_and_no_other() -> None:
    async def story() -> None:
        daemon = Daemon()
        bad, bad_sock = await daemon.join()
        good, good_sock = await daemon.join()
        with bad_sock, good_sock:
            bad_sock.send(GARBAGE)
            good_sock.send(encode(CancelLease(b"fine")))

            assert await daemon.loses() is bad
            assert isinstance(bad.error, ProtocolError)
            assert await daemon.hears(1) == [CancelLease(b"fine")]
            assert good.error is None
            assert await receive(bad_sock) == b""
            good.close()
            assert await daemon.loses() is good

    run(story())


def test_nothing_is_heard_of_a_peer_after_it_was_closed() -> None:
    """It was closed for its first message: the others, of the same read, are not to be believed."""

    async def story() -> None:
        daemon = Daemon()
        heard: list[Message] = []

        def refuse(peer: Peer, message: Message) -> None:
            heard.append(message)
            peer.close()

        daemon.on_message = refuse
        _peer, sock = await daemon.join()
        with sock:
            sock.send(encode(CancelLease(b"bad")) + encode(ReturnLease(b"worse")))
            await daemon.loses()

        assert heard == [CancelLease(b"bad")]

    run(story())


def test_a_slow_reader_gets_everything() -> None:
    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        with sock:
            for n in range(20_000):
                peer.send(CancelLease(n.to_bytes(100, "big")))
            expected = 20_000 * len(encode(CancelLease(bytes(100))))
            got = 0
            while got < expected:
                got += len(await receive(sock))
            peer.close()
            await daemon.loses()

        assert got == expected

    run(story())


def test_the_last_words_of_a_dead_peer_are_heard_when_it_is_drained() -> None:
    async def story() -> None:
        # given a peer that spoke, and died before the loop came round
        daemon = Daemon()
        peer, sock = await daemon.join()
        sock.sendall(encode(CancelLease(b"1")) + encode(CancelLease(b"2")))
        sock.close()

        # when it is drained, then all was heard, at once
        peer.drain()
        assert daemon.heard.qsize() == 2
        peer.drain()
        assert daemon.heard.qsize() == 2
        peer.close()

    run(story())


def test_nothing_is_heard_of_a_peer_that_was_closed() -> None:
    async def story() -> None:
        daemon = Daemon()
        peer, sock = await daemon.join()
        sock.sendall(encode(CancelLease(b"1")))
        peer.close()

        peer.drain()

        assert daemon.heard.empty()
        sock.close()

    run(story())
