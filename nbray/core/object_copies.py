"""The life of one copy of an object: which state follows which event, and what must then be done.

Called by:  core.objects, its only user.
Imports:    nbray.core.allocator (Extent).
Never:      knows of readers, owners or messages.
"""

from __future__ import annotations

import enum

from nbray.core.allocator import Extent


class S(enum.Enum):
    """State of one copy."""

    CREATING = "creating"  # its writer fills it
    DOOMED = "doomed"  # its writer fills it, and nobody wants it any more
    SEALED = "sealed"  # the current copy; readers may pin it
    LINGERING = "lingering"  # freed or superseded, but somebody may still read it
    GONE = "gone"  # its space was returned


class E(enum.Enum):
    """What can happen to it."""

    SEAL = "seal"
    SEAL_PINNED = "seal while pinned"  # somebody who heard of it before us reads it already
    ABORT = "abort"
    WRITER_LOST = "writer lost"
    DISCARD = "discard"  # freed by its owner, or a newer copy was sealed; nobody reads the object
    DISCARD_PINNED = "discard while pinned"
    LAST_UNPIN = "last unpin"


class Do(enum.Enum):
    """What the directory must do then."""

    NOTHING = "nothing"
    PUBLISH = "publish"  # make it the current copy, pin it for each waiter and tell them
    LINGER = "linger"  # keep it until the last unpin
    RELEASE = "release"  # return its space


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
    (S.LINGERING, E.LAST_UNPIN):     (S.GONE,      Do.RELEASE),
}
# fmt: on


class Copy:
    """One extent that one writer fills, or filled, with an object of ``size_bytes``."""

    __slots__ = ("extent", "size_bytes", "state", "writer")

    def __init__(self, writer: bytes, extent: Extent, size_bytes: int) -> None:
        self.writer = writer
        self.extent = extent
        self.size_bytes = size_bytes
        self.state = S.CREATING

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
