"""Typed access to what the cluster keeps in Redis; one class for each family of keys.

Called by:  node, tests.
Imports:    msgspec, control.client, control.records, control.secrets.
Never:      decides anything: a reader that finds two truths keeps the one with the newer stamp.

All keys start with ``nbray:{cluster}:``. IDs are hex in keys and bytes in records.

=====================  ======================================  ===========================
key                    holds                                   comes back after a loss
=====================  ======================================  ===========================
``nodes``              set of node IDs                         by itself (kept soft write)
``node:{id}``          stamp, ``NodeRecord``                   by itself
``job:{id}``           stamp, ``JobRecord``                    by itself, from its daemon
``function:{hash}``    sealed stamp, ``FunctionRecord``        when its owner sends it again
``events:{shard}``     stream of stamp, ``EventRecord``        no
``kv:{ns}:{key}``      sealed stamp, bytes                     no
=====================  ======================================  ===========================
"""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from nbray.control.client import ControlClient
from nbray.control.config import key_prefix
from nbray.control.errors import TamperedRecordError
from nbray.control.records import (
    EventRecord,
    FunctionRecord,
    JobRecord,
    NewestOnly,
    NodeRecord,
    Stamp,
    StampSource,
)
from nbray.control.secrets import open_sealed, seal

#: About how many batches one event stream keeps (Redis trims whole blocks: "~").
EVENT_BATCHES_KEPT = 10_000

_SCAN_COUNT = 500
_GLOB_CHARACTER = re.compile(r"([\\*?\[\]^-])")
_encode = msgspec.msgpack.Encoder().encode

Body = TypeVar("Body")


class ControlTables:
    """All tables of one cluster.

    Args:
        values_key: from :func:`nbray.control.secrets.redis_values_key`.
        event_shards: over how many streams events are spread.
    """

    def __init__(
        self,
        client: ControlClient,
        cluster_id: str,
        *,
        values_key: bytes,
        stamps: StampSource,
        event_shards: int = 1,
    ) -> None:
        prefix = key_prefix(cluster_id)
        self.nodes = NodeTable(client, prefix, stamps)
        self.jobs = JobTable(client, prefix, stamps)
        self.functions = FunctionTable(client, prefix, stamps, values_key)
        self.events = EventStreams(client, prefix, stamps, event_shards)
        self.kv = KvTable(client, prefix, stamps, values_key)


class NodeTable:
    """Who belongs to the cluster."""

    def __init__(self, client: ControlClient, prefix: str, stamps: StampSource) -> None:
        self._client = client
        self._prefix = prefix
        self._stamps = stamps
        self._codec = _Stamped(NodeRecord)
        self._newest = NewestOnly()

    @property
    def refused(self) -> int:
        """How many records were older than one seen before, and so not believed."""
        return self._newest.refused

    def publish(self, record: NodeRecord) -> None:
        """Announce a node, or its changed facts; it stays announced over restarts of Redis."""
        name = record.node_id.hex()
        value = self._codec.encode(self._stamps.next(), record)
        add = ("SADD", f"{self._prefix}nodes", name)
        self._client.publish_soft(f"node:{name}", add, ("SET", self._key(name), value), keep=True)

    async def remove(self, node_id: bytes) -> None:
        """Take a node off the list, because it left or was declared dead."""
        name = node_id.hex()
        self._client.soft.forget(f"node:{name}")
        await self._client.pipeline([("SREM", f"{self._prefix}nodes", name), ("DEL", self._key(name))])

    async def list(self) -> list[NodeRecord]:
        """All nodes, sorted by ID; records that are older than one seen before are left out."""
        members = await self._client.execute("SMEMBERS", f"{self._prefix}nodes")
        names = sorted(name.decode() for name in members)
        values = await self._client.execute("MGET", *map(self._key, names)) if names else []
        found = []
        for name, value in zip(names, values, strict=True):
            if value is None:
                continue
            stamp, record = self._codec.decode(self._key(name), value)
            if self._newest.accepts(name, stamp):
                found.append(record)
        return found

    def _key(self, name: str) -> str:
        return f"{self._prefix}node:{name}"


