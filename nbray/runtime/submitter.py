"""Tasks on their way: leases, pushes to workers, answers, workers that die.

Called by:  runtime.process.
Imports:    core.{tasks,leases}, runtime.{loop,objects,functions}, transport, wire.
Never:      decides: that is core.tasks' and core.leases'. Never runs without ``loop.lock`` held.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.core import leases as lease_commands
from nbray.core.leases import Command, Lease, LeasePool, LeaseState
from nbray.core.tasks import Task, TaskSpec, TaskState, TaskTable
from nbray.model.errors import NbrayError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.model.resources import CPU, UNIT, Shape
from nbray.runtime.functions import Exports
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.parcels import Parcels
from nbray.runtime.recomputing import Recomputing
from nbray.runtime.task_arguments import MANY, TaskArguments
from nbray.runtime.worker_errors import worker_error
from nbray.transport.channel import Channel
from nbray.transport.sockets import connect
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.codec import encode
from nbray.wire.messages import (
    CancelLease,
    DefineTask,
    HandBack,
    LeaseGranted,
    LeasePaused,
    LeaseResumed,
    OwnerAddress,
    OwnerHello,
    RequestLease,
    ReturnLease,
    RunTasks,
    TakeBack,
    TaskAnswer,
    TaskCall,
    TasksDone,
    WorkerLost,
)
from nbray.wire.object_messages import FreeObjects, SettleParcels

_monotonic = time.monotonic

_TICK_S = 0.025
#: How long the cause of a worker's death may take to arrive after its socket closed.
_CAUSE_DEADLINE_S = 10.0
#: A call with more arguments than this does not wait for a batch.
_BULKY_BYTES = 4096


class Link:
    """A connection to one worker. It stays open between leases."""

    __slots__ = ("channel", "functions", "lease", "process_id", "specs")

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.channel: Channel | None = None
        self.functions: set[bytes] = set()  # that it was told
        self.specs: set[int] = set()
        self.lease: Lease | None = None


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
        address: OwnerAddress,
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
        self.node_cpus = UNIT
        self._loop = loop
        self._address = address
        self.job_id = job_id
        self._tell_daemon = tell_daemon
        self._log_due = log_due
        self._record = record
        self._submitted = submitted
        self._links: dict[bytes, Link] = {}
        self._touched: list[Lease] = []
        self._doomed: deque[tuple[Task, bytes]] = deque()  # an argument of theirs is an error
        self._dying: dict[bytes, tuple[Lease, float]] = {}  # socket closed, cause still to come

    def attach(self, objects: Objects) -> None:
        """Whose values the tasks take and make."""
        self.objects = objects
        self.parcels = Parcels(objects, self._tell_daemon)
        self.arguments = TaskArguments(objects, self.tasks, self.pool)
        objects.in_use = self.arguments.in_use
        self.recomputing = objects.recomputing = Recomputing(objects, self)

    def _parallelism(self, shape: Shape) -> int:
        cpus = dict(shape).get("CPU", 0)
        return self.node_cpus // cpus if cpus else lease_commands.UNBOUNDED_PARALLELISM

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

    def argument_ready(self, task: Task) -> None:
        """One of the objects that a task waited for is there."""
        if self.tasks.argument_ready(task):
            self._place(task)

    def _place(self, task: Task) -> None:
        if task.holds:
            error = self.arguments.error(task)
            if error is not None:
                self._pass_on(task, error)
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
            self._run(self.pool.feed_ripe)
        if self._touched or self.arguments.parked:
            self.after_batch()

    def _pass_on(self, task: Task, error: bytes) -> None:
        """End a task, and then those that this ends: one by one, since a chain of them may be long."""
        self._doomed.append((task, error))
        if len(self._doomed) == 1:
            while self._doomed:
                self._finish(*self._doomed[0], True)
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
                self._give_back(command.lease)
            elif kind is lease_commands.CancelRequest:
                self._tell_daemon(CancelLease(command.lease.lease_id))
            elif kind is lease_commands.TakeBack:
                self._send(command.lease, TakeBack(command.lease.lease_id, command.number))  # type: ignore[union-attr]
        if commands:
            self._loop.arm(_monotonic() + _TICK_S)

    def _request(self, lease: Lease, backlog: int) -> None:
        queue = self.pool.shapes[lease.shape].queue
        depth, name = (queue[0].spec.depth, queue[0].name) if queue else (0, "")
        self._tell_daemon(RequestLease(lease.lease_id, dict(lease.shape), backlog, depth, name))

    def _give_back(self, lease: Lease) -> None:
        if isinstance(lease.host, Link):
            lease.host.lease = None
        self._tell_daemon(ReturnLease(lease.lease_id))

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
        known, entries = link.specs, self.objects.table.entries
        for task in tasks:
            spec_id = task.spec.spec_id
            if spec_id not in known:
                self._loop.send_rows(channel, rows, now=False)
                rows = []
                self._introduce(link, channel, task.spec)
            # All of them were ready; but what was lost since then is None until it is made again.
            values: list[Any] = [entries[d].value for d in task.dependencies] if task.dependencies else []
            is_doubtful = (task.holds and self.objects.away) or None in values
            if is_doubtful and self.arguments.withdraw(lease, task):
                self._touched.append(lease)  # it has room for others
                self._loop.soon()
                continue
            if values:
                self.arguments.share_inner(task)
                now = True
            args: Any = task.args
            if type(args) is Descriptor:
                args = entries[args.object_id].value  # it may have been moved
            elif len(args) > _BULKY_BYTES:
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
        threads = max(1, dict(spec.shape).get(CPU, 0) // UNIT)
        frames += encode(
            DefineTask(
                spec.spec_id, spec.function_id, spec.name, spec.num_returns, spec.depth, spec.cell, threads
            )
        )
        self._loop.send(channel, frames, now=False)

    # --- answers -----------------------------------------------------------------------------------

    def _on_worker_message(self, link: Link, message: Message) -> None:
        lease = link.lease
        if type(message) is TasksDone:
            self._on_done(link, lease, message.answers)
        elif lease is None:
            return
        elif type(message) is HandBack:
            if message.lease_id == lease.lease_id:
                given = set(message.tasks)
                tasks = [t for t in lease.inflight if (t.task_id, t.attempt) in given]
                self._run(partial(self.pool.handed_back, lease, tasks))
        elif type(message) is LeasePaused:
            if message.lease_id == lease.lease_id:
                self._run(partial(self.pool.paused, lease))
        elif type(message) is LeaseResumed and message.lease_id == lease.lease_id:
            self._run(partial(self.pool.resumed, lease))

    def _on_done(self, link: Link, lease: Lease | None, answers: list[TaskAnswer]) -> None:
        now_s = _monotonic()
        deliver_to = self.objects.deliver_to
        slowest_us = -1
        for answer in answers:
            task = self.tasks.current(answer.task_id, answer.attempt)
            if task is None or lease is None or not self.pool.answered(lease, task, now_s):
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
        if lease is not None and slowest_us >= 0:
            self.pool.measured(lease, slowest_us)
        if lease is not None and (not self._touched or self._touched[-1] is not lease):
            self._touched.append(lease)

    def on_settle_parcels(self, message: SettleParcels) -> None:
        """A worker is dead: nothing of it is on its way any more once what it had sent is read."""
        link = self._links.get(message.sender)
        if link is not None and link.channel is not None:
            link.channel.read_last_words()
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

    def _run(self, decide: Callable[[float, list[Command]], None]) -> None:
        commands: list[Command] = []
        decide(_monotonic(), commands)
        self._perform(commands)

    def _finish(self, task: Task, error: bytes, failed: bool) -> None:
        """End a task here: all its results become ``error``."""
        self._record(task.task_id, "failed", task.spec)
        self.tasks.given_up(task)
        for entry in task.results:
            self.objects.deliver_to(entry, error, failed)
        if task.holds:
            self.arguments.over(task)
            if self.arguments.parked:
                self._loop.soon()

    # --- leases come and go --------------------------------------------------------------------------

    def on_granted(self, message: LeaseGranted) -> None:
        commands: list[Command] = []
        now_s = _monotonic()
        lease = self.pool.granted(message.lease_id, now_s, commands)
        if lease is None:
            if message.lease_id not in self.pool.by_id:  # else it was granted before: a repeated message
                self._tell_daemon(ReturnLease(message.lease_id))
            return
        link = self._links.get(message.worker.process_id)
        try:
            if link is None:
                link = self._connect(message.worker)
        except OSError:
            # It died between the grant and now; the daemon will say so. Nothing is pushed to it,
            # since no task must lose an attempt that it never had.
            link = Link(message.worker.process_id)
            self._await_cause(lease)
        lease.host = link
        link.lease = lease
        if link.channel is not None:
            hello = OwnerHello(PROTOCOL_VERSION, lease.lease_id, self._address, self.job_id)
            self._loop.send(link.channel, encode(hello), now=False)
            self.pool.feed(lease, now_s, commands)
            self._perform(commands)
            self._loop.flush()
            self._loop.arm(now_s + _TICK_S)  # also when nothing is left to push: it must go back

    def _connect(self, worker: OwnerAddress) -> Link:
        link = Link(worker.process_id)
        sock = connect(worker.endpoint)
        link.channel = self._loop.add(
            sock, "worker", partial(self._on_worker_message, link), partial(self._on_link_closed, link)
        )
        link.channel.batch = RunTasks
        self._links[worker.process_id] = link
        return link

    def on_reclaim(self, lease_id: bytes, when_idle: bool) -> None:
        commands: list[Command] = []
        (self.pool.spare if when_idle else self.pool.reclaim)(lease_id, commands)
        self._perform(commands)

    # --- workers die -----------------------------------------------------------------------------------

    def _on_link_closed(self, link: Link) -> None:
        link.channel = None
        self._links.pop(link.process_id, None)
        lease = link.lease
        if lease is not None and lease.lease_id in self.pool.by_id:
            self._await_cause(lease)

    def _await_cause(self, lease: Lease) -> None:
        """Its worker is gone: push nothing more; the daemon tells why, or a deadline passes."""
        self.pool.closing(lease)
        deadline_s = _monotonic() + _CAUSE_DEADLINE_S
        self._dying[lease.lease_id] = (lease, deadline_s)
        self._loop.arm(deadline_s)

    def on_worker_lost(self, message: WorkerLost) -> None:
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
        if link.channel is not None:
            # Its last answers may lie unread; and a child that it forked may keep the socket open.
            link.channel.read_last_words()
            channel = link.channel
            if channel is not None:
                self._loop.remove(channel)
                link.channel = None
                self._links.pop(link.process_id, None)
        self._bury(lease, message)

    def _bury(self, lease: Lease, cause: WorkerLost | None) -> None:
        """Retry or fail what ran on a lease whose worker is gone; the rest never started."""
        self._dying.pop(lease.lease_id, None)
        tasks = self.pool.lost(lease)
        running, waiting = tasks[:1], tasks[1:]
        for task in tasks:
            for entry in task.results:
                entry.doubtful = True
        commands: list[Command] = []
        now_s = _monotonic()
        self.pool.requeue_unstarted(waiting, lease.shape, now_s, commands)
        failed: list[Task] = []
        for task in running:
            if self.tasks.worker_lost(task):
                self._record(task.task_id, "retried", task.spec)
                self.pool.requeue(task, now_s, commands)
            else:
                failed.append(task)
        # First these: a failure may free others to be pushed, and pushes leave in their order.
        self._perform(commands)
        for task in failed:
            attempts = task.attempt + 1
            self._fail(task, worker_error(task.name, task.task_id, attempts, task.max_retries + 1, cause))

    def _on_no_worker(self, lease: Lease, message: WorkerLost) -> None:
        """Workers die before they are up: fail what waits for one rather than try for ever.

        Unless a worker of that shape is there: it will get round to them.
        """
        shape = self.pool.shapes[lease.shape]
        self.pool.lost(lease)
        if any(other.state is LeaseState.OPEN for other in shape.leases.values()):
            return
        waiting = list(shape.queue)
        shape.queue.clear()
        for task in waiting:
            self._fail(task, worker_error(task.name, task.task_id, task.attempt + 1, 0, message))
        self._loop.arm(_monotonic() + _TICK_S)  # to cancel the other requests of this shape

    def _fail(self, task: Task, error: NbrayError) -> None:
        from nbray.runtime.task_errors import serialize_system_error

        self._finish(task, serialize_system_error(error), True)

    # --- time passes -------------------------------------------------------------------------------------

    def housekeeping(self, now_s: float) -> None:
        for lease, deadline_s in list(self._dying.values()):
            if now_s >= deadline_s:
                self._bury(lease, None)
        commands: list[Command] = []
        again = self.pool.housekeeping(now_s, commands)
        self._perform(commands)
        if self.arguments.parked:
            self.after_batch()
        if again or self._dying or self.arguments.parked:
            self._loop.arm(now_s + _TICK_S)
