"""What the node's directory of objects orders, and how it names a stored object to people.

Called by:  core.{objects,object_moves}, which append them to a list; store, which performs them.
Imports:    nbray.core.allocator (Extent), nbray.wire.base.
Never:      does anything.
"""

from __future__ import annotations

from typing import NamedTuple

from nbray.core.allocator import Extent
from nbray.wire.base import Message


class Tell(NamedTuple):
    """Command: send this message."""

    process_id: bytes
    message: Message


class Release(NamedTuple):
    """Command: this extent is nobody's any more. Issued exactly once per extent."""

    extent: Extent


class ReleaseDisk(NamedTuple):
    """Command: the same, of an extent of the spill file."""

    extent: Extent


class Fetch(NamedTuple):
    """Command: somebody waits for this object, and its bytes are on the disk alone."""

    object_id: bytes


Command = Tell | Release | ReleaseDisk | Fetch


class Holding(NamedTuple):
    """One object and the space it takes of the arena, for messages to people.

    ``readers``: how many processes have pinned it. ``owner_has_it``: the owner may read it without asking.
    """

    object_id: bytes
    owner_id: bytes
    size_bytes: int
    state: str = ""
    readers: int = 0
    owner_has_it: bool = False
