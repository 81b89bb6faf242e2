"""Identifiers: how tasks, objects, processes and nodes are named, and who owns what.

Called by:  everything.
Imports:    the standard library.
Never:      draws randomness: random parts arrive as arguments, all else is derived, so that
            lineage can compute the same IDs again.

Inside the runtime an ID is plain ``bytes`` (cheap to hash, to compare and to send); the classes
that users see are in ``nbray.runtime.refs``. Layout of an object ID, 20 bytes::

    | scope: 12 bytes                       | counter: 4 | index: 4 |
    | hash(job, parent task, parent attempt) | n-th child | result n |
    |<------------- task ID, 16 bytes ----------------->|

The scope is hashed once per task attempt, so that an ID costs two concatenations, and a retried
parent never reuses the IDs of children that its first attempt left alive.
"""

from __future__ import annotations

import hashlib

TASK_ID_BYTES = 16
OBJECT_ID_BYTES = 20
PROCESS_ID_BYTES = 16
NODE_ID_BYTES = 16
FUNCTION_ID_BYTES = 16

_SCOPE_BYTES = 12
_PUT_INDEX = b"\xff\xff\xff\xff"
_INDICES = tuple(i.to_bytes(4, "big") for i in range(64))


def child_scope(job_id: bytes, parent_task_id: bytes, parent_attempt: int) -> bytes:
    """The 12 bytes that every child of one attempt of one task has in common."""
    digest = hashlib.blake2b(job_id, digest_size=_SCOPE_BYTES, person=b"nbray-task")
    digest.update(parent_task_id)
    digest.update(parent_attempt.to_bytes(4, "big"))
    return digest.digest()


def seeded_scope(seed: int) -> bytes:
    """The scope of a driver that wants the same IDs in each of its runs."""
    text = str(seed).encode()
    return hashlib.blake2b(text, digest_size=_SCOPE_BYTES, person=b"nbray-seed").digest()


def task_id(scope: bytes, counter: int) -> bytes:
    """ID of the ``counter``-th child in a scope from :func:`child_scope`."""
    return scope + counter.to_bytes(4, "big")


def result_id(task: bytes, index: int) -> bytes:
    """ID of the ``index``-th result of a task."""
    return task + (_INDICES[index] if index < 64 else index.to_bytes(4, "big"))


def put_id(scope: bytes, counter: int) -> bytes:
    """ID of a value that was put; it takes a number from the same counter as child tasks."""
    return scope + counter.to_bytes(4, "big") + _PUT_INDEX


def is_put(object_id: bytes) -> bool:
    """Whether an object was put: no task makes it."""
    return object_id.endswith(_PUT_INDEX)


def function_id(pickled: bytes) -> bytes:
    """Name of a function: the hash of its pickle, so that equal code has one name."""
    return hashlib.blake2b(pickled, digest_size=FUNCTION_ID_BYTES, person=b"nbray-func").digest()


def short(identifier: bytes) -> str:
    """The eight hex digits that people see: of tasks and objects the counter, which tells siblings apart."""
    return (identifier[_SCOPE_BYTES:TASK_ID_BYTES] or identifier[:4]).hex()
