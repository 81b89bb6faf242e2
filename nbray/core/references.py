"""What a process knows of the objects that it owns or borrows, and when each may go.

Called by:  runtime.owner, under its lock.
Imports:    nbray.model, nbray.wire.messages (Descriptor as a plain value).
Never:      sends, waits, deserializes, reads a clock.

An entry lives while anything holds it: handles (``ObjectRef`` instances), arguments (unfinished
tasks that take it), views (zero-copy arrays over it) and, until borrowers are counted, an escape
(its reference was pickled into something else) for the rest of the session. When the last hold goes
the entry is removed and appended to the caller's ``freed`` list; the caller frees or unpins the bytes.
This table is on the path of every task: it is plain methods on one dict, not events.
"""

from __future__ import annotations

from typing import Any

from nbray.wire.messages import Descriptor


class Entry:
    """One object. ``value`` is None until it is ready; ``failed`` says that it holds an error."""

    __slots__ = (
        "arguments", "asked", "dependents", "escaped", "failed", "handles", "object_id", "owner",
        "pinned", "value", "views", "waiters",
    )  # fmt: skip

    def __init__(self, object_id: bytes, owner: bytes | None) -> None:
        self.object_id = object_id
        self.owner = owner  # None: this process owns it
        self.value: bytes | Descriptor | None = None
        self.failed = False
        self.handles = 0
        self.arguments = 0
        self.views = 0
        self.escaped = False
        self.asked = False  # borrowed: the daemon was asked for it
        self.pinned = False  # borrowed: the daemon keeps it in place for this process
        self.waiters: list[Any] | None = None  # the host's waiters, told once when it becomes ready
        self.dependents: list[Any] | None = None  # tasks that take it as an argument

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
        entry = Entry(object_id, None)
        entry.handles = 1
        self.entries[object_id] = entry
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

    def ready(self, object_id: bytes, value: bytes | Descriptor, failed: bool) -> Entry | None:
        """The value arrived; final: a later one for the same object is ignored. None if unwanted."""
        entry = self.entries.get(object_id)
        if entry is None or entry.value is not None:
            return None
        entry.value = value
        entry.failed = failed
        return entry

    def _settle(self, entry: Entry, freed: list[Entry]) -> None:
        if not entry.held:
            del self.entries[entry.object_id]
            freed.append(entry)
