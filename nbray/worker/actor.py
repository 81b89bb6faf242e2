"""The actor that a worker has become: its instance, its constructor, its methods, its end.

Called by:  worker.executor.
Imports:    runtime.{arguments,functions,process,serialization}, wire,
            worker.{checkpoints,own_error,quota,slow_construction}.
Never:      decides when a method runs (worker.executor does).

Constructor and departure are calls like others, on a link of their own that leads nowhere, so that they run
where and when methods do.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from nbray.model.actor_errors import RayActorError
from nbray.model.errors import SerializationError
from nbray.model.ids import short
from nbray.runtime.arguments import fill_in
from nbray.runtime.functions import Imports
from nbray.runtime.process import Process
from nbray.runtime.serialization import deserialize, pack_scalars
from nbray.transport import linux
from nbray.wire.actor_messages import ActorLeft, ActorStarted, StartActor
from nbray.wire.base import Descriptor, Value
from nbray.wire.messages import DefineTask, TaskCall
from nbray.worker.checkpoints import Checkpoints
from nbray.worker.own_error import OwnError
from nbray.worker.owner_links import OwnerLink
from nbray.worker.quota import Quota
from nbray.worker.slow_construction import SlowConstruction

#: What the two calls of ours are called by, in place of a number of their owner's.
CONSTRUCTION, DEPARTURE = 0, 1
_NO_ARGUMENTS = pack_scalars((), {}) or b""
_TERMINATE = "__ray_terminate__"


class Actor:
    """One incarnation of one actor.

    Args:
        process: the worker's runtime.
        imports: the code that the worker was told of.
        message: what to be.
    """

    def __init__(self, process: Process, imports: Imports, message: StartActor) -> None:
        self.spec = message.spec
        self.incarnation = message.incarnation
        self.overlaps = message.spec.is_async or message.spec.max_concurrency > 1
        self.is_leaving = False
        self.checkpoints = Checkpoints(process, message) if message.spec.checkpoint_interval else None
        self.minds_calls = self.checkpoints is not None  # it wants to hear of each that is over
        self._why = "It ended by __ray_terminate__()."
        self._process = process
        self._imports = imports
        self._instance: Any = None
        self._quota = Quota(message.spec) if message.spec.memory_bytes else None
        self._slow = SlowConstruction(process, repr(self))
        process.chores.append(self._slow.housekeeping)
        linux.set_process_title(f"nbray-{message.spec.class_name}")

    def __repr__(self) -> str:
        return f"Actor({self.spec.class_name}, {short(self.spec.actor_id)})"

    # --- calls of ours ---------------------------------------------------------------------------

    def definitions(self) -> list[DefineTask]:
        """Of the constructor and of the departure."""
        spec = self.spec
        return [
            DefineTask(number, b"", f"{spec.class_name}.{name}", 1, spec.depth, spec.cell, spec.threads)
            for number, name in ((CONSTRUCTION, "__init__"), (DEPARTURE, _TERMINATE))
        ]

    def construction(self) -> TaskCall:
        """The first call."""
        return TaskCall(self.spec.actor_id, self.incarnation, CONSTRUCTION, _NO_ARGUMENTS, [], False)

    def departure(self) -> TaskCall:
        """The last one: nobody has a handle any more."""
        self._why = "Nobody had a handle of it any more."
        return TaskCall(self.spec.actor_id, self.incarnation, DEPARTURE, _NO_ARGUMENTS, [], False)

    def constructed(self, error: bytes) -> None:
        """The constructor is done; ``error`` is what it raised, if it did. Lock held."""
        self._process.pushed.drain()  # the daemon may end this process when it hears of an error
        self._process.tell_daemon(ActorStarted(self.spec.actor_id, self.incarnation, error))

    # --- code ------------------------------------------------------------------------------------

    def method(self, name: str) -> Callable[..., Any]:
        """What a call runs.

        Raises:
            AttributeError: the class has no such method.
        """
        if name == "__init__":
            return self._construct
        if name == _TERMINATE:
            return self._terminate
        method: Callable[..., Any] = getattr(self._instance, name)
        return method if self._quota is None else self._quota.watched(name, method)

    def _construct(self) -> None:
        self._slow.begin()
        try:
            self._make_instance()
        finally:
            self._slow.end()

    def _make_instance(self) -> None:
        spec = self.spec
        try:
            cls = self._imports.load(spec.class_id, "register_actor")
        except SerializationError as exc:
            raise OwnError(
                RayActorError(
                    class_name=spec.class_name, actor_id=spec.actor_id.hex(),
                    why=f"Its class failed to be imported ({exc.reason}), so it cannot execute this method.",
                )
            ) from exc  # fmt: skip
        if self.checkpoints is not None:
            self._instance = self.checkpoints.construct(cls, partial(self._make, cls))
        else:
            self._instance = self._make(cls)

    def _make(self, cls: Callable[..., Any]) -> Any:
        spec = self.spec
        args, kwargs = self._value(spec.args)
        args, kwargs = fill_in(args, kwargs, [self._value(value) for value in spec.dependencies])
        return cls(*args, **kwargs)

    def _value(self, value: Value) -> Any:
        if type(value) is bytes:
            return deserialize(value)
        assert type(value) is Descriptor
        # Asked for by its ID: it may have been moved since it was written down.
        process = self._process
        with process.loop.guard, process.loop.lock:
            ref = process.objects.adopt(value.object_id, self.spec.owner)
        return process.get_one(ref, None)

    def _terminate(self) -> None:
        self.is_leaving = self.minds_calls = True

    def after_call(self, link: OwnerLink, call: TaskCall) -> None:
        """A call is over and answered."""
        if self.is_leaving:
            self.leave()
        if self.checkpoints is not None and call.task_id != self.spec.actor_id:
            self.checkpoints.after_call(link.owner_id, self._instance)

    # --- the end ---------------------------------------------------------------------------------

    def announce(self, why: str) -> None:
        """It will end by its own will, when its calls are done: whatever happens now, it is not restarted."""
        self.is_leaving = True
        self._why = why or self._why
        with self._process.loop.guard, self._process.loop.lock:
            self._process.tell_daemon(ActorLeft(self.spec.actor_id, self._why))

    def leave(self, why: str = "") -> NoReturn:
        """End this process by the actor's own will: it is no failure, and nothing is restarted."""
        loop = self._process.loop
        with loop.guard, loop.lock:
            self._process.tell_daemon(ActorLeft(self.spec.actor_id, why or self._why))
            self._process.recorder.ship()
            loop.flush()
        self._instance = None
        with contextlib.suppress(BaseException):  # whatever the user's functions raise, this is the end
            atexit._run_exitfuncs()  # noqa: SLF001  # ``sys.exit`` would take down more than user code
        with loop.guard, loop.lock:
            loop.flush()
        os._exit(0)
