"""What a task returned, as the values that it was declared to give.

Called by:  worker.executor, runtime.local.
Imports:    the standard library.
Never:      pickles.
"""

from __future__ import annotations

from typing import Any


def returned(name: str, value: Any, num_returns: int) -> list[tuple[str, Any]]:
    """The results of a task, each with what messages call it.

    Raises:
        ValueError: they are not as many as was declared.
    """
    if num_returns == 1:
        return [("result", value)]
    if num_returns == 0:
        return []
    if not isinstance(value, (tuple, list)) or len(value) != num_returns:
        got = f"{len(value)} values" if isinstance(value, (tuple, list)) else type(value).__name__
        raise ValueError(
            f"Task {name} was declared with num_returns={num_returns} but returned {got}. "
            f"Return a tuple of {num_returns} values, or change num_returns."
        )
    return [(f"result[{index}]", item) for index, item in enumerate(value)]
