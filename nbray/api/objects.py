"""Values: ``put``, ``get``, ``wait``.

Called by:  users, experimental.
Imports:    runtime.current, model.
Never:      waits itself (the runtime does).

``worker=``, which all three took in the first Ray releases, is accepted and means nothing.
"""

from __future__ import annotations

from numbers import Real
from typing import Any, overload

from nbray.model.resources import whole_or_none
from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef


def put(value: Any, weakref: bool = False, worker: object = None) -> ObjectRef:  # noqa: ARG001
    """Store a value and return a reference to it.

    Arrays are copied into shared memory once; every task that takes the reference reads them there,
    without another copy.

    Args:
        value: anything that can be pickled.
        weakref: the object may be dropped when room is needed; who asks for it then gets
            ``UnreconstructableError``. (Values up to 100 KiB stay in this process and are kept.)
        worker: accepted, for old programs.

    Raises:
        TypeError: ``value`` is a reference already (put a list of references, if that is meant).
        SerializationError: it cannot be pickled; names the part that cannot.
        ObjectStoreFullError: there is no room.
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "nbray.put() of a reference: it names a stored value already. Wrap it in a list to store it."
        )
    return current().put(value, bool(weakref))


@overload
def get(object_ids: ObjectRef, timeout: float | None = None, worker: object = None) -> Any: ...
@overload
def get(object_ids: list[ObjectRef], timeout: float | None = None, worker: object = None) -> list[Any]: ...
def get(
    object_ids: ObjectRef | list[ObjectRef],
    timeout: float | None = None,
    worker: object = None,  # noqa: ARG001
) -> Any:
    """Wait for the value of a reference, or of a list of them.

    Large arrays come back as read-only views of shared memory.

    Args:
        object_ids: one reference, or a list; the same one may stand in it twice.
        timeout: seconds to wait at most; 0 only looks; None waits for as long as it takes.
        worker: accepted, for old programs.

    Raises:
        RayTaskError: the task raised; also an instance of the class that it raised. Raised as soon
            as any task of the list has failed.
        RayWorkerError: the process that ran the task died.
        RayTimeoutError: (also a TimeoutError) not ready in time; the task goes on.
        BlockingCallError: in the event loop of an asyncio actor: ``await`` it there. Not with a timeout of
            0, nor in the constructor, nor with ``NBRAY_ASYNC_BLOCKING=allow`` in the environment.
        ValueError: neither a reference nor a list, or a negative timeout.
        TypeError: the list holds something else than references.
        RayConnectionError: no session is running.
    """
    process = current()
    if isinstance(object_ids, ObjectRef):
        return process.get_one(object_ids, _checked(timeout))
    if not isinstance(object_ids, list):
        raise ValueError(
            f"nbray.get() takes a reference or a list of references, not {type(object_ids).__name__}."
        )
    _check_elements("get", object_ids)
    return process.get(object_ids, _checked(timeout))


def wait(
    object_ids: list[ObjectRef],
    num_returns: int = 1,
    timeout: float | None = None,
    worker: object = None,  # noqa: ARG001
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until ``num_returns`` of the references are ready; a failed task's are ready, too.

    Args:
        object_ids: distinct references.
        num_returns: how many to wait for, and at most how many to return as ready.
        timeout: seconds to wait at most; 0 only looks.
        worker: accepted, for old programs.

    Returns:
        ``(ready, rest)``, both in the order of ``object_ids``; two empty lists for an empty one.

    Raises:
        TypeError: not a list of references.
        ValueError: duplicates, a negative timeout, or ``num_returns`` out of range.
        BlockingCallError: as ``get`` raises it.
        RayConnectionError: no session is running.
    """
    if isinstance(object_ids, ObjectRef):
        raise TypeError("nbray.wait() takes a list of references, not one reference: write wait([ref]).")
    if not isinstance(object_ids, list):
        raise TypeError(f"nbray.wait() takes a list of references, not {type(object_ids).__name__}.")
    timeout = _checked(timeout)
    _check_elements("wait", object_ids)
    process = current()
    if not object_ids:
        return [], []
    if type(num_returns) is not int:
        number = whole_or_none(num_returns)
        if number is None:
            raise TypeError(f"num_returns must be an integer, not {num_returns!r}.")
        num_returns = number
    if not 1 <= num_returns <= len(object_ids):
        if len(set(object_ids)) != len(object_ids):  # the first complaint; else the runtime's, as it looks
            raise ValueError("nbray.wait() takes distinct references; the list holds one twice.")
        raise ValueError(
            f"num_returns must be between 1 and the {len(object_ids)} references given, not {num_returns!r}."
        )
    return process.wait(object_ids, num_returns, timeout)


def _check_elements(function: str, object_ids: list[ObjectRef]) -> None:
    # By the set of their types: a list of ten thousand is looked at in a tenth of a millisecond.
    for kind in set(map(type, object_ids)):
        if not issubclass(kind, ObjectRef):
            raise TypeError(f"nbray.{function}() takes a list of references; it holds a {kind.__name__}.")


def _checked(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if not isinstance(timeout, Real):  # NumPy's numbers, too
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}.")
    if not timeout >= 0:  # nor NaN
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}.")
    return float(timeout)
