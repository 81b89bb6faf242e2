"""Failures that an owner tells of its tasks, since no worker could: processes that died, and what follows.

Called by:  runtime.submitter.
Imports:    core.poison, nbray.model, runtime.{pushed_errors,task_errors}, wire.
Never:      guesses a cause: what the daemon did not tell is not said.
"""

from __future__ import annotations

import signal

from nbray.core.poison import Poison
from nbray.core.tasks import Task
from nbray.model.ending_errors import RayOutOfMemoryError, TaskTimeoutError
from nbray.model.errors import NbrayError, RayCancellationError, RayWorkerError
from nbray.runtime.pushed_errors import TASK, push
from nbray.runtime.task_errors import text_of
from nbray.wire.messages import WorkerLost
from nbray.wire.waiting_messages import BY_MEMORY, BY_TIMEOUT

_CLASSES: dict[str, type[RayWorkerError]] = {BY_MEMORY: RayOutOfMemoryError, BY_TIMEOUT: TaskTimeoutError}

#: How a program ends because of what it did itself.
CRASH_SIGNALS = frozenset(
    {
        signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP,
        signal.SIGSYS,
    }
)  # fmt: skip


def new_poison() -> Poison:
    """Watches the tasks of one owner for those that crash at once, again and again."""
    return Poison(CRASH_SIGNALS)


def worker_error(task: Task, cause: WorkerLost | None, *, is_poison: bool = False) -> RayWorkerError:
    """The typed error for a task whose worker died."""
    attempt = task.attempt + 1
    made = _CLASSES.get(cause.cause, RayWorkerError) if cause else RayWorkerError
    facts = cause.facts if cause and made is not RayWorkerError else {}
    return made(
        task_name=task.name,
        task_id=task.task_id.hex(),
        attempt=attempt,
        max_attempts=max(attempt, task.max_retries + 1),
        pid=cause.pid if cause else 0,
        exit_code=cause.exit_code if cause else 0,
        term_signal=cause.term_signal if cause else 0,
        stderr_tail=cause.stderr_tail if cause else "",
        why=cause.why if cause else "Nothing was heard of how it ended.",
        is_poison=is_poison,
        **facts,
    )


def tell_failed(task: Task, error: NbrayError) -> None:
    """A task ends without an answer of a worker."""
    if isinstance(error, RayWorkerError):
        name = f"{task.name} {task.task_id.hex()[24:32]}"
        push("worker_died", f"A worker died or was killed while executing task {name}.\n{error}")
    elif not isinstance(error, RayCancellationError):
        push(TASK, f"task {task.name} failed\n{error}")


def tell_not_run(task: Task, error: bytes) -> None:
    """An argument of a task is the error of another."""
    reason = text_of(error).rstrip().rpartition("\n")[2]
    push(TASK, f"task {task.name} did not run, since an argument of it is a failure: {reason}")
