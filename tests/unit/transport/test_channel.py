"""A framed connection that never blocks: what arrives, what waits, and how it ends.

Called by:  pytest.
Imports:    nbray.transport.{channel,sockets}.
Never:      waits: both ends are in this thread.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from nbray.model.errors import ProtocolError
from nbray.transport.channel import Channel
from nbray.transport.sockets import tuned
from nbray.wire.base import Message
from nbray.wire.codec import encode
from nbray.wire.messages import (
    CancelLease,
    PutFunction,
)


class Ends:
    """A channel, and the plain socket at its other end."""

    def __init__(self) -> None:
        ours, self.peer = map(tuned, socket.socketpair())
        self.channel = Channel(ours, "peer", lambda _message: None, lambda: None)

    def read(self) -> tuple[list[Message], bool]:
        out: list[Message] = []
        alive = self.channel.read(out)
        return out, alive

    def read_all(self) -> list[Message]:
        """Every message that has arrived, dispatched at once."""
        arrived: list[Message] = []
        while True:
            before = len(self.channel.incoming)
            out, alive = self.read()
            grown = len(self.channel.incoming) > before
            arrived += out
            self.channel.commit()
            if not alive or not grown:
                return arrived


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.channel.close()
    ends.peer.close()


def numbered(n: int) -> CancelLease:
    return CancelLease(n.to_bytes(4, "big"))


# --- reading ---------------------------------------------------------------------------------------------


def test_messages_arrive_in_order(ends: Ends) -> None:
    ends.peer.send(b"".join(encode(numbered(n)) for n in range(3)))

    assert ends.read() == ([numbered(0), numbered(1), numbered(2)], True)


def test_nothing_there_is_not_the_end(ends: Ends) -> None:
    assert ends.read() == ([], True)


def test_a_message_comes_when_its_last_byte_does(ends: Ends) -> None:
    frame = encode(numbered(1))
    for byte in frame[:-1]:
        ends.peer.send(bytes([byte]))
        assert ends.read() == ([], True)
        ends.channel.commit()

    ends.peer.send(frame[-1:])

    assert ends.read() == ([numbered(1)], True)


def test_messages_that_were_not_dispatched_come_again(ends: Ends) -> None:
    """An interrupt fell between reading and dispatching: nothing may be lost."""
    ends.peer.send(encode(numbered(1)))
    assert ends.read()[0] == [numbered(1)]

    ends.peer.send(encode(numbered(2)))
    assert ends.read()[0] == [numbered(1), numbered(2)]
    ends.channel.commit()
    ends.peer.send(encode(numbered(3)))

    assert ends.read()[0] == [numbered(3)]


def test_much_that_arrives_at_once_is_read_in_large_pieces(ends: Ends) -> None:
    sent = [PutFunction(b"f", "f", bytes(50_000)) for _ in range(3)]
    ends.peer.send(b"".join(map(encode, sent)))

    reads = 0
    arrived: list[Message] = []
    while len(arrived) < 3:
        arrived += ends.read()[0]
        ends.channel.commit()
        reads += 1

    assert arrived == sent
    assert reads <= 3


def test_last_words_are_read_before_the_end(ends: Ends) -> None:
    ends.peer.send(encode(numbered(1)))
    ends.peer.close()

    assert ends.read() == ([numbered(1)], True)
    ends.channel.commit()
    assert ends.read() == ([], False)


def test_half_a_message_at_the_end_is_no_message(ends: Ends) -> None:
    ends.peer.send(encode(numbered(1))[:-1])
    ends.peer.close()

    assert ends.read_all() == []
    assert ends.read() == ([], False)


def test_a_reset_connection_is_at_its_end(ends: Ends) -> None:
    """The peer died with bytes of ours unread."""
    ends.channel.outgoing += b"unread"
    ends.channel.flush()
    ends.peer.close()

    assert ends.read() == ([], False)


def test_messages_before_a_malformed_one_count(ends: Ends) -> None:
    ends.peer.send(encode(numbered(1)) + struct.pack("<IB", 1, 0) + b"\x90")
    out: list[Message] = []

    with pytest.raises(ProtocolError):
        ends.channel.read(out)

    assert out == [numbered(1)]


# --- writing ---------------------------------------------------------------------------------------------


def test_what_waits_is_sent_with_the_flush(ends: Ends) -> None:
    ends.channel.outgoing += b"first"
    ends.channel.outgoing += b"second"

    assert ends.channel.flush()

    assert ends.peer.recv(100) == b"firstsecond"
    assert not ends.channel.outgoing


def test_more_than_the_kernel_holds_leaves_in_parts_and_in_order(ends: Ends) -> None:
    data = bytes(range(256)) * 40_000
    ends.channel.outgoing += data

    assert not ends.channel.flush()
    got = bytearray()
    while len(got) < len(data):
        got += ends.peer.recv(1 << 20)
        ends.channel.flush()

    assert got == data
    assert ends.channel.flush()


def test_bytes_for_a_peer_that_is_gone_are_dropped(ends: Ends) -> None:
    """Reading says so, in the order of events."""
    ends.peer.send(encode(numbered(1)))
    ends.peer.close()
    ends.channel.outgoing += b"too late"

    assert ends.channel.flush()

    assert not ends.channel.outgoing
    assert ends.read_all() == [numbered(1)]


def test_a_closed_channel_sends_nothing_and_does_not_complain(ends: Ends) -> None:
    ends.channel.outgoing += b"too late"
    ends.channel.close()
    ends.channel.close()

    assert ends.channel.flush()
    assert ends.peer.recv(100) == b""
