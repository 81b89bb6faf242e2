"""The error of a task that was cancelled by force.

Called by:  runtime.cancelling.
Imports:    nbray.model.errors.
Never:      is raised for a task that had not begun: that one is a ``RayCancellationError`` alone.
"""

from __future__ import annotations

from typing import Any

from nbray.model.errors import RayCancellationError, RayWorkerError, _FieldError


class ForcedCancellationError(RayWorkerError, RayCancellationError):  # type: ignore[misc]  # task_id is hex
    """The task was cancelled with ``force=True`` while it ran: its process was killed.

    A ``RayWorkerError``, as Ray has it, and a ``RayCancellationError``, as it was asked for.
    """

    def __init__(self, **fields: Any) -> None:
        _FieldError.__init__(self, **fields)

    def __str__(self) -> str:
        f = self.__dict__
        where = f"Its worker (pid {f['pid']})" if f["pid"] else "Its worker"
        return (
            f"Task {f['task_name']} was cancelled with force=True. {where} was killed, and with it what that "
            "worker owned. Submit the task again if you need its result."
        )
