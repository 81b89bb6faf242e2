"""The runtime of one process, driver or worker: what ``nbray.get`` and friends do.

Called by:  api (through ``current``), worker.executor, cluster (which connects it).
Imports:    everything below.
Never:      starts other processes (cluster does), decides scheduling (core does).
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nbray.core.references import Entry
from nbray.core.tasks import Task
from nbray.model import ids
from nbray.model.errors import (
    ForkedProcessError,
    NbrayError,
    RayConnectionError,
    RayletError,
    RayTimeoutError,
    StaleSessionError,
)
from nbray.model.limits import INLINE_MAX_BYTES
from nbray.model.resources import Shape
from nbray.runtime.context import TaskContext
from nbray.runtime.log_order import LogOrder
from nbray.runtime.loop import Loop, Waiter
from nbray.runtime.objects import Objects
from nbray.runtime.questions import Questions
from nbray.runtime.recorder import Recorder
from nbray.runtime.refs import ObjectRef
from nbray.runtime.serialization import Serialized, serialize, serialize_args, set_reference_hooks
from nbray.runtime.submitter import Submitter
from nbray.store.mapping import Mapping
from nbray.transport.channel import Channel
from nbray.wire.codec import encode
from nbray.wire.messages import (
    CreateFailed,
    GetStatus,
    LeaseGranted,
    LeaseInfeasible,
    LogLines,
    Message,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsPinned,
    OwnerAddress,
    PinObjects,
    PutFunction,
    RecallSlab,
    ReclaimLease,
    SlabGranted,
    Status,
    Value,
    Welcome,
    WorkerLost,
)

_monotonic = time.monotonic
#: A thread that submits in a loop reads answers itself every so many tasks.
_GLANCE_EVERY = 32


class Argument:
    """Stands in the pickled arguments for a top-level reference; ``index`` counts dependencies."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return Argument, (self.index,)


