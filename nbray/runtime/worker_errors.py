"""The typed error of a task whose worker died.

Called by:  runtime.submitter.
Imports:    nbray.model, wire.
Never:      guesses a cause: what the daemon did not tell is not said.
"""

from __future__ import annotations

from nbray.model.ending_errors import RayOutOfMemoryError, TaskTimeoutError
from nbray.model.errors import RayWorkerError
from nbray.wire.messages import WorkerLost
from nbray.wire.waiting_messages import BY_MEMORY, BY_TIMEOUT

_CLASSES: dict[str, type[RayWorkerError]] = {BY_MEMORY: RayOutOfMemoryError, BY_TIMEOUT: TaskTimeoutError}


def worker_error(
    name: str, task_id: bytes, attempt: int, max_attempts: int, cause: WorkerLost | None
) -> RayWorkerError:
    """The typed error for a task whose worker died."""
    made = _CLASSES.get(cause.cause, RayWorkerError) if cause else RayWorkerError
    facts = cause.facts if cause and made is not RayWorkerError else {}
    return made(
        task_name=name,
        task_id=task_id.hex(),
        attempt=attempt,
        max_attempts=max(attempt, max_attempts),
        node="local",
        pid=cause.pid if cause else 0,
        exit_code=cause.exit_code if cause else 0,
        term_signal=cause.term_signal if cause else 0,
        stderr_tail=cause.stderr_tail if cause else "",
        **facts,
    )
