"""What people are told because something does not go on: once, and the same again only after a minute.

Called by:  runtime.process, whose part this is.
Imports:    runtime.loop, wire.
Never:      waits, or tells anything in a worker (only drivers have somebody to tell).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from nbray.runtime.loop import Loop
from nbray.wire.messages import LeaseInfeasible
from nbray.wire.waiting_messages import Notice

_AGAIN_S = 60.0
_KEPT = 200


class Notices:
    """One driver's.

    Args:
        on_warning: shows a text to people; called without locks. None: nobody listens.
    """

    def __init__(self, loop: Loop, on_warning: Callable[[str], None] | None) -> None:
        self._loop = loop
        self._on_warning = on_warning
        self._told: dict[str, float] = {}

    def infeasible(self, message: LeaseInfeasible) -> None:
        """A task asks for what the node does not have. Lock held."""
        # The classic error of kind "infeasible_task" is pushed here: runtime.pushed_errors.push.
        self._tell(message.text)

    def arrived(self, message: Notice) -> None:
        """The daemon saw that something does not go on. Lock held."""
        self._tell(f"nbray: {message.text}")

    def _tell(self, text: str) -> None:
        now_s = time.monotonic()
        told_s = self._told.get(text)
        if self._on_warning is None or (told_s is not None and now_s - told_s < _AGAIN_S):
            return
        self._told.pop(text, None)
        self._told[text] = now_s
        if len(self._told) > _KEPT:
            del self._told[next(iter(self._told))]
        self._loop.later.append(partial(self._on_warning, text))
