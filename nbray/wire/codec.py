"""Framing: messages to bytes and back.

Called by:  transport (both the sync and the asyncio channels), tests.
Imports:    msgspec, nbray.wire.messages, nbray.model.
Never:      allocates by a length that a peer announced before that length passed the cap.

A frame is ``u32 length of the body, u8 type``, little endian, then the body: one msgpack array.
Wrong data fails here, with the message's name and the path to the field.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from nbray.model.errors import ProtocolError
from nbray.model.limits import FRAME_MAX_BYTES
from nbray.wire.base import Message
from nbray.wire.messages import ALL

HEADER = struct.Struct("<IB")
HEADER_BYTES = HEADER.size

_encode_body = msgspec.msgpack.Encoder().encode
_TYPE_OF: dict[type[Message], int] = {cls: n + 1 for n, cls in enumerate(ALL)}
_DECODE: list[Callable[[bytes | memoryview], Message] | None] = [
    None,
    *(msgspec.msgpack.Decoder(cls).decode for cls in ALL),
]
#: What msgspec raises: also for text that is not UTF-8, for nesting without end, for announced sizes.
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError)
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from


def encode(message: Message) -> bytes:
    """One frame, ready to send.

    Raises:
        ProtocolError: the message is larger than the cap; nothing was sent.
    """
    body = _encode_body(message)
    if len(body) > FRAME_MAX_BYTES:
        raise ProtocolError(
            f"A {type(message).__name__} message of {len(body)} bytes exceeds the limit of "
            f"{FRAME_MAX_BYTES}. Put large data with nbray.put() and pass the reference."
        )
    return _pack_header(len(body), _TYPE_OF[type(message)]) + body


def decode_buffer(buffer: bytearray, out: list[Message]) -> int:
    """Append every whole message in ``buffer`` to ``out``; return how many bytes they took.

    The buffer is left as it is: the caller drops those bytes only after it has dispatched the
    messages, so that an interrupt in between loses nothing.

    Raises:
        ProtocolError: the peer sent something that is not our protocol. Close the connection.
    """
    at, end = 0, len(buffer)
    while end - at >= HEADER_BYTES:
        length, kind = _unpack_header(buffer, at)
        if length > FRAME_MAX_BYTES:
            raise ProtocolError(
                f"A peer announced a frame of {length} bytes; the limit is {FRAME_MAX_BYTES}."
            )
        start = at + HEADER_BYTES
        stop = start + length
        if stop > end:
            break
        out.append(_decode_one(kind, bytes(buffer[start:stop])))
        at = stop
    return at


def _decode_one(kind: int, body: bytes) -> Message:
    decode = _DECODE[kind] if kind < len(_DECODE) else None
    if decode is None:
        raise ProtocolError(f"A peer sent a message of unknown type {kind}; is its nbray another version?")
    try:
        return decode(body)
    except _MALFORMED as exc:
        raise ProtocolError(f"A peer sent a malformed {ALL[kind - 1].__name__}: {exc}") from exc
