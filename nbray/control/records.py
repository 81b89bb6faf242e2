"""What lies under the keys in Redis: typed records, each with the stamp of its writer.

Called by:  control.tables, node, observe.
Imports:    msgspec.
Never:      holds a pickle that could be loaded without its tag (``control.secrets``).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

Body = TypeVar("Body")


class Stamp(msgspec.Struct, array_like=True, frozen=True, order=True):
    """How new a record is; compares field by field, in this order.

    ``cluster_epoch`` counts the holders of the controller role, ``node_incarnation`` the lives of
    the writing node, ``sequence`` the records of that life. Clocks have no part in it.
    """

    cluster_epoch: int
    node_incarnation: int
    sequence: int


class StampSource:
    """Stamps of one writer. The daemon raises ``cluster_epoch`` when it learns of a newer one."""

    def __init__(self, cluster_epoch: int, node_incarnation: int) -> None:
        self.cluster_epoch = cluster_epoch
        self._node_incarnation = node_incarnation
        self._sequence = 0

    def next(self) -> Stamp:
        self._sequence += 1
        return Stamp(self.cluster_epoch, self._node_incarnation, self._sequence)


class NewestOnly:
    """A reader's guard: of the records under one key it accepts none that is older than one seen."""

    def __init__(self) -> None:
        self.refused = 0
        self._newest: dict[object, Stamp] = {}

    def accepts(self, key: object, stamp: Stamp) -> bool:
        """True for a newer stamp and for the same one again; a refusal is counted."""
        newest = self._newest.get(key)
        if newest is not None and stamp < newest:
            self.refused += 1
            return False
        self._newest[key] = stamp
        return True

    def forget(self, key: object) -> None:
        """The thing is gone for good; its key will not come back."""
        self._newest.pop(key, None)


class NodeRecord(msgspec.Struct, array_like=True, frozen=True):
    """A member of the cluster. ``resources`` in units of 1e-4."""

    node_id: bytes
    node_incarnation: int
    endpoint: str
    hostname: str
    pid: int
    resources: dict[str, int]
    store_capacity_bytes: int


class JobRecord(msgspec.Struct, array_like=True, frozen=True):
    """A driver and what it runs. ``state`` is "running" or "finished"."""

    job_id: bytes
    driver_pid: int
    entrypoint: str
    node_id: bytes
    state: str
    started_at_unix_ms: int


class FunctionRecord(msgspec.Struct, array_like=True, frozen=True):
    """Code of one function; stored sealed, because a worker will unpickle it."""

    name: str
    pickled: bytes


class EventRecord(msgspec.Struct, array_like=True, frozen=True):
    """One batch of events of one process; rows as in ``events.schema``, ``dropped`` were lost."""

    process_id: bytes
    dropped: int
    rows: list[list[object]]
