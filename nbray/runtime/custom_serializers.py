"""Serializers that users registered for classes of their choice, and how workers come to know them.

Called by:  api.serializers (register), runtime.functions (records, learn), runtime.process (forget).
Imports:    runtime.{pickling,serialization}.
Never:      costs anything while nothing is registered: a serializer is one more entry in the table
            that the pickler looks into anyway.

A value that was serialized this way carries its deserializer, pickled once at the registration, and
the name of it. So whoever reads it needs no registration, and unpickles the deserializer only the first
time. To *write* such values a worker needs the serializer: every function that is exported takes the
registrations of its process along. A broadcast would race with the tasks that rely on it.

Registrations are numbered: a function that was exported earlier, but is loaded later, undoes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from nbray.runtime import pickling
from nbray.runtime.serialization import deserialize, serialize

_TOKEN_BYTES = 16


class Record(NamedTuple):
    """One registration as it travels.

    ``writer`` is the pickled class and serializer, ``reader`` the pickled deserializer, ``token`` names
    both. A class that went back to the default has None as its serializer.
    """

    number: int
    token: bytes
    writer: bytes
    reader: bytes


#: Called after any change: functions have to be exported again.
on_change: list[Callable[[], None]] = []

# Of the tables. Re-entrant: a finalizer that submits a task may run inside.
_lock = threading.RLock()
_records: dict[type, Record] = {}
_readers: dict[bytes, Callable[[Any], Any]] = {}
_learned: set[bytes] = set()


def register(
    cls: type,
    serializer: Callable[[Any], Any] | None,
    deserializer: Callable[[Any], Any] | None,
    class_id: str | bytes | None = None,
) -> None:
    """From now on, instances of exactly ``cls`` are serialized so; with None, in the default way.

    Raises:
        SerializationError: the class or one of the functions cannot be pickled.
    """
    if serializer is None and cls not in _records:
        return
    writer = serialize((cls, serializer), root="serializer", in_band=True).to_bytes()
    reader = serialize(deserializer, root="deserializer", in_band=True).to_bytes()
    with _lock:
        number = 1 + max((record.number for record in _records.values()), default=0)
        token = _digest(repr((number, class_id)).encode(), writer, reader)
        if deserializer is not None:
            _readers[token] = deserializer
        _enter(cls, serializer, Record(number, token, writer, reader))
    _tell()


def records() -> tuple[Record, ...]:
    """All registrations of this process, for the workers that run its functions."""
    with _lock:
        return tuple(_records.values())


def learn(record: Record | tuple[Any, ...]) -> None:
    """A function brought this registration from the process that exported it."""
    record = Record(*record)
    if record.token in _learned:
        return
    cls, serializer = deserialize(record.writer)
    with _lock:
        known = _records.get(cls)
        if known is None or known.number < record.number:
            _enter(cls, serializer, record)
        else:
            _learned.add(record.token)
    _tell()


def forget_all() -> None:
    """The session ended."""
    with _lock:
        for cls in _records:
            pickling.set_reducer(cls, None)
        for table in (_records, _readers, _learned):
            table.clear()


def _enter(cls: type, serializer: Callable[[Any], Any] | None, record: Record) -> None:
    _learned.add(record.token)
    _records[cls] = record
    pickling.set_reducer(cls, None if serializer is None else _reducer(serializer, record))


def _tell() -> None:
    for changed in on_change:
        changed()


def _reducer(serializer: Callable[[Any], Any], record: Record) -> Callable[[Any], Any]:
    token, reader = record.token, record.reader

    def reduce(value: Any) -> tuple[Any, ...]:
        return rebuild, (token, reader, serializer(value))

    return reduce


def rebuild(token: bytes, reader: bytes, data: Any) -> Any:
    """What a custom serializer's value becomes where it is read."""
    deserializer = _readers.get(token)
    if deserializer is None:
        deserializer = _readers[token] = deserialize(reader)
    return deserializer(data)


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_TOKEN_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
