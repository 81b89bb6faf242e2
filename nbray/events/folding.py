"""When a batch has more rows than are worth to be sent, the oldest of short tasks become mere counts.

Called by:  runtime.recorder.
Imports:    nbray.events.schema.
Never:      folds a row on which a state of now depends: who runs, and that it runs no more.

Every row costs each process on its way a microsecond, and no one looks at ten thousand a second; sums
must be right all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbray.events.schema import DETAIL, NAME, RAN_US, STATE, Row

Folded = list[tuple[str, str, int]]


def fold(rows: Sequence[Row], keep: int) -> tuple[list[Row], Folded]:
    """Keep about ``keep`` rows, the newest; returns them and counts as (name, state, number).

    A task that ran and ended in one row counts as ``running`` and as what it became.
    """
    if len(rows) <= keep:
        return list(rows), []
    kept: list[Row] = []
    counts: dict[tuple[str, str], int] = {}
    for row in rows[: len(rows) - keep]:
        state = row[STATE]
        if row[DETAIL] is not None and RAN_US in row[DETAIL]:
            began = (row[NAME], "running")
            counts[began] = counts.get(began, 0) + 1
        elif state != "submitted":
            kept.append(row)
            continue
        ended = (row[NAME], state)
        counts[ended] = counts.get(ended, 0) + 1
    kept += rows[len(rows) - keep :]
    return kept, [(name, state, number) for (name, state), number in counts.items()]
