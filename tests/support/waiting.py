"""Waiting for something to become true, instead of sleeping and hoping.

Called by:  integration tests.
Imports:    the standard library.
Never:      waits without a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.005


def until(condition: Callable[[], T], what: str, deadline_s: float = 10.0) -> T:
    """The first true answer of ``condition``, asked again and again.

    Raises:
        AssertionError: it was never true within ``deadline_s`` seconds; names ``what`` and the last answer.
    """
    end_s = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end_s:
            raise AssertionError(f"After {deadline_s:g} s not yet: {what}; the last answer was {answer!r}.")
        time.sleep(_POLL_S)
