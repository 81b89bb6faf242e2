"""Events of a node: what its processes send and what the daemon itself sees, into the log and to Redis.

Called by:  node.daemon.
Imports:    nbray.events, wire.
Never:      publishes row by row: the daemon's own rows leave a few times a second, in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nbray.events.log import EventLog
from nbray.events.ring import EventRing
from nbray.events.schema import OBJECT
from nbray.wire.base import Message
from nbray.wire.messages import EventBatch
from nbray.wire.object_messages import (
    AdoptObject,
    CreateObject,
    FreeObjects,
    SealObject,
)

PERIOD_S = 0.25
_KEPT = 10_000


class EventFeed:
    """The daemon's ring, its log of all events, and the way to Redis.

    Args:
        publish: takes a batch for monitors on other nodes.
        call_later: calls back on the loop after a delay in seconds.
    """

    def __init__(
        self,
        node_id: bytes,
        publish: Callable[[EventBatch], None],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.log = EventLog()
        self._node_id = node_id
        self._publish = publish
        self._call_later = call_later
        self._ring = EventRing(_KEPT)
        self._planned = False

    def received(self, process_id: bytes, batch: EventBatch) -> None:
        """A driver or worker sent its rows."""
        self.log.add(process_id, batch.rows, batch.dropped)
        self.log.add_folded(batch.folded)
        self._publish(batch)

    def record(
        self, kind: str, identifier: bytes, state: str, name: str = "", detail: dict[str, Any] | None = None
    ) -> None:
        """The daemon itself saw something change."""
        self._ring.append((time.time_ns() // 1000, kind, identifier, state, name, "", detail))
        if not self._planned:
            self._planned = True
            self._call_later(PERIOD_S, self.flush)

    def record_object(self, message: Message) -> None:
        """A message about objects was served: note what it says became of them."""
        if isinstance(message, SealObject):
            self.record(OBJECT, message.object_id, "sealed")
        elif isinstance(message, AdoptObject):
            self.record(OBJECT, message.object_id, "created", detail={"size_bytes": message.size_bytes})
            self.record(OBJECT, message.object_id, "sealed")
        elif isinstance(message, CreateObject):
            self.record(OBJECT, message.object_id, "created", detail={"size_bytes": message.size_bytes})
        elif isinstance(message, FreeObjects):
            for object_id in message.object_ids:
                self.record(OBJECT, object_id, "freed")

    def object_moved(self, object_id: bytes, state: str, size_bytes: int) -> None:
        """The store made room, or brought something back: "spilled", "restored", "evicted" or "lost"."""
        self.record(OBJECT, object_id, state, detail={"size_bytes": size_bytes})

    def flush(self) -> None:
        """Take in and publish what the daemon recorded since the last time."""
        self._planned = False
        rows, dropped = self._ring.take(_KEPT)
        if rows or dropped:
            self.received(self._node_id, EventBatch(self._node_id, dropped, [], [list(row) for row in rows]))
