"""What a process knows of the objects that it owns or borrows, and when each may go.

Called by:  runtime.owner, under its lock.
Imports:    msgspec, nbray.wire.messages (Descriptor as a plain value).
Never:      sends, waits, deserializes, reads a clock.

An entry lives while anything holds it: handles (``ObjectRef`` instances), arguments (unfinished
tasks that take it), views (zero-copy arrays over it) and, until borrowers are counted, an escape
(its reference was pickled into something else) for the rest of the session. When the last hold goes
the entry is removed and appended to the caller's ``freed`` list; the caller frees or unpins the bytes.
This table is on the path of every task: it is plain methods on one dict, not events.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from nbray.wire.base import Descriptor


class Entry(msgspec.Struct, eq=False, gc=False):
    """One object. ``value`` is None until it is ready; ``failed`` says that it holds an error.

    A struct without garbage collection, like ``core.tasks.Task`` and for the same reasons.
    """

    object_id: bytes
    owner: bytes | None  # None: this process owns it
    handles: int = 0
    arguments: int = 0
    views: int = 0
    value: bytes | Descriptor | None = None
    failed: bool = False
    escaped: bool = False
    asked: bool = False  # borrowed: the daemon was asked for it
    outline: Any = None  # the host's: how to read it without looking for its parts
    pinned: bool = False  # borrowed: the daemon keeps it in place for this process
    waiters: list[Any] | None = None  # the host's waiters, told once when it becomes ready
    dependents: list[Any] | None = None  # tasks that take it as an argument

    @property
    def held(self) -> bool:
        return bool(self.handles or self.arguments or self.views or self.escaped)


class ReferenceTable:
    """All entries of one process."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def own(self, object_id: bytes) -> Entry:
        """A new object of this process, held by the one handle that the caller makes."""
        entry = self.entries[object_id] = Entry(object_id, None, 1)
        return entry

    def borrow(self, object_id: bytes, owner: bytes) -> Entry:
        """A handle on somebody else's object was made here (again)."""
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, owner)
        entry.handles += 1
        return entry

    def borrow_argument(self, object_id: bytes, owner: bytes) -> Entry:
        """A task that runs here was given this; its owner keeps it until the task is over.

        If the entry has no value yet, the caller delivers it: others here may wait for the same one.
        """
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, owner)
        entry.arguments += 1
        return entry

    def add_handle(self, object_id: bytes) -> None:
        self.entries[object_id].handles += 1

    def drop_handle(self, object_id: bytes, freed: list[Entry]) -> None:
        entry = self.entries.get(object_id)
        if entry is None:
            return
        entry.handles -= 1
        assert entry.handles >= 0, f"handle of {object_id.hex()} dropped twice"
        if not entry.handles:
            self._settle(entry, freed)

    def drop_handles(self, dropped: deque[bytes], freed: list[Entry]) -> None:
        """``drop_handle`` for all that have come together; thousands do."""
        take, entries = dropped.popleft, self.entries
        while dropped:
            entry = entries.get(take())
            if entry is not None:
                entry.handles -= 1
                assert entry.handles >= 0, f"handle of {entry.object_id.hex()} dropped twice"
                if not entry.handles:
                    self._settle(entry, freed)

    def hold_argument(self, object_id: bytes) -> Entry:
        entry = self.entries[object_id]
        entry.arguments += 1
        return entry

    def release_argument(self, object_id: bytes, freed: list[Entry]) -> None:
        entry = self.entries[object_id]
        entry.arguments -= 1
        assert entry.arguments >= 0, f"argument {object_id.hex()} released twice"
        self._settle(entry, freed)

    def open_view(self, object_id: bytes) -> None:
        self.entries[object_id].views += 1

    def close_view(self, object_id: bytes, freed: list[Entry]) -> None:
        entry = self.entries.get(object_id)
        if entry is None:
            return
        entry.views -= 1
        assert entry.views >= 0, f"view of {object_id.hex()} closed twice"
        self._settle(entry, freed)

    def escape(self, object_id: bytes) -> bool:
        """Its reference was pickled into something: pin it. True the first time, for own objects.

        Borrowed objects have escaped at their owner already.
        """
        entry = self.entries.get(object_id)
        if entry is None or entry.owner is not None or entry.escaped:
            return False
        entry.escaped = True
        return True

    def ready(self, entry: Entry, value: bytes | Descriptor, failed: bool) -> bool:
        """The value arrived; final: a later one is ignored. False if nobody wants it (any more)."""
        if entry.value is not None or not (entry.handles or entry.held):
            return False
        entry.value = value
        entry.failed = failed
        return True

    def _settle(self, entry: Entry, freed: list[Entry]) -> None:
        if not (entry.handles or entry.held):  # the first alone is the answer, as a rule
            del self.entries[entry.object_id]
            freed.append(entry)
