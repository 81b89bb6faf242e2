"""Looking at objects: ``nbray.objects()`` and ``nbray.memory()``.

Called by:  users, jupyter.
Imports:    observe, runtime.
Never:      changes or holds anything that it shows.
"""

from __future__ import annotations

from typing import Any

from nbray.model.ids import OBJECT_ID_BYTES
from nbray.observe.held import Known
from nbray.observe.memory import Memory
from nbray.runtime import describing
from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef
from nbray.wire.memory_messages import ACTOR, PENDING

__all__ = ["ObjectTable", "memory", "objects"]


class ObjectTable(dict[str, dict[str, Any]]):
    """Facts by object ID in hex. References are looked up, too; as keys they would hold their objects."""

    def __missing__(self, key: object) -> dict[str, Any]:
        if isinstance(key, ObjectRef):
            return self[key.hex()]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key.hex() if isinstance(key, ObjectRef) else key)

    def get(self, key: Any, default: Any = None) -> Any:
        """The facts about an object, or the default."""
        return super().get(key.hex() if isinstance(key, ObjectRef) else key, default)


def objects(object_id: ObjectRef | str | bytes | None = None) -> dict[str, Any]:
    """Which objects have a value now, on all processes of the cluster.

    Args:
        object_id: ask for this one alone: a reference, or an ID in hex or bytes.

    Returns:
        For each ID in hex ``DataSize`` (bytes) and ``Manager`` (the ID of its node, in hex). For one
        object these two, or an empty dict if it is not known. ``nbray.memory()`` says much more.

    Raises:
        TypeError: ``object_id`` is something else.
        ValueError: it is no ID.
        RayConnectionError: no session is running.
    """
    process = current()
    wanted = None if object_id is None else _hex(object_id)
    known = describing.look(process, with_names=False)
    node = known.report.node_id.hex()
    table = ObjectTable()
    for row in Known(known.report, known.own, {}, {}, {}).rows():
        if row["state"] not in (PENDING, ACTOR):
            table[row["object"]] = {"DataSize": row["size_bytes"] or 0, "Manager": node}
    return table if wanted is None else table.get(wanted, {})


def memory() -> Memory:
    """Which objects there are, how large, in which state, where, who holds them and which line made them.

    Prints as a table, in a notebook as a page; ``memory().rows`` are plain dicts. References of this
    process are named by the variables, outputs and tracebacks that hold them; those of workers by the task
    that runs there. Processes that do not answer within a second are left out, and counted.

    Raises:
        RayConnectionError: no session is running.
    """
    process = current()
    known = describing.look(process)
    report, names = known.report, known.names
    rows = Known(report, known.own, names.refs, names.arrays, names.handles).rows()
    left_out = [report.left_out, known.own.left_out, *(facts.left_out for facts in report.processes)]
    summary = {
        "store": dict(report.figures),
        "silent": len(report.silent),
        "left_out": max(left_out),
        "names_complete": names.complete,
    }
    return Memory(rows, summary)


def _hex(object_id: object) -> str:
    if isinstance(object_id, ObjectRef):
        return object_id.hex()
    if isinstance(object_id, bytes):
        binary = object_id
    elif isinstance(object_id, str):
        try:
            binary = bytes.fromhex(object_id)
        except ValueError:
            raise ValueError(f"{object_id!r} is not an ID in hex digits, as ref.hex() writes it.") from None
    else:
        raise TypeError(
            f"nbray.objects() takes a reference or its ID in hex, not {type(object_id).__name__}."
        )
    if len(binary) != OBJECT_ID_BYTES:
        raise ValueError(f"The ID of an object has {OBJECT_ID_BYTES} bytes, and these are {len(binary)}.")
    return binary.hex()
