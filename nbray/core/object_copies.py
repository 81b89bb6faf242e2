"""The life of one copy of an object: which state follows which event, and what must then be done.

Called by:  core.{objects,object_moves}, its only users.
Imports:    nbray.core.allocator (Extent).
Never:      knows of readers, owners or messages.

A copy has an extent of the arena, or one of the spill file, or both; what was evicted or lost has neither.
One that was written to the disk, or brought back from there, is in both places: its bytes never change, so
that it can be dropped from the arena at no cost. An object larger than the arena has an extent of the file
alone, from the beginning.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from nbray.core.allocator import Extent


class S(enum.Enum):
    """State of one copy."""

    CREATING = "creating"  # its writer fills it
    DOOMED = "doomed"  # its writer fills it, and nobody wants it any more
    SEALED = "sealed"  # the current copy; readers may pin it
    SPILLING = "spilling"  # the same, and a thread writes it to the disk
    SPILLED = "spilled"  # the current copy, on the disk alone
    RESTORING = "restoring"  # the same, and a thread reads it back into the arena
    EVICTED = "evicted"  # the current copy had to make room; its bytes are gone
    LOST = "lost"  # the bytes on the disk are not those that were written
    ENDING = "ending"  # freed or superseded, while a thread is at it
    LINGERING = "lingering"  # freed or superseded, but somebody may still read it
    GONE = "gone"  # its space was returned


class E(enum.Enum):
    """What can happen to it. *In use*: somebody has bytes of the object in hand."""

    SEAL = "seal"
    SEAL_PINNED = "seal while pinned"  # somebody who heard of it before us reads it already
    ABORT = "abort"
    WRITER_LOST = "writer lost"
    DISCARD = "discard"  # freed by its owner, or a newer copy was sealed; nobody reads the object
    DISCARD_PINNED = "discard while in use"
    LAST_UNPIN = "last unpin"
    SPILL = "spill"
    WRITTEN = "written"  # it is in both places now, and can leave the arena at no cost
    DROP = "drop"  # from the arena: it is on the disk as well
    FORGET_DISK = "forget the disk"  # from the disk: it is in the arena as well
    RESTORE = "restore"
    READ = "read"  # and it is what was written
    MOVE_FAILED = "move failed"  # there is no room where it should go
    EVICT = "evict"
    LOSE = "lose"
    MOVED = "moved"  # the thread is done with what nobody wants any more
    MOVED_PINNED = "moved while in use"


class Do(enum.Enum):
    """What the directory must do then."""

    NOTHING = "nothing"
    PUBLISH = "publish"  # make it the current copy, pin it for each waiter and tell them
    LINGER = "linger"  # keep it until the last unpin
    SERVE = "serve"  # pin it for each waiter and tell them
    RELEASE = "release"  # return its space, here and there
    RELEASE_MEMORY = "release memory"
    RELEASE_DISK = "release disk"


# fmt: off
TABLE: dict[tuple[S, E], tuple[S, Do]] = {
    # state,       event           :  next state,  what to do
    (S.CREATING,  E.SEAL):           (S.SEALED,    Do.PUBLISH),
    (S.CREATING,  E.SEAL_PINNED):    (S.SEALED,    Do.PUBLISH),
    (S.CREATING,  E.ABORT):          (S.GONE,      Do.RELEASE),
    (S.CREATING,  E.WRITER_LOST):    (S.GONE,      Do.RELEASE),
    (S.CREATING,  E.DISCARD):        (S.DOOMED,    Do.NOTHING),
    (S.CREATING,  E.DISCARD_PINNED): (S.DOOMED,    Do.NOTHING),
    (S.DOOMED,    E.SEAL):           (S.GONE,      Do.RELEASE),
    (S.DOOMED,    E.SEAL_PINNED):    (S.LINGERING, Do.LINGER),
    (S.DOOMED,    E.ABORT):          (S.GONE,      Do.RELEASE),
    (S.DOOMED,    E.WRITER_LOST):    (S.GONE,      Do.RELEASE),
    (S.DOOMED,    E.DISCARD):        (S.DOOMED,    Do.NOTHING),
    (S.DOOMED,    E.DISCARD_PINNED): (S.DOOMED,    Do.NOTHING),
    (S.SEALED,    E.DISCARD):        (S.GONE,      Do.RELEASE),
    (S.SEALED,    E.DISCARD_PINNED): (S.LINGERING, Do.LINGER),
    (S.SEALED,    E.SPILL):          (S.SPILLING,  Do.NOTHING),
    (S.SEALED,    E.DROP):           (S.SPILLED,   Do.RELEASE_MEMORY),
    (S.SEALED,    E.FORGET_DISK):    (S.SEALED,    Do.RELEASE_DISK),
    (S.SEALED,    E.EVICT):          (S.EVICTED,   Do.RELEASE),
    (S.SPILLING,  E.WRITTEN):        (S.SEALED,    Do.NOTHING),
    (S.SPILLING,  E.MOVE_FAILED):    (S.SEALED,    Do.RELEASE_DISK),
    (S.SPILLING,  E.DISCARD):        (S.ENDING,    Do.LINGER),
    (S.SPILLING,  E.DISCARD_PINNED): (S.ENDING,    Do.LINGER),
    (S.SPILLED,   E.RESTORE):        (S.RESTORING, Do.NOTHING),
    (S.SPILLED,   E.LOSE):           (S.LOST,      Do.RELEASE),
    (S.SPILLED,   E.DISCARD):        (S.GONE,      Do.RELEASE),
    (S.SPILLED,   E.DISCARD_PINNED): (S.LINGERING, Do.LINGER),
    (S.RESTORING, E.READ):           (S.SEALED,    Do.SERVE),
    (S.RESTORING, E.LOSE):           (S.LOST,      Do.RELEASE),
    (S.RESTORING, E.MOVE_FAILED):    (S.SPILLED,   Do.RELEASE_MEMORY),
    (S.RESTORING, E.DISCARD):        (S.ENDING,    Do.LINGER),
    (S.RESTORING, E.DISCARD_PINNED): (S.ENDING,    Do.LINGER),
    (S.EVICTED,   E.DISCARD):        (S.GONE,      Do.NOTHING),
    (S.EVICTED,   E.DISCARD_PINNED): (S.GONE,      Do.NOTHING),
    (S.LOST,      E.DISCARD):        (S.GONE,      Do.NOTHING),
    (S.LOST,      E.DISCARD_PINNED): (S.GONE,      Do.NOTHING),
    (S.ENDING,    E.LAST_UNPIN):     (S.ENDING,    Do.NOTHING),
    (S.ENDING,    E.MOVED):          (S.GONE,      Do.RELEASE),
    (S.ENDING,    E.MOVED_PINNED):   (S.LINGERING, Do.NOTHING),
    (S.LINGERING, E.LAST_UNPIN):     (S.GONE,      Do.RELEASE),
}
# fmt: on

#: What people are told of: where its bytes have gone.
TOLD = {
    E.DROP: "spilled",
    E.READ: "restored",
    E.EVICT: "evicted",
    E.LOSE: "lost",
}

#: In these a current copy has bytes, somewhere.
WITH_BYTES = frozenset({S.SEALED, S.SPILLING, S.SPILLED, S.RESTORING})


class OnDisk(NamedTuple):
    """A place in the spill file. ``checksum`` is that of the object's bytes; None while it is not known."""

    extent: Extent
    path: str
    checksum: int | None = None


