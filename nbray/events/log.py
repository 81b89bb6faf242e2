"""What the daemon remembers of the events of all processes on its node.

Called by:  node.daemon, with the batches that arrive; it serves the answers to monitors.
Imports:    nbray.events.schema.
Never:      trusts a row, keeps more than its bounds, or hands out anything but plain data.

Counts are sums of what happened, so they do not depend on the order in which batches of different
processes arrive. Only ``running`` is a state of now; it is kept per process, whose own rows are in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from nbray.events.schema import (
    CELL,
    DETAIL,
    ID,
    KIND,
    KINDS,
    NAME,
    ONCE,
    RAN_US,
    STATE,
    STATES,
    T_US,
    TASK,
    Row,
    is_row,
)

#: Rows that are remembered per kind.
ROWS_PER_KIND = 10_000

#: Functions that are counted by name; more of them share one line.
NAMES_MAX = 1_000
OTHER_NAMES = "(other functions)"

_TEXT_MAX_CHARS = 200
_DETAIL_MAX_ENTRIES = 16
_RUNNING_MAX = 10_000
_RUN_IS_OVER = frozenset({"finished", "failed", "retried", "cancelled"})


class Running(NamedTuple):
    """A task that runs. ``once``: it has no other attempt."""

    name: str
    since_us: int
    once: bool


class EventLog:
    """Bounded history per kind, and counts of what became of the tasks."""

    def __init__(self, rows_per_kind: int = ROWS_PER_KIND) -> None:
        self._recent: dict[str, deque[list[Any]]] = {kind: deque(maxlen=rows_per_kind) for kind in KINDS}
        self._tasks_by_name: dict[str, dict[str, int]] = {}
        self._running: dict[bytes, dict[bytes, Running]] = {}
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Events that never got here: their sender's ring was full, or they were not rows."""
        return self._dropped

    def add(self, process_id: bytes, rows: Iterable[Row], dropped: int = 0) -> None:
        """Take in one batch of a process, oldest row first. About 1 µs a row."""
        self._dropped += max(0, dropped)
        for row in rows:
            if not is_row(row):
                self._dropped += 1
                continue
            kept = row if _is_small(row) else _cut(row)
            self._recent[kept[KIND]].append([*kept, process_id])
            if kept[KIND] == TASK:
                self._count_task(process_id, kept)

    def add_folded(self, folded: Iterable[tuple[str, str, int]]) -> None:
        """Take in counts, as (name, state, number), of short tasks that have no rows."""
        for full_name, state, number in folded:
            name = full_name[:_TEXT_MAX_CHARS]
            counts = self._tasks_by_name.get(name) or self._counts_of_new(name)
            if state in counts:
                counts[state] += max(0, number)

    def forget(self, process_id: bytes) -> None:
        """A process ended: what it was running runs no more. Its history stays."""
        self._running.pop(process_id, None)

    def running_in(self, process_id: bytes) -> list[Running]:
        """What runs in a process now, the oldest first, but for what began within a quarter of a second."""
        return list(self._running.get(process_id, {}).values())

    def recent(self, kind: str, limit: int) -> list[list[Any]]:
        """The newest ``limit`` rows of a kind, oldest first, each with the process ID as eighth field.

        Raises:
            KeyError: there is no such kind.
        """
        ring = self._recent[kind]
        return [list(row) for row in islice(ring, max(0, len(ring) - limit), None)]

    def tasks(self) -> dict[str, int]:
        """How many tasks were submitted, finished, ...; ``running`` is how many run now."""
        sums = {
            state: sum(counts[state] for counts in self._tasks_by_name.values()) for state in STATES[TASK]
        }
        return {**sums, "running": sum(map(len, self._running.values()))}

    def tasks_by_name(self) -> dict[str, dict[str, int]]:
        """The same sums for each function; here ``running`` counts how often one was started."""
        return {name: dict(counts) for name, counts in self._tasks_by_name.items()}

    def _count_task(self, process_id: bytes, row: Row) -> None:
        state = row[STATE]
        counts = self._tasks_by_name.get(row[NAME]) or self._counts_of_new(row[NAME])
        if state not in counts:
            return
        counts[state] += 1
        if state == "running":
            running = self._running.setdefault(process_id, {})
            if len(running) < _RUNNING_MAX:
                once = bool(row[DETAIL]) and bool(row[DETAIL].get(ONCE))
                running[row[ID]] = Running(row[NAME], row[T_US], once)
        elif row[DETAIL] and RAN_US in row[DETAIL]:
            counts["running"] += 1
        elif state in _RUN_IS_OVER and process_id in self._running:
            self._running[process_id].pop(row[ID], None)

    def _counts_of_new(self, name: str) -> dict[str, int]:
        if len(self._tasks_by_name) >= NAMES_MAX:
            name = OTHER_NAMES
        return self._tasks_by_name.setdefault(name, dict.fromkeys(STATES[TASK], 0))


def _is_small(row: Row) -> bool:
    return (
        (row[DETAIL] is None or _is_only_a_duration(row[DETAIL]))
        and len(row[NAME]) <= _TEXT_MAX_CHARS
        and len(row[CELL]) <= _TEXT_MAX_CHARS
        and len(row[STATE]) <= _TEXT_MAX_CHARS
    )


def _is_only_a_duration(detail: dict[Any, Any]) -> bool:
    """What most rows of tasks carry; looked at before it is kept, like everything that peers send."""
    return len(detail) == 1 and type(detail.get(RAN_US)) is int


def _cut(row: Row) -> list[Any]:
    kept: list[Any] = [field[:_TEXT_MAX_CHARS] if isinstance(field, str) else field for field in row]
    if kept[DETAIL] is not None:
        kept[DETAIL] = _cut_detail(kept[DETAIL])
    return kept


def _cut_detail(detail: dict[Any, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for key, value in detail.items():
        if len(small) == _DETAIL_MAX_ENTRIES:
            break
        if isinstance(key, str) and isinstance(value, (str, int, float)):
            small[key[:_TEXT_MAX_CHARS]] = value[:_TEXT_MAX_CHARS] if isinstance(value, str) else value
    return small
