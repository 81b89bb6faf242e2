"""Values: ``put``, ``get``, ``wait``.

Called by:  users.
Imports:    runtime.process, model.errors.
Never:      waits itself (the runtime does).
"""

from __future__ import annotations

from typing import Any, overload

from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef


def put(value: Any) -> ObjectRef:
    """Store a value and return a reference to it.

    Arrays are copied into shared memory once; every task that takes the reference reads them there,
    without another copy.

    Raises:
        TypeError: ``value`` is a reference already (put a list of references, if that is meant).
        SerializationError: it cannot be pickled; names the part that cannot.
        ObjectStoreFullError: there is no room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "nbray.put() of a reference: it names a stored value already. Wrap it in a list to store it."
        )
    return current().put(value)


@overload
def get(refs: ObjectRef, timeout: float | None = None) -> Any: ...
@overload
def get(refs: list[ObjectRef], timeout: float | None = None) -> list[Any]: ...
def get(refs: ObjectRef | list[ObjectRef], timeout: float | None = None) -> Any:
    """Wait for the value of a reference, or of a list of them.

    Large arrays come back as read-only views of shared memory.

    Args:
        refs: one reference, or a list.
        timeout: seconds to wait at most; 0 only looks; None waits for as long as it takes.

    Raises:
        RayTaskError: the task raised; also an instance of the class that it raised. Raised as soon
            as any task of the list has failed.
        RayWorkerError: the process that ran the task died.
        RayTimeoutError: (also a TimeoutError) not ready in time; the task goes on.
    """
    process = current()
    if isinstance(refs, ObjectRef):
        return process.get_one(refs, timeout)
    if not isinstance(refs, list):
        raise ValueError(f"nbray.get() takes a reference or a list of references, not {type(refs).__name__}.")
    _check_all_references(refs, "get")
    return process.get(refs, timeout)


def wait(
    refs: list[ObjectRef], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until ``num_returns`` of the references are ready; a failed task's are ready, too.

    Args:
        refs: distinct references.
        num_returns: how many to wait for, and at most how many to return as ready.
        timeout: seconds to wait at most; 0 only looks.

    Returns:
        ``(ready, rest)``, both in the order of ``refs``.

    Raises:
        TypeError: not a list of references.
        ValueError: duplicates, a negative timeout, or ``num_returns`` out of range.
    """
    if not isinstance(refs, list):
        raise TypeError(f"nbray.wait() takes a list of references, not {type(refs).__name__}.")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}.")
    _check_all_references(refs, "wait")
    process = current()
    if not refs:
        return [], []
    if not 1 <= num_returns <= len(refs):
        raise ValueError(
            f"num_returns must be between 1 and the {len(refs)} references given, not {num_returns!r}."
        )
    return process.wait(refs, num_returns, timeout)


def _check_all_references(refs: list[ObjectRef], caller: str) -> None:
    strangers = set(map(type, refs)) - {ObjectRef}
    if strangers:
        raise TypeError(
            f"nbray.{caller}() takes a list of references; it holds a {strangers.pop().__name__}."
        )
