"""Which actors there are and how they are: a dict that prints itself as a table.

Called by:  api.listing, jupyter.
Imports:    nbray.model.ids, nbray.observe, nbray.wire.actor_messages.
Never:      asks again: it is a snapshot; holds an actor by showing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nbray.events.text import visible
from nbray.model.ids import short
from nbray.model.resources import UNIT
from nbray.observe import html, renderer
from nbray.observe.view import View
from nbray.observe.wording import counted
from nbray.wire.actor_messages import ActorFacts

#: A table shows so many, the living ones first.
SHOWN = 20
DEAD = "DEAD"
_COLUMNS = ("actor", "class", "name", "state", "pid", "restarts", "holds", "made in", "why")
#: Shown although they may be empty.
_ALWAYS = ("actor", "class", "state")
_CELL_MAX_CHARS = 200


class Actors(View, dict[str, dict[str, Any]]):
    """Facts about actors, by the ID in hex; in the order in which they were made.

    ``print`` shows it as a table, a notebook as a page. Each value is a dict, fit for JSON::

        ActorID JobID       str    in hex
        Class Name          str    Name is "" if it has none
        Namespace           str
        Detached            bool   it needs no handles
        State               str    PENDING STARTING ALIVE RESTARTING LEAVING DEAD
        Address             dict   IPAddress, Port (0: it listens on no port), WorkerID in hex; of its process
        OwnerAddress        dict   the same of the process that made it
        Pid                 int    of its process, or of its last one; 0: it had none
        Restarts            int    how often it was made again
        RestartsLeft        int    how often it may be; -1: without end
        Resources           dict   what it holds for life, by name
        Cell                str    of the notebook, that made it
        Why                 str    a dead one: why it died
        Timestamp           float  when its state began, in seconds since 1970, as of ``time.time()``
        Created             float  when it was made
    """

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """A copy of everything, fit for JSON."""
        return {actor_id: dict(row) for actor_id, row in self.items()}

    def __repr__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The table as text."""
        lines = [self._title()]
        columns, rows = self._table()
        if rows:
            cells = [[visible(cell, _CELL_MAX_CHARS) for cell in row] for row in (columns, *rows)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            for row in cells:
                padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append(("  " + "  ".join(padded)).rstrip())
        return "\n".join([*lines, *(f"  {label:<11}{visible(value)}" for label, value in self._facts())])

    def _repr_html_(self) -> str | None:
        if not renderer.wants_html():
            return None
        return html.table(self._title(), *self._table(), self._facts())

    def _title(self) -> str:
        alive = sum(row["State"] != DEAD for row in self.values())
        dead = len(self) - alive
        return f"nbray: {counted(alive, 'actor')}" + (f", {dead:,} dead" if dead else "")

    def _sorted(self) -> list[dict[str, Any]]:
        return sorted(self.values(), key=lambda row: row["State"] == DEAD)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows, without the columns that no row has anything for."""
        rows = [_cells(row) for row in self._sorted()[:SHOWN]]
        shown = [n for n, name in enumerate(_COLUMNS) if name in _ALWAYS or any(cells[n] for cells in rows)]
        return [_COLUMNS[n] for n in shown], [[cells[n] for n in shown] for cells in rows]

    def _facts(self) -> list[tuple[str, str]]:
        left_out = len(self) - SHOWN
        return [("not shown", f"{counted(left_out, 'actor')}: see to_dict()")] if left_out > 0 else []


def _cells(row: Mapping[str, Any]) -> list[str]:
    held = ", ".join(f"{amount:g} {name}" for name, amount in row["Resources"].items())
    has_pid = row["Pid"] and row["State"] != DEAD and renderer.wants_pids()
    return [
        short(bytes.fromhex(row["ActorID"])),
        row["Class"],
        row["Name"],
        row["State"],
        str(row["Pid"]) if has_pid else "",
        f"{row['Restarts']:,}" if row["Restarts"] else "",
        held,
        row["Cell"],
        row["Why"].partition("\n")[0] if row["State"] == DEAD else "",
    ]


def actors_of(facts: Iterable[ActorFacts], job_id: bytes, address: str) -> Actors:
    """The facts as a table.

    Args:
        facts: as the node daemon tells them.
        job_id: that they work for.
        address: of their node.
    """
    return Actors({fact.actor_id.hex(): _row(fact, job_id, address) for fact in facts})


def _row(fact: ActorFacts, job_id: bytes, address: str) -> dict[str, Any]:
    return {
        "ActorID": fact.actor_id.hex(),
        "JobID": job_id.hex(),
        "Class": fact.class_name,
        "Name": fact.name,
        "Namespace": fact.namespace,
        "Detached": fact.detached,
        "State": fact.state,
        "Address": _address(address, fact.process_id),
        "OwnerAddress": _address(address, fact.owner),
        "Pid": fact.pid,
        "Restarts": fact.restarts,
        "RestartsLeft": fact.restarts_left,
        "Resources": {name: units / UNIT for name, units in fact.resources.items()},
        "Cell": fact.cell,
        "Why": fact.why,
        "Timestamp": fact.since_ns / 1e9,
        "Created": fact.created_ns / 1e9,
    }


def _address(address: str, process_id: bytes) -> dict[str, Any]:
    return {"IPAddress": address, "Port": 0, "WorkerID": process_id.hex()}
