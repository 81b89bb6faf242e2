"""Which objects there are, and who holds them: a table that prints itself.

Called by:  api.looking, jupyter.
Imports:    nbray.events.text, nbray.model.ids, nbray.observe.
Never:      asks again: it is a snapshot; holds an object by showing it.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbray.events.text import visible
from nbray.model.ids import short
from nbray.observe import html, renderer
from nbray.observe.held import OUTPUT_LEAK, UNKNOWN_LEAK
from nbray.observe.view import View
from nbray.observe.wording import counted, size

#: A table shows so many objects, and of each so many holders.
SHOWN = 20
HOLDERS_SHOWN = 3
_CELL_MAX_CHARS = 200
_OUTPUT = re.compile(r"Out\[\d+\]|_+")

_COLUMNS = ("object", "size", "state", "place", "held by", "made by")


class Memory(View):
    """A snapshot of all objects: what they are, where they are and who holds them.

    ``print`` shows it as a table, a notebook as a page; ``rows`` are for programs. ``holders()`` and
    ``leaks()`` show the same objects in another way.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        summary: Mapping[str, Any] | None = None,
        *,
        every_holder: bool = False,
        leaks_only: bool = False,
    ) -> None:
        """Args:
        rows: as ``observe.held`` makes them.
        summary: ``store``: figures of the node's store; ``silent``: how many processes did not answer;
            ``left_out``: how many smaller objects are missing; ``names_complete``: whether there was time to
            look at all variables.
        every_holder: show all holders of each object, a line each.
        leaks_only: show what only the notebook itself or nobody known holds, and what to do.
        """
        self._rows = [dict(row) for row in rows]
        self._summary = dict(summary or {})
        self._every_holder = every_holder
        self._leaks_only = leaks_only

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict for each object, the largest first, fit for JSON.

        ``object`` (its ID in hex), ``size_bytes`` (None: not known yet), ``state``, ``place``, ``owner``,
        ``holders`` (each with ``kind``, ``name``, ``count``, ``pid``), ``origin`` (the line or task that made
        it), ``leak`` ("output", "unknown" or "").
        """
        return copy.deepcopy(self._shown_rows())

    @property
    def summary(self) -> dict[str, Any]:
        """What is known besides: figures of the store, who did not answer."""
        return copy.deepcopy(self._summary)

    def to_dict(self) -> dict[str, Any]:
        """A copy of everything, fit for JSON."""
        return {"objects": self.rows, **self.summary}

    def holders(self) -> Memory:
        """The same objects, with every holder on a line of its own."""
        return Memory(self._rows, self._summary, every_holder=True, leaks_only=self._leaks_only)

    def leaks(self) -> Memory:
        """Only objects that nobody needs, it seems: held by what a notebook keeps, or by nobody known."""
        return Memory(self._rows, self._summary, every_holder=self._every_holder, leaks_only=True)

    # --- as text and as a page ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The table, and what is known besides, as text."""
        rows = self._table()
        lines = [self._title()]
        if rows:
            lines += _aligned([self._columns(), *rows])
        return "\n".join([*lines, *(f"  {label:<11}{visible(value)}" for label, value in self._facts())])

    def _repr_html_(self) -> str | None:
        if not renderer.wants_html():
            return None
        return html.table(self._title(), self._columns(), self._table(), self._facts())

    def _title(self) -> str:
        rows = self._shown_rows()
        total = size(sum(row["size_bytes"] or 0 for row in rows))
        kind = "possible leak" if self._leaks_only else "object"
        return f"nbray: {counted(len(rows), kind)}, {total}" if rows else f"nbray: no {kind}s"

    def _shown_rows(self) -> list[dict[str, Any]]:
        return [row for row in self._rows if row["leak"]] if self._leaks_only else self._rows

    def _columns(self) -> Sequence[str]:
        return (*_COLUMNS, "what to do") if self._leaks_only else _COLUMNS

    def _table(self) -> list[list[str]]:
        most = None if self._every_holder else HOLDERS_SHOWN
        return [self._cells(row, most) for row in self._shown_rows()[:SHOWN]]

    def _cells(self, row: dict[str, Any], most: int | None) -> list[str]:
        cells = [
            short(bytes.fromhex(row["object"])),
            "" if row["size_bytes"] is None else size(row["size_bytes"]),
            row["state"],
            row["place"],
            _holders(row["holders"], most),
            origin_words(row["origin"]),
        ]
        return [*cells, _remedy(row)] if self._leaks_only else cells

    def _facts(self) -> list[tuple[str, str]]:
        rows, known = self._shown_rows(), self._summary
        left_out = known.get("left_out", 0) + max(0, len(rows) - SHOWN)
        facts = [
            ("store", _store(known.get("store") or {})),
            ("on disk", _together(row for row in rows if row["place"] == "disk")),
            ("largest", _largest(rows)),
            *self._advice(),
            ("not shown", f"{counted(left_out, 'object')}: see rows" if left_out else ""),
            ("no answer", _busy(known.get("silent", 0))),
            (
                "names",
                "" if known.get("names_complete", True) else "not all variables were looked at: no time",
            ),
        ]
        return [(label, value) for label, value in facts if value]

    def _advice(self) -> list[tuple[str, str]]:
        if self._leaks_only:
            return []
        by_output = _together(row for row in self._rows if row["leak"] == OUTPUT_LEAK)
        by_nobody = _together(row for row in self._rows if row["leak"] == UNKNOWN_LEAK)
        return [
            ("notebook", f"{by_output} held only by Out, _ or the last traceback" if by_output else ""),
            ("suspects", f"{by_nobody} held by nobody known" if by_nobody else ""),
        ]


