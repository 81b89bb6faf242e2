"""``get`` and ``wait`` for more kinds of containers.

Called by:  users.
Imports:    nbray.api. NumPy never: an array is asked for its list.
Never:      does what nbray.get and nbray.wait can do.
"""

from __future__ import annotations

from typing import Any

from nbray.api import objects
from nbray.runtime.refs import ObjectRef


def get(object_ids: Any, worker: object = None) -> Any:  # noqa: ARG001
    """Like ``nbray.get``, also for a tuple, an array or a dict of references.

    Args:
        object_ids: a reference, a list, tuple or one-dimensional array of them; or a dict, in which
            only values that are references are replaced.
        worker: accepted, for old programs.

    Returns:
        A value, a list of values, or a new dict of the same class and order.

    Raises:
        TypeError, ValueError, RayTaskError, ...: as ``nbray.get``.
    """
    if not isinstance(object_ids, dict):
        return objects.get(_listed(object_ids))
    names = [name for name, value in object_ids.items() if isinstance(value, ObjectRef)]
    values = objects.get([object_ids[name] for name in names])
    result = object_ids.copy()
    result.update(zip(names, values, strict=True))
    return result


def wait(
    object_ids: Any,
    num_returns: int = 1,
    timeout: float | None = None,
    worker: object = None,  # noqa: ARG001
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Like ``nbray.wait``, also for a tuple or a one-dimensional array of references.

    Args:
        object_ids: distinct references.
        num_returns: how many to wait for, and at most how many to return as ready.
        timeout: seconds to wait at most; 0 only looks.
        worker: accepted, for old programs.

    Raises:
        TypeError, ValueError, RayConnectionError: as ``nbray.wait``.
    """
    return objects.wait(_listed(object_ids), num_returns, timeout)


def _listed(object_ids: Any) -> Any:
    """A tuple or an array as a list; anything else as it is."""
    kind = type(object_ids)
    if isinstance(object_ids, tuple):
        return list(object_ids)
    if any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in kind.__mro__):
        return object_ids.tolist()
    return object_ids
