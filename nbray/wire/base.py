"""What all messages are made of.

Called by:  wire.messages, wire.object_messages; everybody who handles values.
Imports:    msgspec.
Never:      carries a large payload: a Descriptor says where it lies.
"""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages; the codec gives each subclass its type byte."""


class Descriptor(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a sealed object lies: in the node's arena, or in the file ``path`` if there is one.

    ``generation`` is the number of the allocation: an extent that was freed and handed out again
    has another one. ``node_id`` says which arena is meant.
    """

    object_id: bytes
    node_id: bytes
    offset: int
    size_bytes: int
    generation: int
    path: str = ""


#: A value on the wire: its bytes when it is small, else where it lies.
Value = bytes | Descriptor
