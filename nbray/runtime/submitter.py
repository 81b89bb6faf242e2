"""Tasks on their way: leases, pushes to workers, answers, workers that die.

Called by:  runtime.process.
Imports:    core.{tasks,leases}, runtime.{loop,objects,functions,cancelling}, transport, wire.
Never:      decides: that is core.tasks' and core.leases'. Never runs without ``loop.lock`` held.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nbray.core import leases as lease_commands
from nbray.core.actor_calls import Creation, Route
from nbray.core.dying import CAUSE_LATE_S, Dying
from nbray.core.leases import Command, Lease, LeasePool, LeaseState
from nbray.core.tasks import Task, TaskSpec, TaskState, TaskTable
from nbray.model.errors import NbrayError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.model.resources import UNIT, Shape
from nbray.runtime.cancelling import Cancelling
from nbray.runtime.functions import Exports
from nbray.runtime.links import Link, Links, definition_of
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.parcels import Parcels
from nbray.runtime.recomputing import Recomputing
from nbray.runtime.relief import Relief
from nbray.runtime.task_arguments import BULKY_BYTES, MANY, TaskArguments
from nbray.runtime.task_errors import serialize_system_error
from nbray.runtime.time_limits import TimeLimits
from nbray.runtime.worker_errors import Teller, new_poison, tell_failed, tell_not_run, worker_error
from nbray.transport.channel import Channel
from nbray.wire import messages
from nbray.wire.base import Descriptor, Message
from nbray.wire.codec import encode
from nbray.wire.messages import TaskAnswer, TaskCall, TasksDone
from nbray.wire.object_messages import FreeObjects, SettleParcels

if TYPE_CHECKING:
    from nbray.runtime.actors import Actors

_monotonic = time.monotonic

_TICK_S = 0.025
#: Where calls and constructors of actors stand, which go their own way.
_OF_ACTORS = (Route, Creation)


class Submitter:
    """The tasks of one owner.

    Args:
        tell_daemon: sends a message to the node daemon.
        log_due: told (process ID, sequence) of log lines that precede an answer.
        record: notes a change of state of a task, for monitors; ``submitted`` the first of them.
    """

    def __init__(
        self,
        loop: Loop,
        address: messages.OwnerAddress,
        job_id: bytes,
        tell_daemon: Callable[[Message], None],
        log_due: Callable[[bytes, int], None],
        record: Callable[[bytes, str, TaskSpec], None],
        submitted: Callable[[bytes, TaskSpec], None],
    ) -> None:
        self.tasks = TaskTable()
        self.exports = Exports()
        self.pool = LeasePool(partial(os.urandom, 16), self._parallelism)
        self.objects: Objects  # set by ``attach``: the two need each other
        self.parcels: Parcels
        self.arguments: TaskArguments
        self.recomputing: Recomputing
        self.actors: Actors  # set by ``runtime.process``
        self.node_cpus = UNIT
        self._loop = loop
        self.address = address
        self.job_id = job_id
        self._tell_daemon = tell_daemon
        self._log_due = log_due
        self._record = record
        self._submitted = submitted
        self.links = Links(loop)
        self.cancelling = Cancelling(self.tasks, self.pool, loop, tell_daemon, record, self._send)
        self._touched: list[Lease] = []
        self._doomed: deque[tuple[Task, bytes, Teller]] = deque()  # an argument of theirs is an error
        self._dying = Dying()
        self._poison = new_poison()
        self.relief = Relief(self.tasks, self.argument_ready, loop.arm)
        self.time_limits = TimeLimits(self.pool, tell_daemon)

    def attach(self, objects: Objects) -> None:
        """Whose values the tasks take and make."""
        self.objects = objects
        self.parcels = Parcels(objects, self._tell_daemon)
        self.arguments = TaskArguments(objects, self.tasks, self.pool)
        objects.in_use = self.arguments.in_use
        self.recomputing = objects.recomputing = Recomputing(objects, self)
        self.cancelling.attach(objects, self.arguments)

    def _parallelism(self, shape: Shape) -> int:
        cpus = dict(shape).get("CPU", 0)
        return self.node_cpus // cpus if cpus else lease_commands.UNBOUNDED_PARALLELISM

    def has_work(self) -> bool:
        """Whether a task or a call is not over. Constructors that may run again end with this process."""
        return any(type(task.spec.pooled) is not Creation for task in self.tasks.tasks.values())

    # --- tasks in ------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Register a new task and send it on its way as far as it can go."""
        self._submitted(task.task_id, task.spec)
        if not task.holds:
            self.tasks.add_ready(task)
            if not self.pool.queue_up(task):
                self._place(task)
        elif self.tasks.add(task, self.arguments.hold(task)):
            self._place(task)
        elif type(task.spec.pooled) in _OF_ACTORS:
            self.actors.hold_place(task)

    def argument_ready(self, task: Task) -> None:
        """One of the objects that a task waited for is there."""
        if self.tasks.argument_ready(task):
            if type(task.spec.pooled) in _OF_ACTORS:
                self.actors.arguments_ready(task)
            else:
                self._place(task)

    def _place(self, task: Task) -> None:
        if type(task.spec.pooled) in _OF_ACTORS:
            self.actors.place(task)
            return
        if task.holds:
            error = self.arguments.error(task)
            if error is not None:
                self.pass_on(task, error)
                return
            if len(task.dependencies) > MANY and self.arguments.move(task):
                return
        commands: list[Command] = []
        self.pool.place(task, _monotonic(), commands)
        if commands:
            self._perform(commands)
        elif self.pool.ripe and not self._loop.is_due:
            self._loop.soon()

    def argument_refused(self, task: Task, error: NbrayError) -> None:
        """The store has no room for its arguments."""
        if task.state is TaskState.WAITING:
            self._fail(task, error)

    def before_poll(self) -> None:
        """Push what was queued for workers that are busy."""
        if self.pool.ripe:
            self.run(self.pool.feed_ripe)
        if self._touched or self.arguments.parked:
            self.after_batch()

    def pass_on(self, task: Task, error: bytes, tell: Teller = tell_not_run) -> None:
        """End a task, and then those that this ends: one by one, since a chain of them may be long."""
        if task.state is TaskState.FAILED:  # such a chain has ended it
            return
        self.tasks.given_up(task)  # at once: nobody may send it while others are ended
        self._doomed.append((task, error, tell))
        if len(self._doomed) == 1:
            while self._doomed:
                task, error, tell = self._doomed[0]
                tell(task, error)
                self._finish(task, error)
                self._doomed.popleft()

    # --- commands --------------------------------------------------------------------------------

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            kind = type(command)
            if kind is lease_commands.Push:
                self._push(command.lease, command.tasks)  # type: ignore[union-attr]  # the kind says so
            elif kind is lease_commands.RequestLease:
                self._request(command.lease, command.backlog)  # type: ignore[union-attr]
            elif kind is lease_commands.GiveBack:
                self._give_back(command.lease)  # type: ignore[union-attr]
            elif kind is lease_commands.CancelRequest:
                self._tell_daemon(messages.CancelLease(command.lease.lease_id))  # type: ignore[union-attr]
            elif kind is lease_commands.TakeBack:
                self._send(command.lease, messages.TakeBack(command.lease.lease_id, command.number))  # type: ignore[union-attr]
            elif kind is lease_commands.EndCancelled:
                self.cancelling.ended(command.task)  # type: ignore[union-attr]
        if commands:
            self._loop.arm(_monotonic() + _TICK_S)

    def _request(self, lease: Lease, backlog: int) -> None:
        queue = self.pool.shapes[lease.shape].queue
        depth, name = (queue[0].spec.depth, queue[0].name) if queue else (0, "")
        self._tell_daemon(messages.RequestLease(lease.lease_id, dict(lease.shape), backlog, depth, name))

    def _give_back(self, lease: Lease) -> None:
        if isinstance(lease.host, Link):
            lease.host.lease = None
        self._tell_daemon(messages.ReturnLease(lease.lease_id))

    def _send(self, lease: Lease, message: Message) -> None:
        link = lease.host
        assert isinstance(link, Link)
        if link.channel is not None:
            self._loop.send(link.channel, encode(message), now=True)

    def _push(self, lease: Lease, tasks: list[Task]) -> None:
        link = lease.host
        assert type(link) is Link
        channel = link.channel
        if channel is None:  # it died; its tasks are dealt with when the cause is known
            return
        # An idle worker gets it at once, a busy one in the next batch, which must not grow without bound.
        now = len(lease.inflight) == len(tasks)
        rows: list[TaskCall] = []
        known = link.specs
        for task in tasks:
            spec_id = task.spec.spec_id
            if spec_id not in known:
                self._loop.send_rows(channel, rows, now=False)
                rows = []
                self._introduce(link, channel, task.spec)
            if task.holds and self.arguments.is_doubtful(task) and self.arguments.withdraw(lease, task):
                self._touched.append(lease)  # it has room for others
                self._loop.soon()
                continue
            if task.holds:
                args, values, bulky = self.arguments.values(task)
                now = now or bulky
            else:
                args, values = task.args, []
                if len(args) > BULKY_BYTES:  # type: ignore[arg-type]  # nothing in the store without a hold
                    now = True
            rows.append(TaskCall(task.task_id, task.attempt, spec_id, args, values, task.seal_results))
        self._loop.send_rows(channel, rows, now=now)

    def _introduce(self, link: Link, channel: Channel, spec: TaskSpec) -> None:
        """Tell a worker once what all calls of a kind have in common."""
        link.specs.add(spec.spec_id)
        frames = b""
        if spec.function_id not in link.functions:
            link.functions.add(spec.function_id)
            frames = encode(self.exports.messages[spec.function_id])
        frames += encode(definition_of(spec))
        self._loop.send(channel, frames, now=False)

    # --- answers -----------------------------------------------------------------------------------

    def _on_worker_message(self, link: Link, message: Message) -> None:
        lease = link.lease
        if type(message) is TasksDone:
            self._on_done(link, lease, message.answers)
        elif lease is None:
            return
        elif type(message) is messages.HandBack:
            if message.lease_id == lease.lease_id:
                given = set(message.tasks)
                tasks = [t for t in lease.inflight if (t.task_id, t.attempt) in given]
                self.run(partial(self.pool.handed_back, lease, tasks))
        elif type(message) is messages.LeasePaused:
            if message.lease_id == lease.lease_id:
                self.run(partial(self.pool.paused, lease))
        elif type(message) is messages.LeaseResumed and message.lease_id == lease.lease_id:
            self.run(partial(self.pool.resumed, lease))

    def _on_done(self, link: Link, lease: Lease | None, answers: list[TaskAnswer]) -> None:
        slowest_us = self.deliver(link, lease, answers, self.pool.answered)
        if lease is not None and slowest_us >= 0:
            self.pool.measured(lease, slowest_us)
        if lease is not None and (not self._touched or self._touched[-1] is not lease):
            self._touched.append(lease)

    def deliver(
        self, link: Link, host: Any, answers: list[TaskAnswer], answered: Callable[[Any, Task, float], bool]
    ) -> int:
        """Hand the results of tasks to who waits for them.

        Args:
            link: who answers.
            host: the lease or the route on which the tasks were sent, None if that is over.
            answers: in their order.
            answered: whether a task is the host's, and is now off its books.

        Returns:
            How long the slowest of them ran, in microseconds; -1 if none counts.
        """
        now_s = _monotonic()
        deliver_to = self.objects.deliver_to
        slowest_us = -1
        for answer in answers:
            task = self.tasks.current(answer.task_id, answer.attempt)
            if task is None or host is None or not answered(host, task, now_s):
                self._on_stale(link, answer, task)
                continue
            slowest_us = max(slowest_us, answer.execution_us)
            if answer.log_sequence:
                self._log_due(link.process_id, answer.log_sequence)
            self.tasks.answered(task)
            if answer.failed and len(task.results) > 1:
                # Some results may have been stored before another failed.
                stored = [entry.object_id for entry in task.results if entry.value is None]
                self._tell_daemon(FreeObjects(stored))
            if answer.inner:
                self.parcels.take(link.process_id, answer, task)
            for entry, value in zip(task.results, answer.results):  # noqa: B905  # a keyword costs 0.1 us
                deliver_to(entry, value, answer.failed)
            if len(task.results) != 1 or type(value) is Descriptor:
                self.recomputing.keep(task)
            if task.holds:
                self.arguments.over(task)
        return slowest_us

    def on_settle_parcels(self, message: SettleParcels) -> None:
        """A worker is dead: nothing of it is on its way any more once what it had sent is read."""
        self.links.read_last_words(message.sender)
        self.parcels.settle(message.sender)

    def _on_stale(self, link: Link, answer: TaskAnswer, task: Task | None) -> None:
        """An answer that comes late or again: what it stored belongs to nobody."""
        if answer.inner:
            self.parcels.end(link.process_id, answer)
        known = self.objects.table.entries
        stale = [v.object_id for v in answer.results if type(v) is Descriptor and v.object_id not in known]
        if stale and task is None and answer.task_id not in self.tasks.tasks:
            self._tell_daemon(FreeObjects(stale))

    def after_batch(self) -> None:
        """The messages of one read are dispatched: keep the leases busy."""
        if self.arguments.parked:
            for task in self.arguments.admit(_monotonic()):
                self._place(task)
        if self._touched:
            touched, self._touched = self._touched, []
            commands: list[Command] = []
            now_s = _monotonic()
            for lease in touched:
                if lease.lease_id in self.pool.by_id:
                    self.pool.feed(lease, now_s, commands)
            if commands:
                self._perform(commands)
            else:
                self._loop.arm(now_s + _TICK_S)

    def run(self, decide: Callable[[float, list[Command]], None]) -> None:
        """Decide something, and perform what comes of it. Lock held."""
        commands: list[Command] = []
        decide(_monotonic(), commands)
        self._perform(commands)

    def _finish(self, task: Task, error: bytes) -> None:
        """Who waits for a task that was given up hears it: all its results become ``error``."""
        self._record(task.task_id, "failed", task.spec)
        for entry in task.results:
            self.objects.deliver_to(entry, error, True)
        if type(task.spec.pooled) in _OF_ACTORS:
            self.actors.gave_up(task, error)
        if task.holds:
            self.arguments.over(task)
            if self.arguments.parked:
                self._loop.soon()

    # --- leases come and go --------------------------------------------------------------------------

    def on_granted(self, message: messages.LeaseGranted) -> None:
        commands: list[Command] = []
        now_s = _monotonic()
        lease = self.pool.granted(message.lease_id, now_s, commands)
        if lease is None:
            if message.lease_id not in self.pool.by_id:  # else it was granted before: a repeated message
                self._tell_daemon(messages.ReturnLease(message.lease_id))
            return
        worker = message.worker
        link = self.links.by_process.get(worker.process_id)
        try:
            if link is None:
                link = self.links.connect(
                    worker.process_id, worker.endpoint, self._on_worker_message, self._on_link_closed
                )
        except OSError:
            # It died between the grant and now; the daemon will say so. Nothing is pushed to it,
            # since no task must lose an attempt that it never had.
            link = Link(worker.process_id)
            self._await_cause(lease)
        lease.host = link
        link.lease = lease
        if link.channel is not None:
            hello = messages.OwnerHello(PROTOCOL_VERSION, lease.lease_id, self.address, self.job_id)
            self._loop.send(link.channel, encode(hello), now=False)
            self.pool.feed(lease, now_s, commands)
            self._perform(commands)
            self._loop.flush()
            self._loop.arm(now_s + _TICK_S)  # also when nothing is left to push: it must go back

    def on_reclaim(self, lease_id: bytes, when_idle: bool) -> None:
        commands: list[Command] = []
        (self.pool.spare if when_idle else self.pool.reclaim)(lease_id, commands)
        self._perform(commands)

    # --- workers die -----------------------------------------------------------------------------------

    def _on_link_closed(self, link: Link) -> None:
        lease = link.lease
        if lease is not None and lease.lease_id in self.pool.by_id:
            self._await_cause(lease)

    def _await_cause(self, lease: Lease) -> None:
        """Its worker is gone: push nothing more; the daemon tells why, or a deadline passes."""
        self.pool.closing(lease)
        now_s = _monotonic()
        self._dying.closed(lease, now_s)
        self._loop.arm(now_s + CAUSE_LATE_S)

    def on_worker_lost(self, message: messages.WorkerLost) -> None:
        """The daemon knows how the worker of one of our leases ended."""
        lease = self.pool.by_id.get(message.lease_id)
        if lease is None:
            return
        if lease.state is LeaseState.REQUESTED:
            self._on_no_worker(lease, message)
            return
        self.pool.closing(lease)  # push nothing more, whatever its last words set off
        link = lease.host
        assert isinstance(link, Link)
        self.links.bury(link)
        self._bury(lease, message)

    def _bury(self, lease: Lease, cause: messages.WorkerLost | None) -> None:
        """Retry or fail what ran on a lease whose worker is gone; the rest never started."""
        now_s = _monotonic()
        ran_s = self._dying.buried(lease, now_s)
        tasks = self.pool.lost(lease)
        cancelled = [task for task in tasks if task.state is TaskState.CANCELLING]
        running, waiting = ([t for t in some if t not in cancelled] for some in (tasks[:1], tasks[1:]))
        for task in tasks:
            for entry in task.results:
                entry.doubtful = True
        commands: list[Command] = []
        self.pool.requeue_unstarted(waiting, lease.shape, now_s, commands)
        failed: list[Task] = []
        is_poison = False
        for task in running:
            is_poison = cause is not None and self._poison.is_found_in(task.task_id, cause.term_signal, ran_s)
            if not is_poison and self.tasks.worker_lost(task):
                self._record(task.task_id, "retried", task.spec)
                if not self.relief.keeps(task, cause, now_s):
                    self.pool.requeue(task, now_s, commands)
            else:
                failed.append(task)
        # First these: a failure may free others to be pushed, and pushes leave in their order.
        self._perform(commands)
        for task in failed:
            self._fail(task, worker_error(task, cause, is_poison=is_poison and task.may_retry()))
        for task in cancelled:
            self.cancelling.lost(task, cause if task is tasks[0] else None)

    def _on_no_worker(self, lease: Lease, message: messages.WorkerLost) -> None:
        """Workers die before they are up: fail what waits for one rather than try for ever.

        Unless a worker of that shape is there: it will get round to them.
        """
        shape = self.pool.shapes[lease.shape]
        self.pool.lost(lease)
        if any(other.state is LeaseState.OPEN for other in shape.leases.values()):
            return
        for task in shape.take_all():
            self._fail(task, worker_error(task, message))
        self._loop.arm(_monotonic() + _TICK_S)  # to cancel the other requests of this shape

    def _fail(self, task: Task, error: NbrayError) -> None:
        tell_failed(task, error)
        self.tasks.given_up(task)
        self._finish(task, serialize_system_error(error))

    # --- time passes -------------------------------------------------------------------------------------

    def housekeeping(self, now_s: float) -> None:
        for lease in self._dying.given_up(now_s):
            self._bury(lease, None)
        for lease in self._dying.late(now_s):
            self._tell_daemon(messages.LinkLost(lease.lease_id))
        self.cancelling.housekeeping(now_s)
        self.relief.housekeeping(now_s)
        self.time_limits.check(now_s)
        commands: list[Command] = []
        again = self.pool.housekeeping(now_s, commands)
        self._perform(commands)
        if self.arguments.parked:
            self.after_batch()
        if again or self._dying or self.arguments.parked:
            self._loop.arm(now_s + _TICK_S)
