"""Which runtime this process has, if any; and that a forked child has none.

Called by:  api, cluster, worker.
Imports:    nbray.model; runtime.process for its type only.
Never:      starts or ends a session.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nbray.model.errors import RayConnectionError

if TYPE_CHECKING:
    from nbray.runtime.process import Process

_current: Process | None = None


def current() -> Process:
    """The process's runtime.

    Raises:
        RayConnectionError: ``nbray.init`` was not called.
    """
    if _current is None:
        raise RayConnectionError()
    return _current


def current_or_none() -> Process | None:
    return _current


def set_current(process: Process | None) -> None:
    global _current
    _current = process


def _after_fork_in_child() -> None:
    if _current is not None:
        _current.abandon_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
