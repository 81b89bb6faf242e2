"""The world of one owner in virtual time: a node daemon, workers, and the wires between them.

Called by:  tests.stateful.test_owner_machine, tests.unit.runtime.test_submitter.
Imports:    nbray.runtime.{submitter,objects}, which run unchanged on a loop of ours.
Never:      opens a socket, starts a thread, reads a clock.

Whatever is sent stays on its wire until the test lets it arrive. A worker that dies takes along what
it had not read; what it had sent stays readable, as with a socket. ``World`` checks every message that
the owner sends the moment it is sent; a violated promise is an AssertionError there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

from nbray.core.leases import Lease, LeaseState
from nbray.core.tasks import Task, TaskSpec, TaskState
from nbray.model import ids
from nbray.model.resources import Shape, to_shape
from nbray.runtime import cancelling as cancelling_module
from nbray.runtime import links as links_module
from nbray.runtime import relief as relief_module
from nbray.runtime import submitter as submitter_module
from nbray.runtime.blocking import Wait
from nbray.runtime.inlining import OwnTasks
from nbray.runtime.links import Link
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.submitter import Submitter
from nbray.runtime.waiting import Waiter
from nbray.wire.base import Message
from nbray.wire.cancel_messages import CancelTask, SignalWorker
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import (
    CancelLease,
    DefineFunction,
    DefineTask,
    HandBack,
    LeaseGranted,
    LeasePaused,
    LeaseResumed,
    OwnerAddress,
    OwnerHello,
    ReclaimLease,
    RequestLease,
    ReturnLease,
    RunTasks,
    TakeBack,
    TaskAnswer,
    TaskCall,
    TasksDone,
    WorkerLost,
)

OWNER = b"o" * 16
FUNCTION = b"f" * 16
SHORT_US = 200


class Wire:
    """Both directions of an owner's connection to a worker; stands in for ``Channel`` at the owner."""

    def __init__(
        self, worker: Worker, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> None:
        self.worker = worker
        self.on_message = on_message
        self.on_closed = on_closed
        self.to_worker: deque[Message] = deque()
        self.to_owner: deque[Message] = deque()
        self.closed = False

    def read_last_words(self) -> None:
        while self.to_owner:
            self.on_message(self.to_owner.popleft())


@dataclass(eq=False)
class Worker:
    """What ``worker.executor`` does with its messages, without the running."""

    process_id: bytes
    alive: bool = True
    blocked: bool = False
    wire: Wire | None = None
    lease_id: bytes = b""
    inbox: deque[TaskCall] = field(default_factory=deque)
    running: TaskCall | None = None
    unsent: list[Message] = field(default_factory=list)  # answers of short tasks leave together
    known: dict[int, DefineTask] = field(default_factory=dict)

    def say(self, message: Message, *, now: bool = True) -> None:
        self.unsent.append(message)
        if now:
            self.flush()

    def flush(self) -> None:
        if self.wire is not None:
            self.wire.to_owner.extend(self.unsent)
            self.unsent.clear()

    def receive(self) -> None:
        assert self.wire is not None
        message = self.wire.to_worker.popleft()
        if isinstance(message, OwnerHello):
            self.lease_id = message.lease_id
        elif isinstance(message, RunTasks) and self.blocked:
            self.say(HandBack(self.lease_id, [(call.task_id, call.attempt) for call in message.calls]))
        elif isinstance(message, RunTasks):
            assert self.known.keys() >= {call.spec_id for call in message.calls}, "a kind it was not told"
            self.inbox.extend(message.calls)
        elif isinstance(message, DefineTask):
            self.known[message.spec_id] = message
        elif isinstance(message, TakeBack):
            given = [self.inbox.pop() for _ in range(min(message.count, len(self.inbox)))]
            self.say(HandBack(self.lease_id, [(m.task_id, m.attempt) for m in reversed(given)]))
        elif isinstance(message, CancelTask):
            self._cancel(message)
        else:
            assert isinstance(message, DefineFunction)

    def _cancel(self, message: CancelTask) -> None:
        named = (message.task_id, message.attempt)
        for call in self.inbox:
            if (call.task_id, call.attempt) == named:
                self.inbox.remove(call)
                self.say(HandBack(self.lease_id, [named]))
                return

    def block(self) -> None:
        self.blocked = True
        if self.inbox:
            self.say(HandBack(self.lease_id, [(m.task_id, m.attempt) for m in self.inbox]))
            self.inbox.clear()
        self.say(LeasePaused(self.lease_id))

    def go_on(self) -> None:
        self.blocked = False
        self.say(LeaseResumed(self.lease_id))

    @property
    def has_work(self) -> bool:
        pushed = self.wire is not None and any(isinstance(m, RunTasks) for m in self.wire.to_worker)
        return bool(self.running or self.inbox or pushed)


class StillLoop:
    """What the submitter and the objects use of ``runtime.loop.Loop``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.deadline_s: float | None = None
        self.is_due = False

    def add(
        self, worker: Worker, name: str, on_message: Callable[[Message], None], on_closed: Callable[[], None]
    ) -> Wire:
        worker.wire = Wire(worker, on_message, on_closed)
        return worker.wire

    def remove(self, wire: Wire) -> None:
        wire.closed = True

    def send(self, wire: Wire, frame: bytes, *, now: bool) -> None:
        messages: list[Message] = []
        assert decode_buffer(bytearray(frame), messages) == len(frame)
        for message in messages:
            self._world.check_sent(wire.worker, message)
            if wire.worker.alive:
                wire.to_worker.append(message)

    def send_rows(self, wire: Wire, rows: list[TaskCall], *, now: bool) -> None:
        if rows:
            self.send(wire, encode(RunTasks(rows)), now=now)

    def arm(self, deadline_s: float) -> None:
        if self.deadline_s is None or deadline_s < self.deadline_s:
            self.deadline_s = deadline_s

    def soon(self) -> None:
        """``World.poll`` comes after each move."""

    def flush(self) -> None:
        """Nothing waits here: ``send`` has put it on the wire."""

    def wake(self) -> None:
        """Nobody sleeps."""


class World:
    """One owner, its daemon and its workers. ``cpus`` in units of 1e-4."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.now_s = 100.0
        self.loop = StillLoop(self)
        address = OwnerAddress(b"n" * 16, 1, OWNER, "owner")
        loop = cast("Loop", self.loop)
        self.submitter = Submitter(
            loop, address, b"j" * 16, self.hear, lambda *_: None, self.note, lambda *_: None
        )
        self.objects = Objects(
            loop, OWNER, self.hear, self.hear, self.submitter.argument_ready, self.submitter.argument_refused
        )
        self.submitter.attach(self.objects)
        self.submitter.node_cpus = cpus
        self.submitter.exports.messages[FUNCTION] = DefineFunction(FUNCTION, "f", b"code")
        self._lease_ids = 0
        self.submitter.pool._new_lease_id = self._new_lease_id
        self.workers: list[Worker] = []
        self.waiting: dict[bytes, Shape] = {}  # requests that the daemon has
        self.serving: dict[bytes, Worker] = {}  # leases that the daemon has granted
        self.shape_of: dict[bytes, Shape] = {}
        self.asked_back: set[bytes] = set()
        self.cancelled: set[bytes] = set()
        self.returned: set[bytes] = set()
        self.told_lost: set[bytes] = set()
        self.told_paused: set[bytes] = set()
        self.told_to_leave: set[bytes] = set()
        self.told_not_to_idle: set[bytes] = set()
        self.from_daemon: deque[Message] = deque()
        self.started: dict[bytes, list[int]] = {}
        self.answers: list[TaskAnswer] = []
        self.specs = 0
        self.retries: Counter[bytes] = Counter()
        self.cancelled_tasks: set[bytes] = set()  # that were not over then
        self.attempt_cancelled: dict[bytes, int] = {}
        self.never_again: set[bytes] = set()  # cancelled before a worker had them
        self.own: list[Task] = []  # that the owner runs itself
        self.own_tasks = OwnTasks(self.submitter, self.objects)
        self.limits: dict[bytes, int] = {}
        self._patches: list[Any] = [
            mock.patch.object(submitter_module, "_monotonic", self._time),
            mock.patch.object(links_module, "connect", self._connect),
            mock.patch.object(relief_module, "_monotonic", self._time),
            mock.patch.object(cancelling_module, "_monotonic", self._time),
        ]
        for patch in self._patches:
            patch.start()

    def close(self) -> None:
        for patch in self._patches:
            patch.stop()

    def _time(self) -> float:
        return self.now_s

    def _new_lease_id(self) -> bytes:
        self._lease_ids += 1
        return self._lease_ids.to_bytes(16, "big")

    def _connect(self, endpoint: str) -> Worker:
        worker = self.workers[int(endpoint)]
        if not worker.alive:
            raise ConnectionRefusedError(111, "the worker is gone")
        return worker

    def note(self, task_id: bytes, state: str, spec: TaskSpec) -> None:
        if state == "retried":
            self.retries[task_id] += 1
            assert spec.max_retries < 0 or self.retries[task_id] <= spec.max_retries

    # --- what the owner says ---------------------------------------------------------------------

    def hear(self, message: Message) -> None:
        """The daemon's ear. Messages of other conversations than leases are of no interest here."""
        if isinstance(message, RequestLease):
            self._hear_request(message)
        elif isinstance(message, CancelLease):
            assert message.lease_id in self.shape_of, "cancelled what was never asked for"
            assert message.lease_id not in self.cancelled | self.returned | self.told_lost, "it is over"
            self.cancelled.add(message.lease_id)
            self.waiting.pop(message.lease_id, None)
        elif isinstance(message, ReturnLease):
            self._hear_return(message.lease_id)
        elif isinstance(message, SignalWorker):
            self._hear_signal(message)

    def _hear_signal(self, message: SignalWorker) -> None:
        """It may hit an attempt that was cancelled, and no other one that runs."""
        worker = self.serving.get(message.lease_id)
        if worker is None:  # it died, and the owner has not heard of it
            return
        lease = self.submitter.pool.by_id[message.lease_id]
        assert lease.inflight[0].task_id in self.cancelled_tasks, "a signal for another task"
        unread = any(isinstance(m, TasksDone) for m in worker.wire.to_owner) if worker.wire else False
        running = worker.running
        if running is not None and not unread and not worker.unsent:
            assert running.task_id in self.cancelled_tasks, "it hits a task that nobody cancelled"
        if message.number == 9:
            self.kill(worker)

    def _hear_request(self, message: RequestLease) -> None:
        assert message.lease_id not in self.shape_of, "asked twice with one ID"
        assert message.backlog > 0, "asked for nothing"
        shape = self.shape_of[message.lease_id] = to_shape(message.resources)
        self.waiting[message.lease_id] = shape
        queue = self.submitter.pool.shapes[shape]
        working = sum(lease.state is LeaseState.OPEN for lease in queue.leases.values())
        assert working + len(queue.requests) <= self.parallelism(shape), "more than the node has"

    def parallelism(self, shape: Shape) -> int:
        cpus = dict(shape).get("CPU", 0)
        return max(1, self.cpus // cpus) if cpus else 64

    def _hear_return(self, lease_id: bytes) -> None:
        assert lease_id in self.shape_of, "returned what was never asked for"
        assert lease_id not in self.returned | self.told_lost, "it is over"
        self.returned.add(lease_id)
        worker = self.serving.pop(lease_id, None)
        if worker is not None:
            assert not worker.has_work, "returned while it has work"
            assert not worker.blocked

    def check_sent(self, worker: Worker, message: Message) -> None:
        """What may be sent to a worker, and when."""
        lease = self.lease_of(worker)
        if isinstance(message, RunTasks):
            assert lease is not None, "pushed without a lease"
            assert lease.state is LeaseState.OPEN, f"pushed to a lease that is {lease.state}"
            assert lease.lease_id not in self.told_paused | self.told_to_leave, "pushed all the same"
            assert len(lease.inflight) <= self.submitter.pool.shapes[lease.shape].depth, "pushed too deep"
            assert {call.task_id for call in message.calls} <= {task.task_id for task in lease.inflight}
            alone = any(task.max_retries == 0 or task.attempt for task in lease.inflight)
            assert not alone or len(lease.inflight) == 1, "nobody will know which of them ran"
        elif isinstance(message, TakeBack):
            assert lease is not None
            assert message.lease_id == lease.lease_id
            assert message.count > 0

    def lease_of(self, worker: Worker) -> Lease | None:
        """The lease for which the owner uses this worker's connection."""
        for lease in self.submitter.pool.by_id.values():
            host = lease.host
            if isinstance(host, Link) and cast("Any", host.channel) is worker.wire is not None:
                return lease
        return None

    # --- what the daemon does --------------------------------------------------------------------

    def free_cpus(self) -> int:
        taken = [lease for lease, worker in self.serving.items() if not worker.blocked]
        return self.cpus - sum(dict(self.shape_of[lease]).get("CPU", 0) for lease in taken)

    def grantable(self) -> list[bytes]:
        free = self.free_cpus()
        return [lease for lease, shape in self.waiting.items() if dict(shape).get("CPU", 0) <= free]

    def grant(self, lease_id: bytes) -> None:
        del self.waiting[lease_id]
        idle = [w for w in self.workers if w.alive and w not in self.serving.values()]
        if idle:
            worker = idle[0]
        else:
            worker = Worker(len(self.workers).to_bytes(16, "big"))
            self.workers.append(worker)
        self.serving[lease_id] = worker
        address = OwnerAddress(b"n" * 16, 1, worker.process_id, str(self.workers.index(worker)))
        self.from_daemon.append(LeaseGranted(lease_id, address, 1))

    def ask_back(self, lease_id: bytes) -> None:
        self.asked_back.add(lease_id)
        self.from_daemon.append(ReclaimLease(lease_id))

    def ask_not_to_linger(self, lease_id: bytes) -> None:
        self.from_daemon.append(ReclaimLease(lease_id, when_idle=True))

    def refuse(self, lease_id: bytes) -> None:
        """No worker could be started for it."""
        del self.waiting[lease_id]
        self.from_daemon.append(WorkerLost(lease_id, b"", 0, 1, 0, "no memory"))

    def kill(self, worker: Worker, cause: str = "") -> None:
        worker.alive = worker.blocked = False
        worker.running = None
        worker.inbox.clear()
        worker.unsent.clear()
        if worker.wire is not None:
            worker.wire.to_worker.clear()
        for lease_id in [lease for lease, w in self.serving.items() if w is worker]:
            del self.serving[lease_id]
            self.from_daemon.append(WorkerLost(lease_id, worker.process_id, 1, 0, 9, "killed", cause=cause))

    # --- what workers do -------------------------------------------------------------------------

    def start(self, worker: Worker) -> None:
        worker.running = message = worker.inbox.popleft()
        assert message.task_id not in self.never_again, "cancelled, and begun all the same"
        attempts = self.started.setdefault(message.task_id, [])
        attempts.append(message.attempt)
        limit = self.limits[message.task_id]
        # If its answer was lost with its worker, a task that may be retried runs once more than it says.
        assert limit < 0 or len(attempts) <= limit + 1 + (limit > 0), "started more often than it may"
        others = [w for w in self.workers if w is not worker and w.running is not None]
        assert all(w.running and w.running.task_id != message.task_id for w in others), "runs twice"
        if len(attempts) > 1 and message.task_id in self.cancelled_tasks:
            assert message.attempt <= self.attempt_cancelled[message.task_id], "cancelled, and begun anew"

    def cancel(self, task_id: bytes, force: bool) -> None:
        task = self.submitter.tasks.tasks.get(task_id)
        if task is not None:
            self.cancelled_tasks.add(task_id)
            self.attempt_cancelled.setdefault(task_id, task.attempt)
            if task.state in (TaskState.WAITING, TaskState.QUEUED):
                self.never_again.add(task_id)
        self.submitter.cancelling.cancel([task_id], force)
        self.after_batch()

    def take_out(self, task: Task, choice: int) -> None:
        """Its owner is to run it itself, at the daemon's request or another."""
        shape = self.submitter.pool.shapes[task.shape]
        requests = [*shape.requests, b"none"]
        lease_id = requests[choice % len(requests)]
        wait = Wait([entry for entry in task.results if self.objects.is_alive(entry)], Waiter(1))
        wait.waiter.remaining = len(wait.entries)
        taken = self.own_tasks.take(wait, lease_id)
        assert taken is (task if wait.entries else None)
        if taken is not None:
            self.own.append(task)
        self.after_batch()

    def put_back(self, task: Task) -> None:
        self.own.remove(task)
        self.own_tasks.put_back(task)
        self.after_batch()

    def answer_here(self, task: Task, failed: bool) -> None:
        self.own.remove(task)
        self.started.setdefault(task.task_id, []).append(task.attempt)
        results: list[Any] = [b"answer of attempt %d" % task.attempt] * task.num_returns
        self.own_tasks.answered(task, results, failed)
        self.after_batch()

    def finish(self, worker: Worker, execution_us: int, failed: bool) -> None:
        message, worker.running = worker.running, None
        assert message is not None
        known = worker.known[message.spec_id]
        results: list[Any] = [b"answer of attempt %d" % message.attempt] * known.num_returns
        done = TaskAnswer(message.task_id, message.attempt, failed, results, execution_us, 0)
        self.answers.append(done)
        worker.say(TasksDone([done]), now=not worker.inbox or execution_us > SHORT_US)

    # --- what the owner reads --------------------------------------------------------------------

    def read_daemon(self) -> None:
        message = self.from_daemon.popleft()
        if isinstance(message, LeaseGranted):
            self.submitter.on_granted(message)
        elif isinstance(message, ReclaimLease):
            if message.lease_id in self.submitter.pool.by_id:
                (self.told_not_to_idle if message.when_idle else self.told_to_leave).add(message.lease_id)
            self.submitter.on_reclaim(message.lease_id, message.when_idle)
        else:
            assert isinstance(message, WorkerLost)
            self.submitter.on_worker_lost(message)
            self.told_lost.add(message.lease_id)
        self.after_batch()

    def readable(self) -> list[Wire]:
        wires = [w.wire for w in self.workers if w.wire is not None and not w.wire.closed]
        return [wire for wire in wires if wire.to_owner or not wire.worker.alive]

    def read_worker(self, wire: Wire, count: int) -> None:
        """One read: some messages, and the end of file behind the last one of a dead worker."""
        for _ in range(min(count, len(wire.to_owner))):
            if not wire.closed:
                message = wire.to_owner.popleft()
                if isinstance(message, LeasePaused):
                    self.told_paused.add(message.lease_id)
                elif isinstance(message, LeaseResumed):
                    self.told_paused.discard(message.lease_id)
                wire.on_message(message)
        if not wire.closed and not wire.worker.alive and not wire.to_owner:
            wire.closed = True
            wire.on_closed()
        self.after_batch()

    def after_batch(self) -> None:
        self.submitter.after_batch()
        self.poll()

    def poll(self) -> None:
        """What a process does before it polls."""
        self.objects.drain()
        self.submitter.before_poll()

    def pass_time(self, passed_s: float) -> None:
        """The owner keeps house when a deadline that it has set is over, and only then."""
        self.now_s += passed_s
        for worker in self.workers:
            worker.flush()
        self.objects.drain()
        due = self.loop.deadline_s
        if due is not None and self.now_s >= due:
            self.loop.deadline_s = None
            self.submitter.housekeeping(self.now_s)
            self.poll()

    # --- tasks -----------------------------------------------------------------------------------

    def submit(
        self, number: int, shape: Shape, holds: list[bytes], max_retries: int, num_returns: int
    ) -> list[Any]:
        """Submit a task as ``runtime.process`` does; returns the references of its results."""
        task_id = ids.task_id(b"s" * 12, number)
        self.limits[task_id] = max_retries
        self.specs += 1
        spec = TaskSpec(self.specs, FUNCTION, f"task{number}", num_returns, shape, max_retries, 0, "")
        task = Task(task_id, spec, b"", not max_retries, list(holds), holds)
        refs = [self.objects.own(ids.result_id(task_id, i)) for i in range(num_returns)]
        task.results = [ref._entry for ref in refs]
        self.submitter.submit(task)
        self.objects.drain()
        return refs
