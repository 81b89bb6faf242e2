"""``cancel``: a task is not needed any more.

Called by:  users.
Imports:    runtime.{cancelling,current}, model.
Never:      waits for the task to end (``get`` and ``wait`` of its reference do).
"""

from __future__ import annotations

from collections.abc import Iterable

from nbray.model.ids import is_put
from nbray.runtime.cancelling import cancel_all
from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef


def cancel(object_id: ObjectRef, force: bool = False) -> None:
    """Cancel the task that makes this object.

    A task that has not begun never does. In one that runs KeyboardInterrupt is raised, also where it sleeps
    or waits. If it is not over after a second, its process is asked to end (SIGTERM), and killed after
    another second. A task that is over is left as it is. Nothing of a cancelled task is retried.

    ``get`` of the reference, and of tasks that take it, raises ``RayCancellationError``. A task that catches
    the KeyboardInterrupt and returns has a value all the same: what it saved of its work is not lost.

    What the task has submitted itself goes on, unless its process is killed.

    Args:
        object_id: of a task's result, also of one that another process submitted.
        force: kill the process of a running task at once. ``get`` then raises an error that is also a
            ``RayWorkerError``.

    Raises:
        TypeError: not a reference, or a reference of a value that was put, or of a call of an actor.
        RayConnectionError: no session is running.
    """
    cancel_many([object_id], force)


def cancel_many(object_ids: Iterable[ObjectRef], force: bool = False) -> None:
    """The same for many at once."""
    refs = list(object_ids)
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(
                f"nbray.cancel() takes the reference of a task's result, not {type(ref).__name__}."
            )
        if is_put(ref.binary()):
            raise TypeError(
                "nbray.cancel() takes the reference of a task's result; no task makes a value that was put."
            )
    cancel_all(current(), refs, bool(force))


def cancel_cell(cell: str, force: bool = False) -> int:
    """Cancel what a cell of the notebook submitted. Returns how many tasks that were."""
    process = current()
    with process.loop.guard, process.loop.lock:
        cancelling = process.submitter.cancelling
        return cancelling.cancel(cancelling.of_cell(cell), bool(force))
