"""One event: what became of a task, an actor, a worker, an object or a node, and when.

Called by:  every process (to build rows), events.log, observe.
Imports:    nbray.events.text, nbray.model.ids.
Never:      reads a clock; needs a class: a row is a plain tuple, since it is built on the task path.

A row is ``(t_us, kind, id, state, name, cell, detail)``::

    t_us    int         wall clock, microseconds since 1970
    kind    str         TASK, ACTOR, WORKER, OBJECT or NODE
    id      bytes       of that task, actor, process, object or node
    state   str         one of STATES[kind]: what it has just become
    name    str         of the function, the class or the node; may be empty
    cell    str         the notebook cell that caused it, as in "In[3]"; may be empty
    detail  dict, None  a few facts more, strings and numbers only

Who records what: the owner of a task records ``submitted`` and ``retried``, and ``failed`` or ``cancelled``
if it never ran to an end; the process that runs it records ``running``, then ``finished``, ``failed`` or
``cancelled``, or of a task that is over in a moment only the latter, with ``ran_us`` in its detail. Actors,
workers, objects and nodes are recorded by the node daemon; the detail of an object's row tells
``size_bytes`` where that is known. Batches of two processes may arrive in either order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from nbray.events.text import visible
from nbray.model.ids import short

Row = Sequence[Any]

T_US, KIND, ID, STATE, NAME, CELL, DETAIL = range(7)
ROW_FIELDS = 7
#: One field more in the rows that ``events.log`` hands out: the ID of the process that recorded it.
PROCESS = 7

#: In the detail of a task's last row: how long it ran, and that it has no row ``running``.
RAN_US = "ran_us"
#: In the detail of a row ``running``: it is the last attempt that the task has.
ONCE = "once"

TASK = "task"
ACTOR = "actor"
WORKER = "worker"
OBJECT = "object"
NODE = "node"

STATES: dict[str, tuple[str, ...]] = {
    TASK: ("submitted", "running", "finished", "failed", "retried", "cancelled"),
    ACTOR: ("pending", "starting", "alive", "restarting", "leaving", "dead"),
    WORKER: ("starting", "idle", "leased", "blocked", "dead"),
    OBJECT: ("created", "sealed", "spilled", "restored", "evicted", "freed", "lost"),
    NODE: ("up", "redis lost", "redis back", "zygote lost", "zygote back", "down"),
}
KINDS = tuple(STATES)

# 2^53 microseconds: the year 2255, and exact as a JSON number.
_T_US_MAX = 1 << 53
_ID_MAX_BYTES = 64


def is_row(row: object) -> bool:
    """Whether this is a row at all. Peers are other programs: what they send is looked at first."""
    # Spelled out: it runs for every event of the node.
    if not isinstance(row, (list, tuple)) or len(row) != ROW_FIELDS:
        return False
    t_us, kind, identifier, state, name, cell, detail = row
    return (
        type(t_us) is int
        and 0 <= t_us <= _T_US_MAX
        and isinstance(kind, str)
        and kind in STATES
        and isinstance(identifier, bytes)
        and len(identifier) <= _ID_MAX_BYTES
        and isinstance(state, str)
        and isinstance(name, str)
        and isinstance(cell, str)
        and (detail is None or isinstance(detail, dict))
    )


def describe(row: Row) -> str:
    """A row as one line for people, times in UTC.

    ``12:03:04.000123 task 0a1b2c3d running: train In[3] (attempt=1)``
    """
    when = datetime.fromtimestamp(row[T_US] // 1_000_000, tz=timezone.utc)
    stamp = f"{when:%H:%M:%S}.{row[T_US] % 1_000_000:06d}"
    words = " ".join(visible(row[field], 200) for field in (NAME, CELL) if row[field])
    facts = ", ".join(f"{visible(k, 40)}={visible(v, 200)}" for k, v in (row[DETAIL] or {}).items())
    line = f"{stamp} {row[KIND]} {short(row[ID])} {visible(row[STATE], 40)}"
    if words:
        line += f": {words}"
    return f"{line} ({facts})" if facts else line