# --- words --------------------------------------------------------------------------------------------------


def origin_words(origin: Mapping[str, Any]) -> str:
    """``put in In[3], line 2``, ``put at train.py:14``, ``task load, In[3]``."""
    if origin["kind"] == "actor":
        return f"actor {origin['name']}, {origin['cell']}" if origin["cell"] else f"actor {origin['name']}"
    if origin["kind"] == "task":
        return f"task {origin['name']}, {origin['cell']}" if origin["cell"] else f"task {origin['name']}"
    if origin["kind"] != "put":
        return ""
    if origin["cell"]:
        return f"put in {origin['cell']}, line {origin['line']}"
    return f"put at {os.path.basename(origin['file'])}:{origin['line']}"


def holder_words(holder: Mapping[str, Any]) -> str:
    """One holder, as ``refs[3]``, ``Out[5]``, ``2 tasks train``, ``3 arrays``."""
    kind, name, count = holder["kind"], holder["name"], holder["count"]
    there = _process(holder)
    if kind in ("variable", "output"):
        return str(name)
    if kind == "traceback":
        return f"last traceback: {name}"
    if kind == "unknown":
        return f"{count} unnamed" if count > 1 else "unnamed"
    if kind == "driver":
        return "the driver"
    if kind == "actor":
        return f"actor {name}{_pid(holder)}"
    if kind == "argument":
        return f"{count} tasks {name}{there}" if count > 1 else f"task {name}{there}"
    if kind == "container":
        return f"object {short(bytes.fromhex(name))}"
    if kind == "view":
        return f"{counted(count, 'array')}{f' ({name})' if name and not holder['pid'] else ''}{there}"
    if kind == "pickle":
        return f"a pickle made by hand{there}"
    if kind == "parcel":
        return "a value on its way"
    return f"a worker{f' ({name})' if name else ', idle'}{_pid(holder)}"


def _process(holder: Mapping[str, Any]) -> str:
    return f" in a worker{_pid(holder)}" if holder["pid"] else ""


def _pid(holder: Mapping[str, Any]) -> str:
    return f" pid={holder['pid']}" if holder["pid"] and renderer.wants_pids() else ""


def _holders(holders: Sequence[Mapping[str, Any]], most: int | None) -> str:
    words = [_cut(holder_words(holder)) for holder in holders]
    if most is None:
        return "\n".join(words) or "nobody known"
    more = len(words) - most
    return ", ".join(words[:most] + ([f"{more} more"] if more > 0 else [])) or "nobody known"


def _remedy(row: Mapping[str, Any]) -> str:
    """What ends the leak."""
    if row["leak"] == UNKNOWN_LEAK:
        return "find the closure, generator or attribute that has it; gc.collect() ends cycles"
    names = dict.fromkeys(_dropped_by(holder) for holder in row["holders"])
    return f"%ray_objects --drop {' '.join(names)}"


def _dropped_by(holder: Mapping[str, Any]) -> str:
    """What ``%ray_objects --drop`` takes to end this hold: of ``Out[3][0].x`` the first part."""
    if holder["kind"] == "traceback":
        return "traceback"
    found = _OUTPUT.match(holder["name"])
    return found[0] if found else str(holder["name"])


def _store(figures: Mapping[str, Any]) -> str:
    if "capacity_bytes" not in figures:
        return ""
    return f"{size(figures.get('used_bytes', 0))} of {size(figures['capacity_bytes'])} used"


def _busy(processes: int) -> str:
    if not processes:
        return ""
    return (
        "1 process is busy: what it holds is missing"
        if processes == 1
        else (f"{processes:,} processes are busy: what they hold is missing")
    )


def _largest(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows or not rows[0]["size_bytes"]:
        return ""
    return f"{size(rows[0]['size_bytes'])}: {_holders(rows[0]['holders'], 1)}"


def _together(rows: Iterable[Mapping[str, Any]]) -> str:
    sizes = [row["size_bytes"] or 0 for row in rows]
    return f"{counted(len(sizes), 'object')}, {size(sum(sizes))}" if sizes else ""


def _cut(text: str) -> str:
    return visible(text, _CELL_MAX_CHARS)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, columns below each other. A cell with several lines goes on in lines of its own."""
    split = [[_cut_lines(cell) for cell in row] for row in rows]
    widths = [max(len(line) for cells in column for line in cells) for column in zip(*split, strict=True)]
    lines = []
    for row in split:
        for number in range(max(map(len, row))):
            parts = [cell[number] if number < len(cell) else "" for cell in row]
            padded = (part.ljust(width) for part, width in zip(parts, widths, strict=True))
            lines.append(("  " + "  ".join(padded)).rstrip())
    return lines


def _cut_lines(cell: str) -> list[str]:
    return [_cut(line) for line in cell.split("\n")]