class JobTable:
    """Which drivers there are, and were."""

    def __init__(self, client: ControlClient, prefix: str, stamps: StampSource) -> None:
        self._client = client
        self._prefix = prefix
        self._stamps = stamps
        self._codec = _Stamped(JobRecord)
        self._newest = NewestOnly()

    def publish(self, record: JobRecord) -> None:
        """Record a job or its new state; repeated after a restart of Redis."""
        key = self._key(record.job_id)
        value = self._codec.encode(self._stamps.next(), record)
        self._client.publish_soft(key, ("SET", key, value), keep=True)

    async def get(self, job_id: bytes) -> JobRecord | None:
        """The job, or None when it is unknown or only an outdated record is there."""
        key = self._key(job_id)
        value = await self._client.execute("GET", key)
        if value is None:
            return None
        stamp, record = self._codec.decode(key, value)
        return record if self._newest.accepts(key, stamp) else None

    def _key(self, job_id: bytes) -> str:
        return f"{self._prefix}job:{job_id.hex()}"


class FunctionTable:
    """Code of functions for workers on other nodes, under the hash of the code."""

    def __init__(self, client: ControlClient, prefix: str, stamps: StampSource, values_key: bytes) -> None:
        self._client = client
        self._prefix = prefix
        self._stamps = stamps
        self._values_key = values_key
        self._codec = _Stamped(FunctionRecord)

    def publish(self, function_id: bytes, record: FunctionRecord) -> None:
        """Store soon; not repeated after a loss: code may be large, and its owner has it."""
        key = self._key(function_id)
        self._client.publish_soft(key, ("SET", key, self._sealed(key, record)))

    async def put(self, function_id: bytes, record: FunctionRecord) -> None:
        """Store now."""
        key = self._key(function_id)
        await self._client.execute("SET", key, self._sealed(key, record))

    async def get(self, function_id: bytes) -> FunctionRecord | None:
        """The code, or None when nobody stored it.

        Raises:
            TamperedRecordError: somebody else wrote it or changed it. It must not be unpickled.
        """
        key = self._key(function_id)
        sealed = await self._client.execute("GET", key)
        return None if sealed is None else _opened(self._values_key, key, sealed, self._codec)[1]

    def _sealed(self, key: str, record: FunctionRecord) -> bytes:
        stamp = self._stamps.next()
        return seal(self._values_key, key, stamp.cluster_epoch, self._codec.encode(stamp, record))

    def _key(self, function_id: bytes) -> str:
        return f"{self._prefix}function:{function_id.hex()}"


class EventStreams:
    """Recent state changes, for monitors on other nodes; the oldest go."""

    def __init__(self, client: ControlClient, prefix: str, stamps: StampSource, shards: int) -> None:
        self._client = client
        self._prefix = prefix
        self._stamps = stamps
        self._shards = shards
        self._codec = _Stamped(EventRecord)

    def append(self, record: EventRecord) -> None:
        """Add a batch soon. It may be lost with Redis, or arrive twice, with one stamp, when an answer is."""
        key = self._key(int.from_bytes(record.process_id[:4], "big") % self._shards)
        stamp = self._stamps.next()
        add = ("XADD", key, "MAXLEN", "~", EVENT_BATCHES_KEPT, "*", "d", self._codec.encode(stamp, record))
        self._client.publish_soft(f"{key}:{stamp.sequence}", add)

    async def read(
        self, shard: int = 0, after: str = "0-0", max_batches: int = 1000
    ) -> list[tuple[str, Stamp, EventRecord]]:
        """Batches after a position, oldest first: triples (position, stamp, record)."""
        key = self._key(shard)
        entries = await self._client.execute("XRANGE", key, _next_position(after), "+", "COUNT", max_batches)
        return [(position.decode(), *self._codec.decode(key, fields[1])) for position, fields in entries]

    def _key(self, shard: int) -> str:
        return f"{self._prefix}events:{shard}"


