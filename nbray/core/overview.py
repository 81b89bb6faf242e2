"""All that the daemon knows of the objects in its care, as plain facts for people.

Called by:  store.server.
Imports:    core.{holds,object_copies,objects}, wire.memory_messages.
Never:      changes anything.
"""

from __future__ import annotations

import heapq

from nbray.core.holds import HoldTable
from nbray.core.object_copies import Copy
from nbray.core.objects import ObjectTable
from nbray.wire.memory_messages import EVICTED, IN_STORE, LOST, SPILLED, WRITING, StoredFacts

#: So many objects are described, the largest ones: it has to fit into a message.
OBJECTS_MAX = 50_000

#: States of the newest copy: what people call them, and where the bytes are.
_WORDS = {
    "creating": (WRITING, "store"),
    "sealed": (IN_STORE, "store"),
    "spilling": (IN_STORE, "store"),
    "spilled": (SPILLED, "disk"),
    "restoring": (SPILLED, "disk"),
    "evicted": (EVICTED, ""),
    "lost": (LOST, ""),
}
#: Nobody will ask for it any more, but it takes space: somebody reads or writes it.
_ENDING = ("being freed", "store")


def overview(table: ObjectTable, holds: HoldTable) -> tuple[list[StoredFacts], int]:
    """The objects that have a copy, and how many smaller ones were left out."""
    newest = table.newest_copies()
    left_out = max(0, len(newest) - OBJECTS_MAX)
    if left_out:
        newest = heapq.nlargest(OBJECTS_MAX, newest, key=lambda known: known[2].size_bytes)
    pins = table.pins()
    facts = [
        _facts(object_id, owner, copy, pins.get(object_id, []), holds) for object_id, owner, copy in newest
    ]
    return facts, left_out


def _facts(
    object_id: bytes, owner: bytes, copy: Copy, pins: list[tuple[bytes, int]], holds: HoldTable
) -> StoredFacts:
    state, place = _WORDS.get(copy.state.value, _ENDING)
    held = holds.holdings(object_id)
    holders, containers = list(held.holders), list(held.containers)
    return StoredFacts(
        object_id, owner, copy.size_bytes, state, place, pins, holders, held.parcels, containers
    )
