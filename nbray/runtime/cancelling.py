"""The owner's hands of ``cancel``: ends what has not begun, tells workers of what has.

Called by:  runtime.{submitter,process}, api.cancelling.
Imports:    core.{cancellation,leases,tasks}, runtime.{objects,task_arguments,task_errors}, wire.
Never:      decides: that is ``core.cancellation``'s and ``core.tasks``'. Never waits for a task to end.

All methods but ``cancel_all``: lock held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from nbray.core import cancellation
from nbray.core.actor_calls import Creation, Route
from nbray.core.cancellation import Cancellations
from nbray.core.leases import Lease, LeasePool
from nbray.core.tasks import Task, TaskEvent, TaskSpec, TaskState, TaskTable
from nbray.model import ids
from nbray.model.cancel_errors import ForcedCancellationError
from nbray.model.errors import NbrayError, RayCancellationError
from nbray.runtime.loop import Loop
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.base import Message
from nbray.wire.cancel_messages import CancelOf, CancelTask, SignalWorker
from nbray.wire.messages import WorkerLost
from nbray.wire.waiting_messages import CALL, GetWaits, WaitsReport

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects
    from nbray.runtime.process import Process
    from nbray.runtime.refs import ObjectRef
    from nbray.runtime.task_arguments import TaskArguments

_monotonic = time.monotonic
#: A request for a worker that is of no more use is cancelled after this.
_SOON_S = 0.025
_OF_ACTORS = (Route, Creation)


class Cancelling:
    """The cancelled tasks of one owner.

    Args:
        tell_daemon: sends a message to the node daemon.
        record: notes a change of state of a task, for monitors.
        send: sends a message to the worker of a lease, if it is connected.
    """

    def __init__(
        self,
        tasks: TaskTable,
        pool: LeasePool,
        loop: Loop,
        tell_daemon: Callable[[Message], None],
        record: Callable[[bytes, str, TaskSpec], None],
        send: Callable[[Lease, Message], None],
    ) -> None:
        self.cancellations = Cancellations()
        #: Set by workers: interrupts a task that runs in this process.
        self.interrupt_here: Callable[[Task], None] | None = None
        self._tasks = tasks
        self._pool = pool
        self._loop = loop
        self._tell_daemon = tell_daemon
        self._record = record
        self._send = send
        self._objects: Objects
        self._arguments: TaskArguments

    def attach(self, objects: Objects, arguments: TaskArguments) -> None:
        """Whose results and arguments the tasks have."""
        self._objects = objects
        self._arguments = arguments

    def of_cell(self, cell: str) -> list[bytes]:
        """The tasks that a cell of the notebook submitted and that are not over."""
        return [
            task.task_id
            for task in self._tasks.tasks.values()
            if task.spec.cell == cell and type(task.spec.pooled) not in _OF_ACTORS
        ]

    def cancel(self, task_ids: Iterable[bytes], force: bool) -> int:
        """Cancel own tasks. Returns how many of them were not over."""
        commands: list[cancellation.Command] = []
        found = 0
        now_s = _monotonic()
        for task_id in task_ids:
            task = self._tasks.tasks.get(task_id)
            if task is not None:
                found += 1
                self._cancel(task, force, now_s, commands)
        self._perform(commands)
        if found:
            self._loop.arm(now_s + _SOON_S)
        return found

    def asked(self, message: CancelOf) -> None:
        """Another process cancels one of ours."""
        task = self._tasks.tasks.get(message.task_id)
        if task is not None and type(task.spec.pooled) not in _OF_ACTORS:  # if it could not ask before
            self.cancel([message.task_id], message.force)

    def _cancel(self, task: Task, force: bool, now_s: float, out: list[cancellation.Command]) -> None:
        was_queued = task.state is TaskState.QUEUED
        if self._tasks.cancel(task):
            if was_queued:
                self._pool.unqueue(task)
            self._end(task, _cancelled(task))
            return
        lease = self._pool.lease_of(task)
        if lease is not None:
            self.cancellations.begin(task, lease, force, now_s, out)
        elif self.interrupt_here is not None:
            self.interrupt_here(task)

    def ended(self, task: Task) -> None:
        """It came back from its worker, which had not begun it."""
        self._tasks.cancelled(task)
        self._end(task, _cancelled(task))

    def lost(self, task: Task, cause: WorkerLost | None) -> None:
        """Its worker is gone; ``cause``: and it may have been running."""
        task.step(TaskEvent.WORKER_LOST)
        self._tasks.cancelled(task)
        killed = cause is not None and self.cancellations.is_forced(task)
        self._end(task, _killed(task, cause) if killed else _cancelled(task))

    def housekeeping(self, now_s: float) -> None:
        """Signals that are due."""
        if len(self.cancellations):
            commands: list[cancellation.Command] = []
            next_s = self.cancellations.due(now_s, commands)
            self._perform(commands)
            if next_s is not None:
                self._loop.arm(next_s)

    def _perform(self, commands: Sequence[cancellation.Command]) -> None:
        for command in commands:
            if isinstance(command, cancellation.Tell):
                task = command.task
                self._send(command.lease, CancelTask(task.task_id, task.attempt, command.force))
            else:
                self._tell_daemon(SignalWorker(command.lease.lease_id, command.number))

    def _end(self, task: Task, error: NbrayError) -> None:
        """Its results become an error, and whoever waits for them hears it."""
        self._record(task.task_id, "cancelled", task.spec)
        data = serialize_system_error(error)
        for entry in task.results:
            self._objects.deliver_to(entry, data, True)
        if task.holds:
            self._arguments.over(task)
            if self._arguments.parked:
                self._loop.soon()


def _cancelled(task: Task) -> RayCancellationError:
    return RayCancellationError(task.task_id.hex(), task_name=task.name)


def _killed(task: Task, cause: WorkerLost | None) -> ForcedCancellationError:
    return ForcedCancellationError(
        task_name=task.name,
        task_id=task.task_id.hex(),
        attempt=task.attempt + 1,
        max_attempts=task.attempt + 1,
        pid=cause.pid if cause else 0,
        exit_code=cause.exit_code if cause else 0,
        term_signal=cause.term_signal if cause else 0,
        stderr_tail=cause.stderr_tail if cause else "",
    )


def cancel_all(process: Process, refs: Iterable[ObjectRef], force: bool) -> None:
    """Cancel the tasks that make these objects, whoever owns them; those that are there are no matter.

    Raises:
        TypeError: a call of an actor makes one of them. Nothing is cancelled then.
        NbrayError: the session is lost, or a reference is another session's.
    """
    own: dict[bytes, None] = {}
    others: dict[tuple[bytes, bytes], None] = {}
    for ref in refs:
        entry = process.gets.entry(ref)
        task_id = entry.object_id[: ids.TASK_ID_BYTES]
        if entry.owner is None:
            site = entry.site
            if type(site) is TaskSpec and type(site.pooled) in _OF_ACTORS:
                raise _refused(site.name)
            own[task_id] = None
        elif entry.value is None:
            others[entry.owner, task_id] = None
    if others:
        _check_others(process, {task_id for _owner, task_id in others})
    with process.loop.guard, process.loop.lock:
        process.submitter.cancelling.cancel(own, force)
        for owner, task_id in others:
            process.tell_daemon(CancelOf(owner, task_id, force))


def _check_others(process: Process, task_ids: set[bytes]) -> None:
    """Their owners know which are calls of actors. One that does not answer in time is asked all the same."""
    report = process.ask(
        lambda number: GetWaits(number, [ids.result_id(each, 0) for each in task_ids], False)
    )
    assert isinstance(report, WaitsReport)
    for facts in report.processes:
        for task in facts.tasks:
            if task.kind == CALL and task.task_id in task_ids:
                raise _refused(task.name)


def _refused(name: str) -> TypeError:
    return TypeError(
        f"nbray.cancel() takes the reference of a task's result, and {name} is a call of an actor: its state "
        "would be left as the call happened to leave it. Let the method look now and then whether to stop "
        "(one with max_concurrency above 1 can be told meanwhile), or end the actor with nbray.kill(handle)."
    )
