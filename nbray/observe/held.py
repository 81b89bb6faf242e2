"""Who holds which object: what processes and the daemon said of it, put together.

Called by:  api.looking.
Imports:    nbray.wire.memory_messages.
Never:      asks anybody, words anything for people: it makes plain data.

A row is a dict::

    object      str    the ID, in hex
    size_bytes  int    None as long as nobody knows
    state       str    pending, inline, in store, being written, spilled, evicted, lost or failed;
                       actor: the handles of an actor hold it, and it has no value
    place       str    owner, store, disk; "" if there are no bytes
    owner       dict   process ("driver", "worker" or "actor"), pid (0: it is gone)
    holders     list   of dicts: kind, name, count, pid (0: this process)
    origin      dict   kind ("put", "task", "actor", ""), name (of the task's function, or of the class),
                       cell, file, line
    leak        str    "output": held by Out[n], _ or the last traceback alone; "unknown": nobody known; ""

Kinds of holders: variable, output, traceback (named references here), unknown (unnamed ones), worker, actor
(by its class) and driver (references in another process), argument (of an unfinished task), container (an
object that holds it), view (arrays over it), pickle (a reference that was pickled by hand), parcel (a value
on its way).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nbray.wire.memory_messages import (
    FAILED,
    IN_STORE,
    INLINE,
    PENDING,
    EntryFacts,
    MemoryReport,
    Origin,
    ProcessFacts,
    StoredFacts,
)

OUTPUT_LEAK, UNKNOWN_LEAK = "output", "unknown"
#: What a notebook keeps by itself.
_BY_ITSELF = frozenset({"output", "traceback"})

#: Names by object ID, each a pair of kind and text.
NamesById = Mapping[bytes, Sequence[tuple[str, str]]]


class Known:
    """All that was said, by object.

    Args:
        report: the daemon's and others'.
        own: the asker's.
        refs: names of the asker's references.
        arrays: names of its arrays over the store.
        named: how many of its references have names.
    """

    def __init__(
        self,
        report: MemoryReport,
        own: ProcessFacts,
        refs: NamesById,
        arrays: NamesById,
        named: Mapping[bytes, int],
    ) -> None:
        self._own = own
        self._refs = refs
        self._arrays = arrays
        self._named = named
        self._processes = {facts.process_id: facts for facts in (own, *report.processes)}
        self._silent = dict(report.silent)
        self._stored = {facts.object_id: facts for facts in report.stored}
        self._entries: dict[bytes, list[tuple[ProcessFacts, EntryFacts]]] = {}
        self._containers: dict[bytes, set[bytes]] = {}
        for process in self._processes.values():
            for entry in process.entries:
                self._entries.setdefault(entry.object_id, []).append((process, entry))
                for inner in entry.inner:
                    self._containers.setdefault(inner, set()).add(entry.object_id)

    def rows(self) -> list[dict[str, Any]]:
        """One for each object, the largest first."""
        object_ids = {**dict.fromkeys(self._entries), **dict.fromkeys(self._stored)}
        rows = [self._row(object_id) for object_id in object_ids]
        return sorted(rows, key=lambda row: (-(row["size_bytes"] or 0), row["object"]))

    def _row(self, object_id: bytes) -> dict[str, Any]:
        entries, stored = self._entries.get(object_id, []), self._stored.get(object_id)
        holders = self._holders(object_id, entries, stored)
        state, place = _state(entries, stored)
        return {
            "object": object_id.hex(),
            "size_bytes": _size(entries, stored),
            "state": state,
            "place": place,
            "owner": self._owner(entries, stored),
            "holders": holders,
            "origin": _origin(entries),
            "leak": _leak(holders),
        }

    def _owner(
        self, entries: list[tuple[ProcessFacts, EntryFacts]], stored: StoredFacts | None
    ) -> dict[str, Any]:
        for process, entry in entries:
            if not entry.owner_id:
                return {"process": process.role, "pid": process.pid}
        owner_id = stored.owner_id if stored is not None else entries[0][1].owner_id
        known = self._processes.get(owner_id)
        if known is not None:
            return {"process": known.role, "pid": known.pid}
        return {"process": "worker", "pid": self._silent.get(owner_id, 0)}

    def _holders(
        self, object_id: bytes, entries: list[tuple[ProcessFacts, EntryFacts]], stored: StoredFacts | None
    ) -> list[dict[str, Any]]:
        holders: list[dict[str, Any]] = []
        is_told = any(entry.tasks for _process, entry in entries)
        for process, entry in entries:
            is_own = process is self._own
            holders += self._references_here(entry) if is_own else _references_there(process, entry)
            holders += _arguments(process, entry, is_own, is_told)
            holders += self._views(process, entry, is_own)
            if entry.exported:
                holders.append(_holder("pickle", "", 1, 0 if is_own else process.pid))
        containers = set(self._containers.get(object_id, ()))
        if stored is not None:
            containers |= set(stored.containers)
            holders += self._of_the_silent(stored)
        holders += [_holder("container", outer.hex()) for outer in sorted(containers)]
        if stored is not None and stored.parcels:
            holders.append(_holder("parcel", "", stored.parcels))
        return holders

    def _references_here(self, entry: EntryFacts) -> list[dict[str, Any]]:
        found = [_holder(kind, text) for kind, text in self._refs.get(entry.object_id, ())]
        unnamed = entry.handles - self._named.get(entry.object_id, 0)
        if unnamed > 0:
            found.append(_holder("unknown", "", unnamed))
        return found

    def _views(self, process: ProcessFacts, entry: EntryFacts, is_own: bool) -> list[dict[str, Any]]:
        if not entry.views:
            return []
        names = [text for _kind, text in self._arrays.get(entry.object_id, ())] if is_own else []
        words = ", ".join(names) or ("" if is_own else process.running)
        return [_holder("view", words, entry.views, 0 if is_own else process.pid)]

    def _of_the_silent(self, stored: StoredFacts) -> list[dict[str, Any]]:
        """What the daemon knows of processes that did not answer."""
        found = [
            _holder("worker", "", 1, self._silent[process_id])
            for process_id in stored.holders
            if process_id in self._silent
        ]
        return found + [
            _holder("view", "", pins, self._silent[process_id])
            for process_id, pins in stored.pins
            if process_id in self._silent
        ]


def _holder(kind: str, name: str, count: int = 1, pid: int = 0) -> dict[str, Any]:
    return {"kind": kind, "name": name, "count": count, "pid": pid}


def _references_there(process: ProcessFacts, entry: EntryFacts) -> list[dict[str, Any]]:
    if not entry.handles:
        return []
    name = process.running
    if process.role == "actor":  # it keeps what it holds between its calls
        name = name.partition(".")[0]
    return [_holder(process.role, name, entry.handles, process.pid)]


def _arguments(process: ProcessFacts, entry: EntryFacts, is_own: bool, is_told: bool) -> list[dict[str, Any]]:
    """Unfinished tasks that take it, from who submitted them; else from where they run."""
    pid = 0 if is_own else process.pid
    if entry.tasks:
        return [_holder("argument", name, number, pid) for name, number in Counter(entry.tasks).items()]
    if is_told or not entry.arguments or entry.views or entry.handles:
        return []
    return [_holder("argument", process.running, entry.arguments, pid)]


def _size(entries: list[tuple[ProcessFacts, EntryFacts]], stored: StoredFacts | None) -> int | None:
    if stored is not None:
        return stored.size_bytes
    size_bytes = max((entry.size_bytes for _process, entry in entries), default=-1)
    return None if size_bytes < 0 else size_bytes


def _state(entries: list[tuple[ProcessFacts, EntryFacts]], stored: StoredFacts | None) -> tuple[str, str]:
    """The state, and where the bytes are."""
    said = _said(entries)
    if stored is not None and said != FAILED:
        return stored.state, stored.place
    places = {INLINE: "owner", IN_STORE: "store", FAILED: "owner"}
    return said, places.get(said, "")


def _said(entries: list[tuple[ProcessFacts, EntryFacts]]) -> str:
    """By its owner, or by a borrower if the owner is gone."""
    for _process, entry in entries:
        if not entry.owner_id:
            return entry.state
    states = [entry.state for _process, entry in entries]
    return next((state for state in states if state != PENDING), PENDING)


def _origin(entries: list[tuple[ProcessFacts, EntryFacts]]) -> dict[str, Any]:
    made = next((entry.origin for _process, entry in entries if entry.origin.kind), Origin())
    return {"kind": made.kind, "name": made.name, "cell": made.cell, "file": made.file, "line": made.line}


def _leak(holders: list[dict[str, Any]]) -> str:
    kinds = {holder["kind"] for holder in holders}
    if kinds and kinds <= _BY_ITSELF:
        return OUTPUT_LEAK
    return UNKNOWN_LEAK if kinds <= _BY_ITSELF | {"unknown"} else ""
