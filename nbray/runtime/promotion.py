"""Small values on their way from their owner's memory to the store, without anybody waiting.

Called by:  runtime.objects; runtime.process, before each poll.
Imports:    core.references, runtime.slabs, store.mapping, wire.
Never:      blocks, or loses a value: it stays in memory until it is in the store.

Two reasons to promote: the reference is *shared* (readers ask their daemon, not the owner, who may be busy),
or a task takes so many small values that they would not fit into its message. What comes together goes
into a slab together: thousands of references in one list make thousands of values to move.

All methods: lock held.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nbray.core.references import Entry
from nbray.runtime.refs import Home
from nbray.runtime.slabs import SlabWriter, map_in
from nbray.store.mapping import Mapping
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    ObjectCreated,
    SealObject,
)

#: How long after a refusal the value of a shared object is offered to the store again.
RETRY_S = 0.1


class Host(Protocol):
    """What knows the entries, and who their owner is."""

    home: Home

    def is_alive(self, entry: Entry) -> bool:
        """Whether it is still in the table."""
        ...

    def inner_of(self, entry: Entry) -> Sequence[tuple[bytes, bytes]]:
        """The references in its value, with their owners."""
        ...


class Promotion:
    """One value that was offered. ``tasks`` take it as an argument, and wait until it is there."""

    __slots__ = ("entry", "is_wanted", "tasks")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.is_wanted = True
        self.tasks: list[Any] = []


class Promotions:
    """The values of one process that move.

    Args:
        host: what knows the entries.
        tell_daemon: sends a message to the node daemon, soon and in order with all others.
        slabs: space that this process has.
        arm: has ``housekeeping`` called at a time.
        ready: told each task for whom a value has arrived in the store.
        refused: told each task for whom it did not, and why.
    """

    def __init__(
        self,
        host: Host,
        tell_daemon: Callable[[Message], None],
        slabs: SlabWriter,
        arm: Callable[[float], None],
        ready: Callable[[Any], None],
        refused: Callable[[Any, CreateFailed, int], None],
    ) -> None:
        self.mapping: Mapping | None = None
        self.node_id = b""
        self._host = host
        self._tell_daemon = tell_daemon
        self._slabs = slabs
        self._arm = arm
        self._ready = ready
        self._refused = refused
        self._under_way: dict[bytes, Promotion] = {}
        self._queue: deque[Promotion] = deque()  # not asked for yet
        self._again: list[Entry] = []  # the store was full when they were tried

    @property
    def is_due(self) -> bool:
        """Whether ``advance`` has something to do."""
        return bool(self._queue)

    def promote(self, entry: Entry, task: Any = None) -> None:
        """Offer a small value to the store; ``task`` waits for that. ``advance`` begins it."""
        promotion = self._under_way.get(entry.object_id)
        if promotion is None:
            promotion = self._under_way[entry.object_id] = Promotion(entry)
            self._queue.append(promotion)
        if task is not None:
            promotion.tasks.append(task)

    def withdraw(self, entry: Entry) -> None:
        """Its value is not to be in the store any more: it was freed by force."""
        promotion = self._under_way.get(entry.object_id)
        if promotion is not None:
            promotion.is_wanted = False
        if entry in self._again:
            self._again.remove(entry)

    def advance(self) -> None:
        """Move what was offered: into a slab, or ask for space. Stops while a slab is on its way."""
        queue, mapping = self._queue, self.mapping
        while queue:
            promotion = queue[0]
            value = promotion.entry.value
            if (
                type(value) is not bytes
                or not promotion.is_wanted
                or not self._host.is_alive(promotion.entry)
            ):
                queue.popleft()
                del self._under_way[promotion.entry.object_id]
                self._tell_ready(promotion)
                continue
            # A single one is not worth a slab.
            may_slab = mapping is not None and (len(queue) > 1 or self._slabs.is_open)
            if may_slab and self._move_into_slab(promotion, value):
                queue.popleft()
                del self._under_way[promotion.entry.object_id]
                self._tell_ready(promotion)
                continue
            if may_slab and self._slabs.is_asked:
                return
            queue.popleft()
            self._tell_daemon(CreateObject(promotion.entry.object_id, self._host.home.process_id, len(value)))

    def _move_into_slab(self, promotion: Promotion, value: bytes) -> bool:
        entry, mapping = promotion.entry, self.mapping
        assert mapping is not None
        piece = (
            self._slabs.carve(len(value)) if self._slabs.takes(len(value), mapping.capacity_bytes) else None
        )
        if piece is None:
            return False
        place = Descriptor(entry.object_id, self.node_id, piece.offset, len(value), piece.generation)
        map_in(piece, mapping)
        with mapping.writable(place) as target:
            target[:] = value
        inner = tuple(self._host.inner_of(entry))
        self._tell_daemon(
            AdoptObject(
                entry.object_id,
                self._host.home.process_id,
                piece.generation,
                piece.offset,
                len(value),
                False,
                inner,
            )
        )
        self._slabs.finished(piece)
        entry.value = place
        return True

    def created(self, message: ObjectCreated) -> bool:
        """There is space. False if it was not asked for here."""
        object_id = message.descriptor.object_id
        promotion = self._under_way.pop(object_id, None)
        if promotion is None:
            return False
        entry = promotion.entry
        value = entry.value
        assert self.mapping is not None
        if type(value) is not bytes or not promotion.is_wanted:
            self._tell_daemon(AbortObject(object_id))
        else:
            with self.mapping.writable(message.descriptor) as target:
                target[:] = value  # small: at most INLINE_MAX_BYTES
            self._tell_daemon(SealObject(object_id, tuple(self._host.inner_of(entry))))
            if self._host.is_alive(entry):
                entry.value = message.descriptor
            else:
                self._tell_daemon(FreeObjects([object_id]))
        self._tell_ready(promotion)
        return True

    def _tell_ready(self, promotion: Promotion) -> None:
        for task in promotion.tasks:
            self._ready(task)

    def failed(self, message: CreateFailed) -> bool:
        """There is none. False if it was not asked for here."""
        promotion = self._under_way.pop(message.object_id, None)
        if promotion is None:
            return False
        entry = promotion.entry
        size_bytes = len(entry.value) if type(entry.value) is bytes else 0
        if entry.shared and promotion.is_wanted and message.reason != "exists":
            # Somebody may wait for it: try again until there is room (housekeeping).
            self._again.append(entry)
            self._arm(time.monotonic() + RETRY_S)  # nothing else may be due here
        for task in promotion.tasks:
            self._refused(task, message, size_bytes)
        return True

    def housekeeping(self) -> None:
        """Offer again what was refused."""
        if self._again:
            again, self._again = self._again, []
            for entry in again:
                if self._host.is_alive(entry) and type(entry.value) is bytes:
                    self.promote(entry)