class KvTable:
    """Small values that users share by name. Sealed too: what they store is often a pickle."""

    def __init__(self, client: ControlClient, prefix: str, stamps: StampSource, values_key: bytes) -> None:
        self._client = client
        self._prefix = prefix
        self._stamps = stamps
        self._values_key = values_key
        self._codec = _Stamped(bytes)

    async def put(self, key: str, value: bytes, *, namespace: str = "", overwrite: bool = True) -> bool:
        """Store; False when there was a value already and ``overwrite`` is off."""
        full = self._key(namespace, key)
        stamp = self._stamps.next()
        sealed = seal(self._values_key, full, stamp.cluster_epoch, self._codec.encode(stamp, value))
        condition = () if overwrite else ("NX",)
        return await self._client.execute("SET", full, sealed, *condition) is not None

    async def get(self, key: str, *, namespace: str = "") -> bytes | None:
        """The value or None.

        Raises:
            TamperedRecordError: it was not written by this cluster.
        """
        full = self._key(namespace, key)
        sealed = await self._client.execute("GET", full)
        return None if sealed is None else _opened(self._values_key, full, sealed, self._codec)[1]

    async def delete(self, key: str, *, namespace: str = "") -> bool:
        """True when there was one."""
        return bool(await self._client.execute("DEL", self._key(namespace, key)))

    async def keys(self, prefix: str = "", *, namespace: str = "") -> list[str]:
        """Names in a namespace that start with ``prefix``, sorted."""
        start = self._key(namespace, prefix)
        base_size = len(self._key(namespace, ""))
        found: set[str] = set()
        cursor = b"0"
        while True:
            pattern = _GLOB_CHARACTER.sub(r"\\\1", start) + "*"
            cursor, names = await self._client.execute("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            found.update(name.decode()[base_size:] for name in names)
            if cursor == b"0":
                return sorted(found)

    def _key(self, namespace: str, key: str) -> str:
        # A ":" in a namespace would let ("a:b", "c") and ("a", "b:c") meet.
        return f"{self._prefix}kv:{namespace.replace('%', '%25').replace(':', '%3A')}:{key}"


class _Stamped(Generic[Body]):
    """Records of one type in msgpack, as pairs (stamp, body)."""

    def __init__(self, body: type[Body]) -> None:
        self._name = body.__name__
        self._decode: Any = msgspec.msgpack.Decoder(tuple[Stamp, body]).decode  # type: ignore[valid-type]

    def encode(self, stamp: Stamp, body: Body) -> bytes:
        return _encode((stamp, body))

    def decode(self, key: str, value: bytes) -> tuple[Stamp, Body]:
        try:
            stamp, body = self._decode(value)
        except msgspec.DecodeError as exc:
            raise TamperedRecordError(
                f"The value under {key} in Redis is no {self._name}: {exc}. It was not used. Does another "
                "version of nbray, or another program, use the same prefix?"
            ) from exc
        return stamp, body


def _opened(values_key: bytes, key: str, sealed: bytes, codec: _Stamped[Body]) -> tuple[Stamp, Body]:
    epoch, value = open_sealed(values_key, key, sealed)
    stamp, body = codec.decode(key, value)
    if stamp.cluster_epoch != epoch:
        raise TamperedRecordError(f"The value under {key} in Redis contradicts its epoch; it was not used.")
    return stamp, body


def _next_position(position: str) -> str:
    """The smallest stream position after this one. (The form "(1-2" needs Redis 6.2.)"""
    time_ms, _, count = position.partition("-")
    return f"{time_ms}-{int(count or 0) + 1}"
