"""All that the daemon knows of the objects in its care, as plain facts for people.

Called by:  store.server.
Imports:    core.{holds,object_copies,object_records,objects}, wire.memory_messages.
Never:      changes anything.
"""

from __future__ import annotations

import heapq

from nbray.core.holds import Holdings, HoldTable
from nbray.core.object_copies import Copy, S
from nbray.core.object_records import Record
from nbray.core.objects import ObjectTable
from nbray.wire.memory_messages import EVICTED, IN_STORE, LOST, SPILLED, WRITING, StoredFacts

#: So many objects are described, the largest ones: it has to fit into a message.
OBJECTS_MAX = 50_000

#: States of the newest copy: what people call them, and where the bytes are.
_WORDS = {
    S.CREATING: (WRITING, "store"),
    S.SEALED: (IN_STORE, "store"),
    S.SPILLING: (IN_STORE, "store"),
    S.SPILLED: (SPILLED, "disk"),
    S.RESTORING: (SPILLED, "disk"),
    S.EVICTED: (EVICTED, ""),
    S.LOST: (LOST, ""),
}
#: Nobody will ask for it any more, but it takes space: somebody reads or writes it.
_ENDING = ("being freed", "store")


def overview(table: ObjectTable, holds: HoldTable) -> tuple[list[StoredFacts], int]:
    """The objects that have a copy, and how many smaller ones were left out."""
    known = [(record, copies[0]) for record in table.records() if (copies := record.copies())]
    left_out = max(0, len(known) - OBJECTS_MAX)
    if left_out:
        known = heapq.nlargest(OBJECTS_MAX, known, key=lambda pair: pair[1].size_bytes)
    return [_facts(record, copy, holds.holdings(record.object_id)) for record, copy in known], left_out


def state_of(table: ObjectTable, object_id: bytes) -> str:
    """Where an object stands, in the same words; "" if nothing is known of it here."""
    record = table.record(object_id)
    copies = record.copies() if record is not None else []
    return _WORDS.get(copies[0].state, _ENDING)[0] if copies else ""


def _facts(record: Record, copy: Copy, held: Holdings) -> StoredFacts:
    state, place = _WORDS.get(copy.state, _ENDING)
    if place and copy.extent is None:
        place = "disk"  # too large for the arena
    return StoredFacts(
        record.object_id,
        record.owner,
        copy.size_bytes,
        state,
        place,
        list(record.readers.items()),
        list(held.holders),
        held.parcels,
        list(held.containers),
    )