class Process:
    """One driver's or worker's half of nbray.

    Args:
        welcome: the daemon's greeting: which node, how large the store is.
        on_log: called (without locks) with LogLines that came for this driver.
        on_warning: called (without locks) with a text for people.
        on_lost: called (lock held) once when the daemon is gone.
    """

    def __init__(
        self,
        *,
        process_id: bytes,
        job_id: bytes,
        endpoint: str,
        welcome: Welcome,
        mapping: Mapping,
        context: TaskContext,
        on_log: Callable[[LogLines], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.process_id = process_id
        self.job_id = job_id
        self.welcome = welcome
        self.context = context
        self.address = OwnerAddress(welcome.node_id, welcome.node_incarnation, process_id, endpoint)
        self.loop = Loop(self._before_poll, self._after_batch, self._housekeeping)
        self.recorder = Recorder(process_id, self.tell_daemon, self.loop.arm)
        self.logs = LogOrder(self.loop, on_log)
        self.questions = Questions(self.loop, self.tell_daemon)
        self.failure: NbrayError | None = None
        self.submitter = Submitter(
            self.loop, self.address, job_id, self.tell_daemon, self.logs.due, self._record_task
        )
        self.objects = Objects(self.loop, process_id, self.tell_daemon, self.submitter.argument_ready)
        self.objects.mapping = mapping
        self.objects.node_id = welcome.node_id
        self.objects.has_backlog = lambda: self._daemon is None or bool(self._daemon.outgoing)
        self.objects.catch_up = lambda: self.pin([])
        self.submitter.objects = self.objects
        self.submitter.node_cpus = welcome.resources.get("CPU", 0)
        self.on_blocking: Callable[[bool], None] | None = None  # set by workers: a task (un)blocks
        self._daemon: Channel | None = None
        self._submitted = 0
        self._on_warning = on_warning
        self._on_lost = on_lost
        self._main = threading.main_thread().ident

    # --- life --------------------------------------------------------------------------------------

    def attach(self, daemon: Channel) -> None:
        """The connection to the daemon is served by the loop now: become the current process."""
        self._daemon = daemon
        ObjectRef.adopt = self._adopt
        ObjectRef.export = self._export
        set_reference_hooks(ObjectRef, lambda ref: ref.__reduce__())
        self.loop.start()

    def detach(self) -> None:
        """Close everything; waits end with an error."""
        with self.loop.lock:
            if self.failure is None:
                self.failure = RayConnectionError(
                    "The session was shut down. Call nbray.init() to start another."
                )
            self.objects.fail_all(self.failure)
        ObjectRef.adopt = None
        ObjectRef.export = None
        self.loop.close()

    def abandon_in_child(self) -> None:
        """This is a forked child: be inert. The parent's session is not ours to use or to end."""
        self.failure = ForkedProcessError()
        ObjectRef.adopt = None
        ObjectRef.export = None
        self._daemon = None
        self.loop.abandon()
        if self.objects.mapping is not None:
            self.objects.mapping.close()  # else the session's memory would live as long as this child

    def tell_daemon(self, message: Message) -> None:
        """Send to the daemon. Lock held."""
        if self._daemon is not None:
            self.loop.send(self._daemon, encode(message), now=True)

    def on_daemon_lost(self) -> None:
        """The daemon's socket closed. Lock held."""
        self._daemon = None
        if self.failure is None:
            self.failure = RayletError(node="", why="its connection closed")
        if self._on_lost is not None:
            self._on_lost()
        self.objects.fail_all(self.failure)
        self.questions.fail_all()

    def on_daemon_message(self, message: Message) -> None:
        """Lock held."""
        handler = _HANDLERS.get(type(message))
        if handler is not None:
            handler(self, message)

    def warn(self, text: str) -> None:
        """Tell people something, soon. Lock held."""
        if self._on_warning is not None:
            self.loop.later.append(partial(self._on_warning, text))

    # --- the loop's hooks (lock held) -----------------------------------------------------------------

    def _before_poll(self) -> None:
        self.objects.drain()

    def _after_batch(self) -> None:
        self.submitter.after_batch()
        self.objects.drain()

    def _housekeeping(self, now_s: float) -> None:
        self.objects.drain()
        self.submitter.housekeeping(now_s)
        if self.objects.has_promotions_to_retry:
            self.objects.retry_promotions()
        self.recorder.housekeeping(now_s)

    def _record_task(self, task: Task, state: str) -> None:
        self.recorder.task(task.task_id, state, task.name, task.cell)

    # --- references ------------------------------------------------------------------------------------

    def _adopt(self, object_id: bytes, owner: bytes) -> ObjectRef:
        with self.loop.guard, self.loop.lock:
            return self.objects.adopt(object_id, owner)

    def _export(self, ref: ObjectRef) -> tuple[bytes, bytes]:
        self._check(ref)
        with self.loop.guard, self.loop.lock:
            if self.objects.escape(ref._id):
                task = self.submitter.tasks.tasks.get(ref._id[: ids.TASK_ID_BYTES])
                if task is not None:
                    task.seal_results = True  # in time or not: a value that arrives is promoted
        return ref._id, ref._owner

    def _check(self, ref: ObjectRef) -> None:
        """Raises: NbrayError if the session is lost, or the reference is another session's."""
        if self.failure is not None:
            raise self._lost()
        if ref._home is not self.objects.home:
            raise StaleSessionError()

    def _lost(self) -> NbrayError:
        """Why there is no answer. New each time: a raised exception keeps the frames it went through."""
        return RayConnectionError() if self.failure is None else copy.copy(self.failure)

    # --- submitting ----------------------------------------------------------------------------------

    def export_function(self, function: Callable[..., Any], name: str) -> bytes:
        """Pickle a function for this session; returns its ID."""
        exports = self.submitter.exports
        key, fresh = exports.export(function, name)
        if fresh:
            with self.loop.guard, self.loop.lock:
                self.tell_daemon(PutFunction(key, name, exports.messages[key].pickled))
        return key

    def submit(
        self,
        function_id: bytes,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        num_returns: int,
        shape: Shape,
        max_retries: int,
    ) -> list[ObjectRef]:
        """Start a task; returns at once with the references of its results.

        Raises:
            SerializationError: an argument cannot be pickled.
            ObjectStoreFullError: large arguments found no room.
        """
        if self.failure is not None:
            raise self._lost()
        dependencies: list[ObjectRef] = []
        if ObjectRef in map(type, args) or (kwargs and ObjectRef in map(type, kwargs.values())):
            args, kwargs = self._mark(args, kwargs, dependencies)
        packed = serialize_args(args, kwargs)
        context = self.context
        with self.loop.guard:
            packed_args: Value
            holds = [ref._id for ref in dependencies]
            stored = b""
            if packed.size_bytes <= INLINE_MAX_BYTES:
                packed_args = packed.to_bytes()
            else:
                stored = ids.put_id(context.scope, context.next_number())
                descriptor = self.objects.store(stored, self.process_id, packed)
                if descriptor is None:
                    raise self._lost()
                packed_args = descriptor
            task_id = ids.task_id(context.scope, context.next_number())
            task = Task(
                task_id, function_id, name, num_returns, shape, packed_args, list(holds), holds,
                max_retries, context.depth, context.cell,
            )  # fmt: skip
            with self.loop.lock:
                if stored:
                    self._own_stored(stored, packed_args)
                    holds.append(stored)
                refs = [self.objects.own(ids.result_id(task_id, i)) for i in range(num_returns)]
                self.submitter.submit(task)
                if stored:
                    self._drop(stored)
                self.objects.drain()
                if self.loop.is_led():
                    self.loop.flush_dirty()
            self._submitted += 1
            if not self._submitted % _GLANCE_EVERY:
                self.loop.glance()
        return refs

    def _mark(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], found: list[ObjectRef]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace top-level references by markers; collect them in ``found``."""

        def marked(value: Any) -> Any:
            if type(value) is not ObjectRef:
                return value
            self._check(value)
            found.append(value)
            return Argument(len(found) - 1)

        return tuple(marked(a) for a in args), {k: marked(v) for k, v in kwargs.items()}

    def _own_stored(self, object_id: bytes, value: Value) -> None:
        """Register a sealed object of ours, held by one handle. Lock held."""
        self.objects.table.own(object_id)
        self.objects.deliver(object_id, value, False)

    def _drop(self, object_id: bytes) -> None:
        freed: list[Entry] = []
        self.objects.table.drop_handle(object_id, freed)
        self.objects.release(freed)

    # --- put, get, wait ------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef:
        """Store a value; see ``nbray.put``."""
        if self.failure is not None:
            raise self._lost()
        packed = serialize(value, root="value")
        context = self.context
        object_id = ids.put_id(context.scope, context.next_number())
        ref: ObjectRef | None = None
        with self.loop.guard:
            data: Value | None
            if packed.size_bytes <= INLINE_MAX_BYTES:
                data = packed.to_bytes()
            else:
                data = self.objects.store(object_id, self.process_id, packed)
            if data is not None:
                with self.loop.lock:
                    self._own_stored(object_id, data)
                    ref = ObjectRef(object_id, self.process_id, self.objects.home)
                    self.objects.drain()
        if ref is None:
            raise self._lost()
        return ref

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        """Values of all references, in order; see ``nbray.get``."""
        for ref in refs:
            self._check(ref)
        entries = [self._entry(ref) for ref in refs]
        pending = [entry for entry in entries if entry.value is None]
        if pending:
            waiter = Waiter(len(pending), stop_on_failure=True)
            self._wait(pending, waiter, timeout_s)
            if self.failure is not None:
                raise self._lost()
        self.logs.settle()
        failed = next((entry for entry in entries if entry.failed), None)
        if failed is not None:
            self.objects.load(failed)
        late = next((entry for entry in entries if entry.value is None), None)
        if late is not None:
            raise RayTimeoutError(object_id=late.object_id, timeout_s=timeout_s or 0.0, why=self._why(late))
        load = self.objects.load
        return [load(entry) for entry in entries]

    def wait(
        self, refs: Sequence[ObjectRef], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split references into ready ones (at most ``num_returns``) and the rest."""
        for ref in refs:
            self._check(ref)
        entries = [self._entry(ref) for ref in refs]
        pending = [entry for entry in entries if entry.value is None]
        missing = num_returns - (len(entries) - len(pending))
        if missing > 0:
            self._wait(pending, Waiter(missing), timeout_s)
            if self.failure is not None:
                raise self._lost()
        self.logs.settle()
        ready: list[ObjectRef] = []
        rest: list[ObjectRef] = []
        for ref, entry in zip(refs, entries, strict=True):
            done = entry.value is not None and len(ready) < num_returns
            (ready if done else rest).append(ref)
        return ready, rest

    def _entry(self, ref: ObjectRef) -> Entry:
        return self.objects.table.entries[ref._id]

    def _wait(self, pending: list[Entry], waiter: Waiter, timeout_s: float | None) -> None:
        """Wait until ``waiter`` is done; Ctrl-C is raised on the way out."""
        deadline_s = None if timeout_s is None else _monotonic() + timeout_s
        on_blocking = self.on_blocking
        with self.loop.guard:
            with self.loop.lock:
                still = [entry for entry in pending if entry.value is None]
                waiter.remaining -= len(pending) - len(still)
                if waiter.remaining <= 0 or (waiter.stop_on_failure and any(e.failed for e in pending)):
                    return
                self.objects.await_entries(still, waiter)
                self.loop.flush_dirty()
            is_task = on_blocking is not None and timeout_s != 0 and threading.get_ident() == self._main
            if is_task and on_blocking is not None:
                on_blocking(True)
            try:
                while not self.loop.wait(waiter, deadline_s) and self.loop.guard.deliver():
                    pass  # a handler of the user's own that returns lets the wait go on
            finally:
                if is_task and on_blocking is not None:
                    on_blocking(False)
                if not waiter.done:
                    with self.loop.lock:
                        self.objects.forget_waiter(still, waiter)

    def _why(self, entry: Entry) -> str:
        """What an object that is not ready waits for, for the text of a timeout."""
        task = self.submitter.tasks.tasks.get(entry.object_id[: ids.TASK_ID_BYTES])
        if task is None:
            return "Its owner has not produced it yet."
        return f"Task {task.name} is {task.state.value}."

    # --- asking the daemon -----------------------------------------------------------------------------

    def ask(self, make: Callable[[int], Message]) -> Message:
        """Ask the daemon something; see ``Questions.ask``.

        Raises:
            NbrayError: the session is lost, or no answer came within 10 s.
        """
        answer = None if self.failure is not None else self.questions.ask(make)
        if answer is None:
            raise self._lost()
        return answer

    def status(self) -> dict[str, Any]:
        """A snapshot of the node, plain data, with all that this process did until now."""
        with self.loop.guard, self.loop.lock:
            self.recorder.ship()
        reply = self.ask(GetStatus)
        assert isinstance(reply, Status)
        return reply.data

    def pin(self, object_ids: list[bytes]) -> None:
        """Have the daemon keep these in place for this process, before it answers their task."""
        self.ask(lambda number: PinObjects(number, object_ids))

    def store_result(self, object_id: bytes, owner: bytes, packed: Serialized) -> Value:
        """A result on its way to its owner through the store.

        Raises:
            ObjectStoreFullError: there is no room.
        """
        with self.loop.guard:
            descriptor = self.objects.store(object_id, owner, packed)
        if descriptor is None:
            raise self._lost()
        return descriptor


_HANDLERS: dict[type[Message], Callable[[Process, Any], None]] = {
    LeaseGranted: lambda p, m: p.submitter.on_granted(m),
    WorkerLost: lambda p, m: p.submitter.on_worker_lost(m),
    ReclaimLease: lambda p, m: p.submitter.on_reclaim(m.lease_id),
    LeaseInfeasible: lambda p, m: p.warn(m.text),
    ObjectCreated: lambda p, m: p.objects.on_created(m),
    CreateFailed: lambda p, m: p.objects.on_create_failed(m),
    ObjectReady: lambda p, m: p.objects.on_ready(m),
    ObjectGone: lambda p, m: p.objects.on_gone(m),
    SlabGranted: lambda p, m: p.objects.slabs.granted(m),
    RecallSlab: lambda p, m: p.objects.slabs.recalled(m),
    LogLines: lambda p, m: p.logs.arrived(m),
    Status: lambda p, m: p.questions.answered(m),
    ObjectsPinned: lambda p, m: p.questions.answered(m),
}
