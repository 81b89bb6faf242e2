"""The runtime of one process, driver or worker: what ``nbray.get`` and friends do.

Called by:  api (through ``current``), worker.executor, cluster (which connects it).
Imports:    everything below.
Never:      starts other processes (cluster does), decides scheduling (core does).
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from nbray.core.references import Entry, Pair
from nbray.core.tasks import Task, TaskSpec
from nbray.model import ids
from nbray.model.errors import (
    ForkedProcessError,
    NbrayError,
    RayConnectionError,
    RayletError,
    StaleSessionError,
    UnknownObjectError,
)
from nbray.model.limits import INLINE_MAX_BYTES
from nbray.model.resources import Shape
from nbray.runtime import custom_serializers, waits
from nbray.runtime.actors import Actors
from nbray.runtime.arguments import mark_references
from nbray.runtime.context import Place, TaskContext, new_context
from nbray.runtime.from_daemon import HANDLERS
from nbray.runtime.functions import Definition
from nbray.runtime.gets import Gets
from nbray.runtime.log_order import LogOrder
from nbray.runtime.loop import Loop
from nbray.runtime.notices import Notices
from nbray.runtime.objects import Objects
from nbray.runtime.pushed_errors import PushedErrors
from nbray.runtime.questions import Questions
from nbray.runtime.recorder import Recorder
from nbray.runtime.refs import NOWHERE, ObjectRef, make_ref, pairs_of, serve_references
from nbray.runtime.repeats import Repeats
from nbray.runtime.serialization import (
    Serialized,
    pack_scalars,
    serialize,
    serialize_args,
    set_reference_hooks,
)
from nbray.runtime.sharing import Sharing
from nbray.runtime.sites import here
from nbray.runtime.submitter import Submitter
from nbray.store.mapping import Mapping
from nbray.transport.channel import Channel
from nbray.wire.base import Message, Value
from nbray.wire.codec import encode
from nbray.wire.messages import (
    GetStatus,
    LogLines,
    OwnerAddress,
    Status,
    Welcome,
)
from nbray.wire.object_messages import (
    PinObjects,
    SendParcel,
    SlabGranted,
)

_monotonic = time.monotonic
logger = logging.getLogger("nbray")
#: A thread that submits in a loop reads answers itself every so many tasks.
_GLANCE_EVERY = 128
_FIRST = ids.result_id(b"", 0)

T = TypeVar("T")
#: Of each result, the references that its value holds.
Inner = tuple[list[Pair], ...]


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
        mapping: Mapping | None,
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
        self.recorder = Recorder(process_id, self.loop.lock, self.tell_daemon, self.loop.arm)
        self.logs = LogOrder(self.loop, on_log)
        self.notices = Notices(self.loop, on_warning)
        self.questions = Questions(self.loop, self.tell_daemon)
        self.failure: NbrayError | None = None
        self.submitter = Submitter(
            self.loop, self.address, job_id, self.tell_daemon, self.logs.due,
            self.recorder.task, self.recorder.submitted,
        )  # fmt: skip
        self.objects = Objects(
            self.loop, process_id, self.tell_daemon, self.tell_soon,
            self.submitter.argument_ready, self.submitter.argument_refused,
        )  # fmt: skip
        self.pushed = PushedErrors(self, self.loop, self.objects.reading, shows=on_warning is not None)
        if mapping is not None:
            self.objects.attach(mapping, welcome.node_id)
        self.objects.creating.has_backlog = lambda: self._daemon is None or bool(self._daemon.outgoing)
        self.objects.creating.catch_up = lambda: self.pin([])
        self.submitter.attach(self.objects)
        self.actors = self.submitter.actors = Actors(self)
        self.submitter.node_cpus = welcome.resources.get("CPU", 0)
        self.sharing = Sharing(self, self.loop, self.objects, self.submitter.tasks.tasks, self._check)
        self._export = self.sharing.export
        self.gets = Gets(
            self, self.loop, self.objects, self.logs, self._check, partial(waits.in_short, self), self.pin
        )
        self.get, self.get_one, self.wait = self.gets.get, self.gets.get_one, self.gets.wait
        self._daemon: Channel | None = None
        self._specs: dict[Any, TaskSpec] = {}
        self._repeats = Repeats()
        self.running: Callable[[], str] = lambda: ""  # set by workers: the name of the task that runs
        #: Set by workers whose calls overlap: the context of each that runs, and for how many seconds it has.
        self.overlapping: Callable[[], list[tuple[TaskContext, float]]] | None = None
        self.actor: Any = None  # set by workers that are one: a ``worker.actor.Actor``
        self.chores: list[Callable[[float], None]] = []  # what else is done when a deadline came; lock held
        self._on_lost = on_lost

    # --- life --------------------------------------------------------------------------------------

    def become(self, process_id: bytes, endpoint: str) -> None:
        """This is a fork of the process in which it was made: have a name and descriptors of its own."""
        welcome = self.welcome
        self.process_id = self.recorder.process_id = self.objects.home.process_id = process_id
        self.address = self.submitter.address = OwnerAddress(
            welcome.node_id, welcome.node_incarnation, process_id, endpoint
        )
        self.context = new_context(self.job_id, process_id, 0, "", self.context.place)
        self.loop.renew()

    def attach(self, daemon: Channel | None) -> None:
        """The connection to the daemon, if there is one, is served by the loop now: go to work."""
        self._daemon = daemon
        serve_references(self.sharing.adopt, self._export, self.sharing.claim)
        set_reference_hooks(ObjectRef, self.sharing.reduce)
        self.loop.start()

    def detach(self) -> None:
        """Close everything; waits end with an error."""
        with self.loop.lock:
            if self.failure is None:
                self.failure = RayConnectionError(
                    "The session was shut down. Call nbray.init() to start another."
                )
            self.objects.fail_all(self.failure)
        serve_references(None, None, None)
        set_reference_hooks(ObjectRef, ObjectRef.__reduce__)
        custom_serializers.forget_all()
        self.loop.close()

    def abandon_in_child(self) -> None:
        """This is a forked child: be inert. The parent's session is not ours to use or to end."""
        self.failure = ForkedProcessError()
        serve_references(None, None, None)
        set_reference_hooks(ObjectRef, ObjectRef.__reduce__)
        self._daemon = None
        self.loop.abandon()
        if self.objects.mapping is not None:
            self.objects.mapping.close()  # else the session's memory would live as long as this child

    def tell_daemon(self, message: Message) -> None:
        """Send to the daemon. Lock held."""
        if self._daemon is not None:
            self.loop.send(self._daemon, encode(message), now=True)

    def tell_soon(self, message: Message) -> None:
        """The same, together with what follows; before the next poll at the latest. Lock held."""
        if self._daemon is not None:
            self.loop.send(self._daemon, encode(message), now=False)

    def on_daemon_lost(self) -> None:
        """The daemon's socket closed. Lock held."""
        self._daemon = None
        self.failure = self.failure or RayletError(node="", why="its connection closed")
        if self._on_lost is not None:
            self._on_lost()
        self.objects.fail_all(self.failure)
        self.questions.fail_all()

    def on_daemon_message(self, message: Message) -> None:
        """Lock held."""
        handler = HANDLERS.get(type(message))
        if handler is not None:
            handler(self, message)

    def on_slab(self, message: SlabGranted) -> None:
        """Lock held."""
        self.objects.slabs.granted(message)
        if self.objects.promotions.is_due:
            self.loop.soon()

    # --- the loop's hooks (lock held) -----------------------------------------------------------------

    def _before_poll(self) -> None:
        self.objects.drain()
        if self.pushed.outbox:
            self.pushed.drain()
        self.submitter.before_poll()
        if self.objects.promotions.is_due:
            self.objects.promotions.advance()

    def _after_batch(self) -> None:
        self.submitter.after_batch()
        self.objects.after_batch()

    def _housekeeping(self, now_s: float) -> None:
        self.objects.drain()
        self.submitter.housekeeping(now_s)
        self.actors.housekeeping(now_s)
        self.objects.promotions.housekeeping()
        self.recorder.housekeeping(now_s)
        self.pushed.housekeeping(now_s)
        for chore in self.chores:
            chore(now_s)

    def _check(self, ref: ObjectRef) -> None:
        """Raises: NbrayError if the session is lost, or the reference is another session's."""
        if self.failure is not None:
            raise self._lost()
        if ref._home is not self.objects.home and not self.sharing.claim(ref):
            if ref._home is NOWHERE:
                raise UnknownObjectError(ref._id)
            raise StaleSessionError()

    def _lost(self) -> NbrayError:
        """Why there is no answer. New each time: a raised exception keeps the frames it went through."""
        return RayConnectionError() if self.failure is None else copy.copy(self.failure)

    # --- submitting ----------------------------------------------------------------------------------

    def export_function(self, definition: Definition, max_calls: int) -> bytes:
        """Pickle a function for this session; returns its ID."""
        exports = self.submitter.exports
        captured = len(exports.captured)
        key, news = exports.export(definition, max_calls)
        if news is not None:
            with self.loop.guard, self.loop.lock:
                self.sharing.share(exports.captured[captured:])
                self.tell_daemon(news)
        return key

    def task_spec(
        self,
        place: Place,
        function_id: bytes,
        name: str,
        *,
        num_returns: int,
        shape: Shape,
        max_retries: int,
        timeout_s: float | None = None,
    ) -> TaskSpec:
        """What ``submit`` takes, for calls from this place; the same one for the same kind of call.

        Workers remember each, so a loop over ``f.options(num_cpus=2).remote()`` must not make one a turn.
        """
        timeout_s = self.welcome.task_timeout_s if timeout_s is None else timeout_s
        kind = (function_id, name, num_returns, shape, max_retries, place.depth, place.cell, timeout_s)
        spec = self._specs.get(kind)
        if spec is None:
            with self.loop.guard, self.loop.lock:
                spec = self._specs.get(kind) or TaskSpec(len(self._specs) + 1, *kind)
                self._specs[kind] = spec
                self.submitter.time_limits.are_used |= timeout_s > 0
        return spec

    def submit(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[ObjectRef]:
        """Start a task; returns at once with the references of its results.

        Raises:
            SerializationError: an argument cannot be pickled.
            ObjectStoreFullError: large arguments found no room.
        """
        if self.failure is not None:
            raise self._lost()
        packed = pack_scalars(args, kwargs)
        if packed is None:
            return self._submit_any(spec, args, kwargs)
        context = self.context
        task_id = (context.scope or context.child_scope()) + next(context.numbers).to_bytes(4, "big")
        with self.loop.guard:
            with self.loop.lock:
                refs = self._start(Task(task_id, spec, packed, not spec.max_retries))
            if not (task_id[-1] % _GLANCE_EVERY):  # the last byte of a counter
                self.loop.glance()
        return refs

    def _start(self, task: Task) -> list[ObjectRef]:
        """Register the task and its results, and send it on its way. Lock held."""
        own, task_id, home = self.objects.table.own, task.task_id, self.objects.home
        if task.spec.num_returns == 1:
            entry = own(task_id + _FIRST)
            entry.site = task.spec
            task.results = (entry,)
            refs = [make_ref(entry, home)]
        else:
            task.results = [own(ids.result_id(task_id, index)) for index in range(task.spec.num_returns)]
            for entry in task.results:
                entry.site = task.spec
            refs = [make_ref(entry, home) for entry in task.results]
        self.submitter.submit(task)
        if self.loop.is_led():
            self.loop.flush()
        return refs

    def _submit_any(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[ObjectRef]:
        """The same for a task that takes references, or more than a few numbers and words."""
        return self.prepare(spec, args, kwargs, self._start)

    def prepare(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], start: Callable[[Task], T]
    ) -> T:
        """Make a task of any arguments and ``start`` it, with the lock held; returns what that does."""
        args, kwargs, dependencies = mark_references(args, kwargs)
        for ref in dependencies:
            self._check(ref)
        packed = serialize_args(args, kwargs)
        context = self.context
        with self.loop.guard:
            packed_args: Value
            holds = [ref._id for ref in dependencies]
            stored = b""
            inner: list[Pair] = []
            if packed.refs:
                with self.loop.lock:
                    inner = self.sharing.share(packed.refs)
            if packed.size_bytes <= INLINE_MAX_BYTES:
                packed_args = packed.to_bytes()
            else:
                stored = ids.put_id(context.child_scope(), context.next_number())
                descriptor = self.objects.creating.store(stored, self.process_id, packed, inner)
                if descriptor is None:
                    raise self._lost()
                packed_args = descriptor
            task_id = ids.task_id(context.child_scope(), context.next_number())
            with self.loop.lock:
                if stored:
                    self._own_stored(stored, packed_args)
                kept = [*holds, *(object_id for object_id, _owner in inner)] if inner else holds
                if stored:
                    kept = [*kept, stored]
                task = Task(task_id, spec, packed_args, not spec.max_retries, holds, kept)
                started = start(task)
                if stored:
                    self._drop(stored)
            if not (task_id[-1] % _GLANCE_EVERY):
                self.loop.glance()
        if stored:
            self._repeats.sent(args, kwargs, packed.size_bytes, context.place)
        return started

    def _own_stored(self, object_id: bytes, value: Value) -> Entry:
        """Register a value of ours that is there, held by one handle. Lock held."""
        entry = self.objects.table.own(object_id)
        self.objects.table.ready(entry, value, False)
        return entry

    def _drop(self, object_id: bytes) -> None:
        freed: list[Entry] = []
        self.objects.table.drop_handle(object_id, freed)
        self.objects.release(freed)

    # --- put ------------------------------------------------------------------------------

    def put(self, value: Any, weak: bool = False) -> ObjectRef:
        """Store a value; see ``nbray.put``."""
        if self.failure is not None:
            raise self._lost()
        packed = serialize(value, root="value")
        context = self.context
        site = here(context.place, 2)
        object_id = ids.put_id(context.child_scope(), context.next_number())
        ref: ObjectRef | None = None
        with self.loop.guard:
            data: Value | None
            inner = pairs_of(packed.refs)
            if packed.size_bytes <= INLINE_MAX_BYTES:
                data = packed.to_bytes()
            else:
                data = self.objects.creating.store(object_id, self.process_id, packed, inner, weak)
            if data is not None:
                with self.loop.lock:
                    entry = self._own_stored(object_id, data)
                    entry.site = site
                    if type(data) is not bytes:
                        entry.outline = packed.outline()
                    if inner:
                        self.objects.contain(entry, inner)
                    ref = make_ref(entry, self.objects.home)
                    self.objects.drain()
        if ref is None:
            raise self._lost()
        return ref

    def free(self, object_ids: list[bytes]) -> None:
        """Free objects by force; see ``nbray.internal.free``."""
        with self.loop.guard, self.loop.lock:
            self.objects.freeing.free(object_ids)

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

    def send_parcel(self, parcel_id: bytes, receiver: bytes, refs: list[list[ObjectRef]]) -> Inner:
        """Announce the references in results that are about to leave; returns those of each result."""
        with self.loop.guard, self.loop.lock:
            inner = tuple([self.sharing.share(some) for some in refs])
            self.tell_daemon(SendParcel(parcel_id, receiver, [pair for some in inner for pair in some]))
            waits = self.objects.creating.has_backlog()
        if waits:  # it must be in the kernel's hands before the results leave
            self.pin([])
        return inner

    def store_result(self, object_id: bytes, owner: bytes, packed: Serialized) -> Value:
        """A result on its way to its owner through the store.

        Raises:
            ObjectStoreFullError: there is no room.
        """
        with self.loop.guard:
            inner: list[Pair] = []
            if packed.refs:
                with self.loop.lock:
                    inner = self.sharing.share(packed.refs)
            descriptor = self.objects.creating.store(object_id, owner, packed, inner)
        if descriptor is None:
            raise self._lost()
        return descriptor
