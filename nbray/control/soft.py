"""Soft writes that wait for Redis: bounded, the newest of each slot only.

Called by:  control.client.
Imports:    the standard library.
Never:      grows without bound or waits: when it is full the oldest goes, and is counted.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

#: A command and its arguments, as Redis takes them: ``("SET", key, value)``.
Command = tuple[Any, ...]

MAX_SLOTS = 4096


class SoftWrites:
    """Slots in the order of their last change.

    Attributes:
        dropped: slots that were pushed out by newer ones before they were sent.
        refused: commands that the server answered with an error.
    """

    def __init__(self, max_slots: int = MAX_SLOTS) -> None:
        self.dropped = 0
        self.refused = 0
        self._max_slots = max_slots
        self._pending: dict[str, tuple[Command, ...]] = {}
        self._kept: dict[str, tuple[Command, ...]] = {}

    @property
    def has_pending(self) -> bool:
        return bool(self._pending)

    def put(self, slot: str, commands: tuple[Command, ...], *, keep: bool) -> None:
        """Queue commands in place of older ones of this slot."""
        self._queue(slot, commands)
        self._kept.pop(slot, None)
        if keep:
            self._kept[slot] = commands
            if len(self._kept) > self._max_slots:
                del self._kept[next(iter(self._kept))]
                self.dropped += 1

    def forget(self, slot: str) -> None:
        """The fact is no more: neither send it nor bring it back."""
        self._pending.pop(slot, None)
        self._kept.pop(slot, None)

    def requeue_kept(self) -> None:
        """A server that knows nothing: queue every kept slot in front of what is pending."""
        self._pending = {**self._kept, **self._pending}

    def take(self, max_slots: int) -> list[tuple[str, tuple[Command, ...]]]:
        """Take the oldest pending slots out."""
        slots = list(islice(self._pending, max_slots))
        return [(slot, self._pending.pop(slot)) for slot in slots]

    def give_back(self, batch: list[tuple[str, tuple[Command, ...]]]) -> None:
        """What was taken was not sent: it is pending again, in front, where nothing newer came."""
        self._pending = {**dict(batch), **self._pending}
        self._trim()

    def _queue(self, slot: str, commands: tuple[Command, ...]) -> None:
        self._pending.pop(slot, None)
        self._pending[slot] = commands
        self._trim()

    def _trim(self) -> None:
        while len(self._pending) > self._max_slots:
            del self._pending[next(iter(self._pending))]
            self.dropped += 1