class Copy:
    """The space that one writer fills, or filled, with an object of ``size_bytes``.

    ``verified``: what is on the disk was read once and is what was written. ``read_in_place``: somebody
    who has a pin reads it there. ``reported``: the owner was told that the bytes are gone.
    """

    __slots__ = ("disk", "extent", "read_in_place", "reported", "size_bytes", "state", "verified", "writer")

    def __init__(
        self, writer: bytes, extent: Extent | None, size_bytes: int, disk: OnDisk | None = None
    ) -> None:
        self.writer = writer
        self.extent = extent
        self.disk = disk
        self.size_bytes = size_bytes
        self.state = S.CREATING
        self.verified = False
        self.read_in_place = False
        self.reported = False

    @property
    def memory_bytes(self) -> int:
        """What it takes of the arena."""
        return 0 if self.extent is None else self.extent.size_bytes

    def step(self, event: E) -> Do:
        """Take the transition and say what it demands.

        Raises:
            ValueError: the table has no such transition.
        """
        try:
            self.state, do = TABLE[self.state, event]
        except KeyError:
            allowed = ", ".join(e.value for s, e in TABLE if s is self.state) or "nothing"
            raise ValueError(
                f"A {self.state.value} copy cannot meet {event.value!r}; allowed: {allowed}."
            ) from None
        return do
