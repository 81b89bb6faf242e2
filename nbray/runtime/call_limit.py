"""``max_calls``: a worker ends after so many runs of a function.

Called by:  runtime.functions, which wraps the function; worker.leaving, which acts on it.
Imports:    the standard library.
Never:      ends anything itself: the result of the last run has to be sent first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar


class CallLimit:
    """A function that counts its runs in this process; a run that raises counts too."""

    __slots__ = ("_function", "_left")

    #: Some function has reached its limit: this process should take no more tasks.
    reached: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Any], max_calls: int) -> None:
        self._function = function
        self._left = max_calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._function(*args, **kwargs)
        finally:
            self._left -= 1
            if self._left <= 0:
                CallLimit.reached = True
