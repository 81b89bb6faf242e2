"""What a process knows of the objects that it owns or borrows, and when each may go.

Called by:  runtime.objects, under the loop's lock.
Imports:    msgspec, nbray.wire.base (Descriptor as a plain value).
Never:      sends, waits, deserializes, reads a clock.

An entry lives while anything holds it:

* *handles*: ``ObjectRef`` instances;
* *arguments*: unfinished tasks that take it, or take something that contains it;
* *views*: zero-copy arrays over it, and reads that are under way;
* *kept*: objects of this process that contain it, and once, for the life of the process, a pickle of
  its reference that a user made (nobody can know what became of that).

When the last hold goes, the entry goes, and is appended to the caller's ``freed`` list: the caller frees or
unpins the bytes. Unless it is an own object that is *shared*, whose reference left this process in a
value: then others may hold it, which the node's directory knows (``core.holds``). The owner *lets go*, and
the entry stays until it hears that the object is unheld.

An object of another owner that is held by more than a running task (whose submitter holds it) must be
known to the directory before this process lets go of whatever it came from: it is *fresh* until
``take_fresh``, and the caller tells the directory of it then.

This table is on the path of every task: it is plain methods on one dict, not events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from nbray.wire.base import Descriptor

#: An object and its owner.
Pair = tuple[bytes, bytes]

#: ``Entry.told``, of an own object: the directory was told nothing; that this process let go; the same,
#: and since then the object was held again, and again let go.
NOT_LET_GO, LET_GO, LET_GO_AGAIN = 0, 1, 2
#: Of a borrowed one: the directory knows nothing; it is fresh; it knows.
UNKNOWN, FRESH, KNOWN = 0, 1, 2


class Away(msgspec.Struct, frozen=True, gc=False):
    """Stands for the value of an object whose bytes were yielded: ask the daemon before you read them."""

    size_bytes: int


#: What an entry may hold.
Held = bytes | Descriptor | Away


class Entry(msgspec.Struct, eq=False, gc=False):
    """One object. ``value`` is None until it is ready; ``failed`` says that it holds an error.

    A struct without garbage collection, like ``core.tasks.Task`` and for the same reasons.
    """

    object_id: bytes
    owner: bytes | None  # None: this process owns it
    handles: int = 0
    arguments: int = 0
    views: int = 0
    kept: int = 0
    value: Held | None = None
    failed: bool = False
    shared: bool = False  # own: its reference left this process in a value
    exported: bool = False  # in a pickle that a user made
    told: int = 0  # what the directory of borrowers was told
    asked: bool = False  # the daemon was asked for it
    pinned: bool = False  # the daemon keeps it in place for this process
    doubtful: bool = False  # own: a copy may lie in the store of which this process does not know
    yielded: bool = False  # its bytes were yielded before they were here
    outline: Any = None  # the host's: how to read it without looking for its parts
    waiters: list[Any] | None = None  # the host's waiters, told once when it becomes ready
    dependents: list[Any] | None = None  # tasks that take it as an argument
    inner: tuple[bytes, ...] = ()  # objects whose references are in its value
    site: Any = None  # the host's: which line made it
    read: int = 0  # the host's: when its stored bytes were read last

    @property
    def held(self) -> bool:
        return bool(self.handles or self.arguments or self.views or self.kept)


class ReferenceTable:
    """All entries of one process.

    ``let_go`` lists own objects of which the directory must be told that this process holds them no more,
    ``fresh`` what was borrowed and may have to be told. ``unconfirmed``: the directory may not have read yet
    what ``take_fresh`` told it. A worker whose answer lets others let go asks it a question first, clears
    this as it does, and waits for the reply.
    """

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.let_go: list[bytes] = []
        self.unconfirmed = False
        self.fresh: list[Entry] = []

    def __len__(self) -> int:
        return len(self.entries)

    # --- holds come and go -----------------------------------------------------------------------

    def own(self, object_id: bytes) -> Entry:
        """A new object of this process, held by the one handle that the caller makes."""
        entry = self.entries[object_id] = Entry(object_id, None, 1)
        return entry

    def borrow(self, object_id: bytes, owner: bytes) -> Entry:
        """A handle on somebody else's object was made here (again)."""
        entry = self._borrowed(object_id, owner)
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

    def open_views(self, entry: Entry, number: int) -> None:
        """So many views of it are about to be made, or reads begin."""
        entry.views += number

    def close_view(self, object_id: bytes, freed: list[Entry]) -> None:
        entry = self.entries.get(object_id)
        if entry is None:
            return
        entry.views -= 1
        assert entry.views >= 0, f"view of {object_id.hex()} closed twice"
        self._settle(entry, freed)

    # --- references inside values ----------------------------------------------------------------

    def share(self, object_ids: Iterable[bytes]) -> list[Entry]:
        """Their references are in a value that leaves this process; returns own ones, the first time.

        With a reference leave those that its object contains.
        """
        shared = []
        leaving = list(object_ids)
        while leaving:  # not recursive: objects may contain each other in long chains
            entry = self.entries.get(leaving.pop())
            if entry is not None and entry.owner is None and not entry.shared:
                entry.shared = True
                shared.append(entry)
                leaving += entry.inner
        return shared

    def export(self, object_id: bytes) -> list[Entry]:
        """A user pickled its reference by hand: hold it for the life of this process. As ``share``."""
        entry = self.entries.get(object_id)
        if entry is None or entry.exported:
            return []
        entry.exported = True
        entry.kept += 1
        self._freshen(entry)
        return self.share([object_id])

    def contain(self, outer: Entry, inner: Iterable[Pair], process_id: bytes) -> None:
        """The value of an own object has references to these in it: it holds them for as long as it lives.

        Those of others become known here, if they were not. If the outer object is shared, share these. What
        a value has that came before this one (it was lost, and made again) stays: somebody may have read it.
        """
        found = dict.fromkeys(outer.inner)
        for object_id, owner in inner:
            if object_id in found or object_id == outer.object_id:  # in itself: it would never go
                continue
            entry = self.entries.get(object_id)
            if entry is None:
                if owner == process_id:
                    continue  # freed by force, or not ours to begin with
                entry = self._borrowed(object_id, owner)
            entry.kept += 1
            self._freshen(entry)
            found[object_id] = None
        outer.inner = tuple(found)

    # --- the directory of borrowers ------------------------------------------------------------------

    def take_fresh(self) -> list[Pair]:
        """Borrowed objects that the directory must be told of before anything else is let go of."""
        if not self.fresh:
            return []
        fresh, self.fresh = self.fresh, []
        pairs = []
        for entry in fresh:
            if entry.told == FRESH:
                if (entry.handles or entry.kept or entry.arguments) and entry.owner is not None:
                    entry.told = KNOWN
                    pairs.append((entry.object_id, entry.owner))
                else:
                    entry.told = UNKNOWN
        self.unconfirmed |= bool(pairs)
        return pairs

    def released(self, freed: Iterable[Entry]) -> list[bytes]:
        """Of which of these the directory must be told, after ``take_fresh``, that they are borrowed no more.

        Not of those that have come back since: it would take the new hold for the old one.
        """
        released = []
        for entry in freed:
            if entry.told == KNOWN and entry.owner is not None:
                now = self.entries.get(entry.object_id)
                if now is None or now.told != KNOWN:
                    released.append(entry.object_id)
        return released

    def take_let_go(self) -> list[bytes]:
        """Own objects of which the directory must be told that this process holds them no more."""
        if not self.let_go:
            return []
        taken, self.let_go = self.let_go, []
        return taken

    def unheld(self, object_ids: Iterable[bytes], freed: list[Entry]) -> None:
        """Nobody else holds these: those that are not held here again are gone."""
        for object_id in object_ids:
            entry = self.entries.get(object_id)
            if entry is None or entry.told == NOT_LET_GO or entry.owner is not None:
                continue
            told, entry.told = entry.told, NOT_LET_GO
            if entry.held:
                continue
            if told == LET_GO_AGAIN:  # others may have got it from us in between
                self._let_go(entry)
            else:
                self._remove(entry, freed)

    # --- values ----------------------------------------------------------------------------------

    def ready(self, entry: Entry, value: Held, failed: bool) -> bool:
        """The value arrived; final: a later one is ignored. False if nobody wants it (any more)."""
        if entry.value is not None or not (
            entry.handles or entry.held or (entry.told and entry.owner is None)
        ):
            return False
        entry.value = value
        entry.failed = failed
        return True

    def _borrowed(self, object_id: bytes, owner: bytes) -> Entry:
        entry = self.entries.get(object_id)
        if entry is None:
            entry = self.entries[object_id] = Entry(object_id, owner)
        if entry.told == UNKNOWN:
            self._freshen(entry)
        return entry

    def _freshen(self, entry: Entry) -> None:
        if entry.owner is not None and entry.told == UNKNOWN:
            entry.told = FRESH
            self.fresh.append(entry)

    def _let_go(self, entry: Entry) -> None:
        entry.told = LET_GO
        self.let_go.append(entry.object_id)

    def _settle(self, entry: Entry, freed: list[Entry]) -> None:
        if entry.handles or entry.held:  # the first alone is the answer, as a rule
            return
        if not entry.shared:
            self._remove(entry, freed)
        elif entry.told == NOT_LET_GO:
            self._let_go(entry)
        else:
            entry.told = LET_GO_AGAIN

    def _remove(self, entry: Entry, freed: list[Entry]) -> None:
        """It is gone, and with it its hold on what it contains."""
        del self.entries[entry.object_id]
        freed.append(entry)
        if entry.inner:
            self._release_inner(entry, freed)

    def _release_inner(self, entry: Entry, freed: list[Entry]) -> None:
        loose = [entry]
        while loose:  # not recursive: objects may contain each other in long chains
            outer = loose.pop()
            inner, outer.inner = outer.inner, ()
            for object_id in inner:
                held = self.entries.get(object_id)
                if held is None:
                    continue
                held.kept -= 1
                assert held.kept >= 0, f"{object_id.hex()} was contained less often than that"
                if held.held:
                    continue
                if held.shared:
                    self._settle(held, freed)
                else:
                    del self.entries[object_id]
                    freed.append(held)
                    loose.append(held)
