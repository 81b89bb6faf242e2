"""What a task returned, as the values that it was declared to give.

Called by:  worker.executor, runtime.{local,local_actors}; api.actor_handles says what is no result.
Imports:    the standard library.
Never:      pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What is no result by itself, with the reason for people; in a list or another value it is one.
NO_RESULT: dict[type, str] = {}


def returned(name: str, value: Any, num_returns: int) -> list[tuple[str, Any]]:
    """The results of a task, each with what messages call it.

    Raises:
        ValueError: they are not as many as was declared.
        TypeError: one of them is no result by itself.
    """
    if num_returns == 1:
        _check(name, value)
        return [("result", value)]
    if num_returns == 0:
        return []
    count = _count(value)
    if count != num_returns:
        got = type(value).__name__ if count is None else f"{count} values"
        raise ValueError(
            f"Task {name} was declared with num_returns={num_returns} but returned {got}. "
            f"Return a tuple of {num_returns} values, or change num_returns."
        )
    for item in value:
        _check(name, item)
    return [(f"result[{index}]", item) for index, item in enumerate(value)]


def _check(name: str, value: Any) -> None:
    reason = NO_RESULT.get(type(value))
    if reason is not None:
        raise TypeError(f"Task {name} returned {reason}")


def _count(value: Any) -> int | None:
    """How many results a value is: those of a tuple, a list, an array. A text, set or dict is one."""
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not hasattr(type(value), "__getitem__"):
        return None
    try:
        return len(value)
    except TypeError:  # an array of no dimension
        return None
