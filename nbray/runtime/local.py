"""Local mode: tasks run in this process, when they are submitted.

Called by:  cluster.inprocess.
Imports:    runtime.
Never:      starts a process. Values and arguments are pickled all the same, so that a program that works
            here also works on a cluster: arrays are read-only, and a task cannot change its caller's data.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from nbray.core.actor_calls import Route
from nbray.core.pushed_errors import ErrorLog
from nbray.core.references import Entry
from nbray.core.tasks import TaskSpec
from nbray.model import ids
from nbray.model.errors import RayWorkerError, SerializationError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.runtime.arguments import fill_in, mark_references
from nbray.runtime.context import Place, TaskContext, new_context
from nbray.runtime.functions import Definition
from nbray.runtime.guard import TerminatedExit
from nbray.runtime.local_actors import Arguments, LocalActor, LocalActors, Outcome, Packed, pack
from nbray.runtime.process import Process
from nbray.runtime.pushed_errors import TASK
from nbray.runtime.refs import ObjectRef
from nbray.runtime.results import returned
from nbray.runtime.serialization import deserialize, serialize_args
from nbray.runtime.sites import Site, here
from nbray.runtime.task_errors import references_in, serialize_error, serialize_system_error, text_of
from nbray.wire.base import Message
from nbray.wire.error_messages import ErrorRow, Errors, GetErrors, PushError
from nbray.wire.memory_messages import MemoryReport
from nbray.wire.messages import Welcome
from nbray.wire.waiting_messages import GetWaits, WaitsReport

_NODE = "local mode"


class _Contexts(threading.local):
    """Which task each thread is in; one that was not told works for the driver."""

    current: TaskContext | None = None
    actor: LocalActor | None = None


class LocalProcess(Process):
    """A driver that is its own worker."""

    def __init__(self, job_id: bytes, resources: dict[str, int]) -> None:
        self._contexts = _Contexts()
        self._errors = ErrorLog()
        self._counts = {"submitted": 0, "running": 0, "finished": 0, "failed": 0, "retried": 0}
        self._functions: dict[bytes, Callable[..., Any]] = {}
        self._keys: dict[Definition, bytes] = {}
        process_id = os.urandom(ids.PROCESS_ID_BYTES)
        welcome = Welcome(
            protocol=PROTOCOL_VERSION,
            cluster_id="",
            node_id=os.urandom(ids.NODE_ID_BYTES),
            node_incarnation=1,
            session_dir="",
            store_capacity_bytes=0,
            resources=resources,
            redis_endpoint="",
            redis_origin="",
        )
        super().__init__(
            process_id=process_id,
            job_id=job_id,
            endpoint="",
            welcome=welcome,
            mapping=None,
            context=new_context(job_id, process_id, 0, "driver", Place("", 0)),
        )
        self.actors: LocalActors = LocalActors(self)

    @property
    def actor(self) -> LocalActor | None:  # an attribute there: a process is one actor
        return self._contexts.actor

    @actor.setter
    def actor(self, actor: None) -> None:
        """The initial value: no thread is in one."""

    @property
    def context(self) -> TaskContext:  # an attribute there: one thread runs tasks
        return self._contexts.current or self._driver_context

    @context.setter
    def context(self, context: TaskContext) -> None:
        self._driver_context = context

    # --- functions and tasks --------------------------------------------------------------------------

    def export_function(self, definition: Definition, max_calls: int) -> bytes:
        """Remember a function. It is not pickled, so that breakpoints in it work.

        ``max_calls`` is about worker processes, of which there are none.
        """
        key = self._keys.get(definition)
        if key is None:
            key = self._keys[definition] = os.urandom(ids.FUNCTION_ID_BYTES)
            self._functions[key] = definition.function
        return key

    def class_of(self, key: bytes) -> Any:
        """A class that was exported."""
        return self._functions[key]

    def submit(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[ObjectRef]:
        """Run a task now; its errors show when its result is asked for.

        Raises:
            SerializationError: an argument cannot be pickled.
        """
        if self.failure is not None:
            raise self._lost()
        arguments = self.pack_arguments(args, kwargs)
        task_id = self.new_task_id()
        route = spec.pooled
        if type(route) is Route:
            values, failed = self.actors.call(self.actors.known[route.actor_id], task_id, spec, arguments)
        else:
            values, failed = self.run(task_id, spec, arguments, self._functions[spec.function_id])
        return self._own_results(task_id, values, failed, spec)

    def new_task_id(self) -> bytes:
        """Of the next task of what this thread is in."""
        parent = self.context
        return ids.task_id(parent.child_scope(), parent.next_number())

    def pack_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Arguments as they would travel.

        Raises:
            SerializationError: one cannot be pickled.
        """
        args, kwargs, dependencies = mark_references(args, kwargs)
        taken = [self.gets.entry(ref) for ref in dependencies]
        packed = serialize_args(args, kwargs)
        return Arguments(packed.to_bytes(), taken, (*dependencies, *packed.refs))

    def run(
        self, task_id: bytes, spec: TaskSpec, arguments: Arguments, function: Callable[..., Any],
        actor: LocalActor | None = None,
    ) -> Outcome:  # fmt: skip
        """Run a task, or a method of an actor, in this thread."""
        self._counts["submitted"] += 1
        taken = arguments.taken
        error = next((bytes(entry.value) for entry in taken if entry.failed), None)  # type: ignore[arg-type]
        if error is not None:
            inner = [self.sharing.adopt(*pair, False) for pair in references_in(error)]
            values, failed = [Packed(error, inner)] * spec.num_returns, True
        else:
            contexts = self._contexts
            before = contexts.current, contexts.actor
            place = Place(self.context.cell, spec.depth + 1)
            contexts.current, contexts.actor = new_context(self.job_id, task_id, 0, spec.name, place), actor
            try:
                values, failed = self._run(spec, arguments, function, actor)
            finally:
                contexts.current, contexts.actor = before
        self._counts["failed" if failed else "finished"] += 1
        if failed and values and (actor is None or not actor.is_over):  # an end that was wanted is no news
            self._tell_failed(spec, values[0].data, was_run=error is None)
        return values, failed

    def _run(
        self, spec: TaskSpec, arguments: Arguments, function: Callable[..., Any], actor: LocalActor | None
    ) -> Outcome:
        count = spec.num_returns
        try:
            marked_args, marked_kwargs = deserialize(arguments.packed)
            args, kwargs = fill_in(
                marked_args, marked_kwargs, [self.objects.load(e) for e in arguments.taken]
            )
            value = function(*args, **kwargs)
            del args, kwargs
            return [pack(v, r) for r, v in returned(spec.name, value, count)], False
        except (KeyboardInterrupt, TerminatedExit):
            raise  # somebody is at the keyboard of this very process
        except SystemExit as exc:
            if actor is not None:  # by its own will
                return [actor.end("It ended by exit_actor() or sys.exit().")] * count, True
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
            ended = RayWorkerError(task_name=spec.name, pid=os.getpid(), exit_code=code)
            return [Packed(serialize_system_error(ended))] * count, True
        except SerializationError as exc:
            return [Packed(serialize_system_error(exc))] * count, True
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            inner: list[ObjectRef] = []
            error = serialize_error(exc, task_name=spec.name, pid=os.getpid(), refs=inner)
            return [Packed(error, inner)] * count, True

    def _tell_failed(self, spec: TaskSpec, error: bytes, *, was_run: bool) -> None:
        text = text_of(error)
        if was_run and not text.startswith("task "):
            text = f"task {spec.name} failed\n{text}"
        elif not was_run:
            reason = text.rstrip().rpartition("\n")[2]
            text = f"task {spec.name} did not run, since an argument of it is a failure: {reason}"
        self.pushed.push_now(TASK, text)

    def tell_unborn(self, spec: TaskSpec, error: bytes) -> None:
        """A call of an actor whose constructor raised this."""
        text = text_of(error)
        self.pushed.push_now(
            TASK, f"task {spec.name} did not run, since its actor could not be made:\n{text}"
        )

    def _own_results(
        self, task_id: bytes, values: list[Packed], failed: bool, spec: TaskSpec
    ) -> list[ObjectRef]:
        with self.loop.guard, self.loop.lock:
            refs = [
                self._own(ids.result_id(task_id, index), value, failed, spec)
                for index, value in enumerate(values)
            ]
            self.objects.drain()
        return refs

    def _own(self, object_id: bytes, value: Packed, failed: bool, site: Site | TaskSpec) -> ObjectRef:
        """A new object that is there. Lock held."""
        ref = self.objects.own(object_id)
        self.objects.table.entries[object_id].site = site
        self.objects.deliver(object_id, value.data, failed)
        if value.refs:
            entry = self.objects.table.entries[object_id]
            self.objects.contain(entry, [(inner.binary(), self.process_id) for inner in value.refs])
        return ref

    # --- objects -----------------------------------------------------------------------------------------

    def put(self, value: Any, weak: bool = False) -> ObjectRef:  # nothing is evicted here
        """Keep a pickled copy of a value; see ``nbray.put``."""
        if self.failure is not None:
            raise self._lost()
        packed = pack(value, "value")
        context = self.context
        site = here(context.place, 2)
        object_id = ids.put_id(context.child_scope(), context.next_number())
        with self.loop.guard, self.loop.lock:
            ref = self._own(object_id, packed, False, site)
            self.objects.drain()
        return ref

    def _export(self, ref: ObjectRef) -> tuple[bytes, bytes]:
        self._check(ref)
        with self.loop.guard, self.loop.lock:
            self.objects.table.export(ref.binary())  # no other process will ask for it
        return ref.binary(), self.process_id

    def tell_daemon(self, message: Message) -> None:
        """There is none; errors are kept here. Lock held."""
        if isinstance(message, PushError):
            row = ErrorRow(message.kind, message.message, time.time())
            self._errors.push(message.job_id, row)

    tell_soon = tell_daemon

    # --- looking ------------------------------------------------------------------------------------

    def ask(self, make: Callable[[int], Message]) -> Message:
        """Which errors were pushed; who else holds something or waits for something: nobody does. Of actors
        those who look after them know.
        """
        if self.failure is not None:
            raise self._lost()
        question = make(0)
        if isinstance(question, GetErrors):
            with self.loop.guard, self.loop.lock:
                self.pushed.drain()
                return Errors(0, self._errors.all())
        if isinstance(question, GetWaits):
            return WaitsReport(0, self.welcome.resources, [], [], [], [], "", [], [])
        answer = self.actors.answer(question)
        if answer is not None:
            return answer
        return MemoryReport(0, self.welcome.node_id, {}, [], [], [], 0)

    def status(self) -> dict[str, Any]:
        """As a node would tell it."""
        if self.failure is not None:
            raise self._lost()
        resources = self.welcome.resources
        with self.loop.guard, self.loop.lock:
            self.objects.drain()
            held: list[Entry] = list(self.objects.table.entries.values())
        return {
            "nodes": [{"name": _NODE, "alive": True, "resources": dict(resources), "free": dict(resources)}],
            "tasks": dict(self._counts),
            "store": {
                "objects": len(held),
                "used_bytes": sum(len(e.value) for e in held if isinstance(e.value, bytes)),
            },
            "actors": self.actors.counts(),
        }
