"""Failures that an owner tells of its tasks, since no worker could: processes that died, and what follows.

Called by:  runtime.{actors,submitter}.
Imports:    core.poison, nbray.model, runtime.{pushed_errors,task_errors}, wire.
Never:      guesses a cause: what the daemon did not tell is not said.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from nbray.core.poison import Poison
from nbray.core.tasks import Task
from nbray.model.actor_errors import ActorOutOfMemoryError, RayActorError
from nbray.model.ending_errors import RayOutOfMemoryError, TaskTimeoutError
from nbray.model.errors import NbrayError, RayCancellationError, RayWorkerError
from nbray.runtime.pushed_errors import TASK, push
from nbray.runtime.task_errors import text_of
from nbray.wire.actor_messages import ActorUpdate
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


#: Tells people of a task that ends with an error without having run.
Teller = Callable[[Task, bytes], None]


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


def actor_error(class_name: str, actor_id: bytes, update: ActorUpdate) -> RayActorError:
    """The typed error for calls of an actor that died, or whose process did."""
    end = update.end
    if end is None:
        return RayActorError(class_name=class_name, actor_id=actor_id.hex(), why=update.why)
    by_memory = end.cause == BY_MEMORY
    made = ActorOutOfMemoryError if by_memory else RayActorError
    return made(
        class_name=class_name, actor_id=actor_id.hex(), why=update.why, node="local", pid=end.pid,
        exit_code=end.exit_code, term_signal=end.term_signal, stderr_tail=end.stderr_tail,
        **(end.facts if by_memory else {}),
    )  # fmt: skip


def tell_nobody(_task: Task, _error: bytes) -> None:
    """A call fails, and people know why, or that was wanted."""


def tell_unborn(task: Task, error: bytes) -> None:
    """The actor of a call was never made: this is what its constructor raised."""
    push(TASK, f"task {task.name} did not run, since its actor could not be made:\n{text_of(error)}")


def tell_not_run(task: Task, error: bytes) -> None:
    """An argument of a task is the error of another."""
    reason = text_of(error).rstrip().rpartition("\n")[2]
    push(TASK, f"task {task.name} did not run, since an argument of it is a failure: {reason}")
