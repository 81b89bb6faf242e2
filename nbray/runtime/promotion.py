"""Small values on their way from their owner's memory to the store, without anybody waiting.

Called by:  runtime.objects.
Imports:    core.references, store.mapping, wire.
Never:      blocks, or loses a value: it stays in memory until it is in the store.

Two reasons to promote: the reference *escaped* (readers ask their daemon, not the owner, who may be busy),
or a task takes so many small values that they would not fit into its message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nbray.core.references import Entry
from nbray.store.mapping import Mapping
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    AbortObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    ObjectCreated,
    SealObject,
)

#: How long after a refusal the value of an escaped object is offered to the store again.
RETRY_S = 0.1


class Promotion:
    """One value that was offered. ``tasks`` take it as an argument, and wait until it is there."""

    __slots__ = ("entry", "tasks")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.tasks: list[Any] = []


class Promotions:
    """All methods: lock held.

    Args:
        tell_daemon: sends a message to the node daemon.
        arm: has ``housekeeping`` called at a time.
        ready: told each task for whom a value has arrived in the store.
        refused: told each task for whom it did not, and why.
    """

    def __init__(
        self,
        process_id: bytes,
        tell_daemon: Callable[[Message], None],
        arm: Callable[[float], None],
        ready: Callable[[Any], None],
        refused: Callable[[Any, CreateFailed, int], None],
    ) -> None:
        self._process_id = process_id
        self._tell_daemon = tell_daemon
        self._arm = arm
        self._ready = ready
        self._refused = refused
        self._under_way: dict[bytes, Promotion] = {}
        self._again: list[Entry] = []  # the store was full when they were tried

    def promote(self, entry: Entry, task: Any = None) -> None:
        """Offer a small value to the store; ``task`` waits for that."""
        promotion = self._under_way.get(entry.object_id)
        if promotion is None:
            value = entry.value
            assert type(value) is bytes
            promotion = self._under_way[entry.object_id] = Promotion(entry)
            self._tell_daemon(CreateObject(entry.object_id, self._process_id, len(value)))
        if task is not None:
            promotion.tasks.append(task)

    def created(self, message: ObjectCreated, mapping: Mapping) -> bool:
        """There is space. False if it was not asked for here."""
        object_id = message.descriptor.object_id
        promotion = self._under_way.pop(object_id, None)
        if promotion is None:
            return False
        entry = promotion.entry
        value = entry.value
        if type(value) is not bytes:
            self._tell_daemon(AbortObject(object_id))
            return True
        with mapping.writable(message.descriptor) as target:
            target[:] = value  # small: at most INLINE_MAX_BYTES
        self._tell_daemon(SealObject(object_id))
        if entry.held:
            entry.value = message.descriptor
        else:
            self._tell_daemon(FreeObjects([object_id]))
        for task in promotion.tasks:
            self._ready(task)
        return True

    def failed(self, message: CreateFailed) -> bool:
        """There is none. False if it was not asked for here."""
        promotion = self._under_way.pop(message.object_id, None)
        if promotion is None:
            return False
        entry = promotion.entry
        size_bytes = len(entry.value) if type(entry.value) is bytes else 0
        if entry.escaped and message.reason != "exists":
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
                if entry.held and type(entry.value) is bytes:
                    self.promote(entry)
