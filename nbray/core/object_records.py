"""What the node's directory keeps of one object, and the order in which objects were used.

Called by:  core.{objects,object_moves,spilling}.
Imports:    nbray.core.object_copies.
Never:      sends; decides.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from nbray.core.object_copies import WITH_BYTES, Copy, S


class Record:
    """One object ID: its copies, and who has bytes of them in hand.

    A process has an object *in hand* when it may read it without asking: the owner from the seal on,
    until it yields or frees it; a reader while it has a pin. Both are counted over all copies, since an
    unpin or a yield names the object only: who read an old copy and then the new one may let go of
    either first.
    """

    __slots__ = (
        "current", "freed", "in_hand", "lingering", "object_id", "owner", "pins", "readers", "weak",
        "writing",
    )  # fmt: skip

    def __init__(self, object_id: bytes, owner: bytes) -> None:
        self.object_id = object_id
        self.owner = owner
        self.current: Copy | None = None
        self.writing: dict[bytes, Copy] = {}  # by writer: CREATING or DOOMED
        self.lingering: list[Copy] = []  # LINGERING or ENDING
        self.readers: dict[bytes, int] = {}  # process -> pins
        self.pins = 0
        self.in_hand = False  # of the owner
        self.freed = False
        self.weak = False  # may be evicted

    @property
    def in_use(self) -> bool:
        return self.in_hand or self.pins > 0

    @property
    def has_bytes(self) -> bool:
        """Whether the current copy is somewhere."""
        return self.current is not None and self.current.state in WITH_BYTES

    @property
    def loss(self) -> str:
        """What became of its bytes, if they are gone and nobody has made them again."""
        return self.current.state.value if self.current is not None and not self.has_bytes else ""

    @property
    def is_empty(self) -> bool:
        return self.current is None and not self.writing and not self.lingering and not self.pins

    @property
    def state(self) -> str:
        """In a word, for people."""
        copies = self.copies()
        return copies[0].state.value if copies else ""

    @property
    def memory_bytes(self) -> int:
        """What all copies take of the arena."""
        return sum(copy.memory_bytes for copy in self.copies())

    def copies(self) -> list[Copy]:
        current = [self.current] if self.current is not None else []
        return [*current, *self.writing.values(), *self.lingering]

    def hands(self) -> list[bytes]:
        """The processes that have it in hand."""
        own = [self.owner] if self.in_hand and self.owner not in self.readers else []
        return [*own, *self.readers]


class Recency:
    """Objects with sealed bytes in the arena, those longest unused first."""

    def __init__(self) -> None:
        self._idle: OrderedDict[bytes, Record] = OrderedDict()
        self._busy: OrderedDict[bytes, Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def update(self, record: Record, *, used: bool) -> None:
        """Something about it changed; ``used``: it was sealed, asked for or let go of."""
        object_id = record.object_id
        place = self._place_of(record)
        for other in (self._idle, self._busy):
            if other is not place or used:
                other.pop(object_id, None)
        if place is not None:
            place.setdefault(object_id, record)

    def _place_of(self, record: Record) -> OrderedDict[bytes, Record] | None:
        current = record.current
        is_here = (
            current is not None and current.extent is not None and current.state in {S.SEALED, S.SPILLING}
        )
        if record.in_use:
            return self._busy if is_here or record.lingering else None
        return self._idle if is_here else None

    def idle(self) -> Iterator[Record]:
        """Those that nobody has in hand and no thread is at. (What is done to one of them moves it.)"""
        for record in list(self._idle.values()):
            if record.current is not None and record.current.state is S.SEALED:
                yield record

    def busy(self) -> Iterator[Record]:
        """Those that somebody has in hand, or older copies of them."""
        return iter(self._busy.values())

    @property
    def idle_bytes(self) -> int:
        return sum(record.memory_bytes for record in self._idle.values())


class Waiters:
    """Who waits for which object, and whom each took for its owner."""

    def __init__(self) -> None:
        self._of: dict[bytes, dict[bytes, bytes]] = {}  # object -> reader -> owner

    def __len__(self) -> int:
        """Number of objects."""
        return len(self._of)

    def __contains__(self, object_id: bytes) -> bool:
        return object_id in self._of

    def add(self, object_id: bytes, reader: bytes, owner: bytes) -> None:
        self._of.setdefault(object_id, {})[reader] = owner

    def of(self, object_id: bytes) -> dict[bytes, bytes]:
        """Readers of one object, each with the owner that it named. A copy."""
        return dict(self._of.get(object_id, ()))

    def take(self, object_id: bytes) -> dict[bytes, bytes]:
        """The same; they wait no more."""
        return self._of.pop(object_id, {})

    def forget(self, object_id: bytes, reader: bytes) -> None:
        readers = self._of[object_id]
        del readers[reader]
        if not readers:
            del self._of[object_id]

    def process_lost(self, process: bytes) -> None:
        """It waits no more."""
        for object_id in [o for o, readers in self._of.items() if process in readers]:
            self.forget(object_id, process)

    def of_owner(self, owner: bytes) -> list[tuple[bytes, bytes]]:
        """(object, reader) of all who named this owner."""
        return [(o, r) for o, readers in self._of.items() for r, named in readers.items() if named == owner]
