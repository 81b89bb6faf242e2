"""Actors in local mode: objects of this process, whose constructors and methods run when they are called.

Called by:  runtime.local.
Imports:    runtime.{actors,refs,serialization,task_errors}, core.actor_record, wire.
Never:      starts a process. One of them runs one call at a time, whichever threads call it; a call that it
            makes of itself runs at once, inside the other.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nbray.core.actor_calls import Creation, Route, RouteState
from nbray.core.actor_record import ActorState
from nbray.core.actors import DEAD_REMEMBERED
from nbray.core.references import Entry
from nbray.core.tasks import TaskSpec
from nbray.model import ids
from nbray.model.actor_errors import RayActorError
from nbray.runtime.actors import Actors, Contact
from nbray.runtime.refs import ObjectRef, make_ref
from nbray.runtime.serialization import serialize
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.actor_messages import (
    ActorFacts,
    ActorList,
    ActorNamed,
    ActorSpec,
    FindActor,
    GetActors,
    NameActor,
)
from nbray.wire.base import Message

if TYPE_CHECKING:
    from nbray.runtime.local import LocalProcess

_TERMINATE = "__ray_terminate__"


class Packed(NamedTuple):
    """A value in one piece, and the references in it, which hold what they name until it does."""

    data: bytes
    refs: Sequence[ObjectRef] = ()


class Arguments(NamedTuple):
    """Those of one call. ``refs`` hold what is among them."""

    packed: bytes
    taken: list[Entry]
    refs: Sequence[ObjectRef]


#: The results of a call, and whether they are its error.
Outcome = tuple[list[Packed], bool]


def pack(value: Any, root: str) -> Packed:
    """A value as it would travel.

    Raises:
        SerializationError: it cannot be pickled.
    """
    packed = serialize(value, root=root)
    return Packed(packed.to_bytes(), packed.refs)


class LocalActor:
    """One actor. It is dead when it has an error: that of each call from then on."""

    def __init__(self, spec: ActorSpec, cls: type, creation: TaskSpec, arguments: Arguments) -> None:
        self.spec = spec
        self.cls = cls
        self.creation = creation
        self.arguments: Arguments | None = arguments
        self.lock = threading.RLock()
        self.instance: Any = None
        self.error: Packed | None = None
        self.why = ""
        self.is_unborn = False  # its constructor failed
        self.restarts = 0
        self.is_missing = False  # it was killed, and is to be made again
        self.route: Route | None = None
        self.created_ns = self.since_ns = time.time_ns()

    @property
    def is_over(self) -> bool:
        """It has ended, and not since its constructor failed."""
        return self.error is not None and not self.is_unborn

    def construct(self, *args: Any, **kwargs: Any) -> None:
        """What a process of it would do first."""
        self.instance = self.cls(*args, **kwargs)

    def method(self, name: str) -> Callable[..., Any]:
        """What a call runs."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if name == _TERMINATE:
                self.end("It ended by __ray_terminate__().")
                return None
            value = getattr(self.instance, name)(*args, **kwargs)
            return _awaited(value) if inspect.iscoroutine(value) else value

        return run

    def end(self, why: str, error: Packed | None = None) -> Packed:
        """It is dead; returns what its calls raise from now on."""
        if self.error is None:
            spec = self.spec
            death = RayActorError(class_name=spec.class_name, actor_id=spec.actor_id.hex(), why=why)
            self.error = error or Packed(serialize_system_error(death))
            self.why, self.since_ns = why, time.time_ns()
            self.instance = self.arguments = None
            if self.route is not None:
                self.route.state, self.route.error = RouteState.DEAD, self.error.data
        return self.error


def _awaited(coroutine: Any) -> Any:
    """Run an ``async def`` method: in a thread of its own, since an event loop may run in this one."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as exc:  # noqa: BLE001  # raised where it was called
            outcome.append(exc)

    thread = threading.Thread(target=run, name="nbray-local-actor")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class LocalActors(Actors):
    """All actors of a session in local mode. Methods take the lock, unless they say otherwise."""

    def __init__(self, process: LocalProcess) -> None:
        super().__init__(process)
        self.known: dict[bytes, LocalActor] = {}  # the dead, too
        self._local = process
        self._names: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    # --- making and calling ----------------------------------------------------------------------

    def create(
        self, template: ActorSpec, keeps_calls: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, ObjectRef | None]:
        """Make an actor, now. What its constructor raises, each of its calls will."""
        process = self._local
        place = process.context.place
        arguments = process.pack_arguments(args, kwargs)
        creation = TaskSpec(
            0, template.class_id, f"{template.class_name}.__init__", 1, (), 0, place.depth, place.cell,
            pooled=Creation(template),
        )  # fmt: skip
        actor_id = process.new_task_id()
        spec = msgspec.structs.replace(
            template, actor_id=actor_id, owner=process.process_id, cell=place.cell, depth=place.depth
        )
        actor = LocalActor(spec, process.class_of(template.class_id), creation, arguments)
        self.known[actor_id] = actor
        ref: ObjectRef | None = None
        with self._loop.guard, self._loop.lock:
            entry: Entry | None = None
            if not template.detached:
                entry = self._objects.table.own(ids.result_id(actor_id, 0))
                entry.site = creation
                ref = make_ref(entry, self._objects.home)
            actor.route = self.route(
                actor_id, spec.owner, spec.class_name, spec.max_concurrency, keeps_calls, entry
            )
        self._construct(actor)
        return actor_id, ref

    def _construct(self, actor: LocalActor) -> None:
        with actor.lock:
            actor.is_missing = False
            arguments = actor.arguments
            assert arguments is not None
            values, failed = self._local.run(
                actor.spec.actor_id, actor.creation, arguments, actor.construct, actor
            )
            if failed:
                actor.is_unborn = actor.error is None
                actor.end("Its constructor raised.", values[0])
            elif not actor.spec.max_restarts:
                actor.arguments = None

    def call(self, actor: LocalActor, task_id: bytes, spec: TaskSpec, arguments: Arguments) -> Outcome:
        """Run a method, in this thread."""
        with actor.lock:
            if actor.is_missing:
                self._construct(actor)
            if actor.error is not None:
                if actor.is_unborn:
                    self._local.tell_unborn(spec, actor.error.data)
                return [actor.error] * spec.num_returns, True
            method = actor.method(spec.name.rpartition(".")[2])
            return self._local.run(task_id, spec, arguments, method, actor)

    # --- ending ----------------------------------------------------------------------------------

    def kill(self, actor_id: bytes, owner: bytes, no_restart: bool) -> None:
        """End it; one that may be made again will be, with the next call. Lock held."""
        actor = self.known.get(actor_id)
        if actor is None or actor.error is not None:
            return
        if no_restart or actor.restarts == actor.spec.max_restarts:
            self._end(actor, "It was killed by nbray.kill().")
            return
        actor.restarts += 1
        actor.is_missing = True
        instance, actor.instance = actor.instance, None
        self._let_go(instance)

    def _on_handles_gone(self, object_ids: list[bytes]) -> None:
        """Nobody has a handle of these any more. Lock held."""
        for object_id in object_ids:
            actor_id = self._of_entry.pop(object_id)
            route = self.routes.pop(actor_id)
            contact = route.host
            assert isinstance(contact, Contact)
            contact.specs.clear()
            contact.entry = None
            actor = self.known[actor_id]
            if actor.error is None:
                self._end(actor, "Nobody had a handle of it any more.")
            actor.route = None
        while len(self.known) > DEAD_REMEMBERED + len(self.routes):
            del self.known[next(a for a in self.known if a not in self.routes)]

    def _end(self, actor: LocalActor, why: str) -> None:
        instance = actor.instance
        actor.end(why)
        self._let_go(instance)

    def _let_go(self, value: Any) -> None:
        """Drop it where no lock is held: its class may have a destructor."""
        bag = [value]
        self._loop.later.append(bag.clear)
        self._loop.soon()

    # --- looking ---------------------------------------------------------------------------------

    def answer(self, question: Message) -> Message | None:
        """What a node daemon would say of actors; None: the question is about something else."""
        if type(question) is GetActors:
            return ActorList(0, [_facts(actor, self._name_of(actor)) for actor in self.known.values()])
        if type(question) is FindActor:
            return ActorNamed(0, *self._find((question.namespace, question.name)))
        if type(question) is NameActor:
            name = (question.namespace, question.name)
            actor = self.known.get(question.actor_id)
            if not self._find(name)[0] and actor is not None and actor.error is None:
                self._names[name] = (question.actor_id, question.handle)
            return ActorNamed(0, *self._find(name))
        return None

    def counts(self) -> dict[str, int]:
        """How many are in which state."""
        return dict(Counter(_state(actor).value.lower() for actor in list(self.known.values())))

    def _find(self, name: tuple[str, str]) -> tuple[bytes, bytes]:
        actor_id, handle = self._names.get(name, (b"", b""))
        actor = self.known.get(actor_id)
        if actor is None or actor.error is not None:  # its names are free again
            self._names.pop(name, None)
            return b"", b""
        return actor_id, handle

    def _name_of(self, actor: LocalActor) -> tuple[str, str]:
        spec = actor.spec
        if spec.name:
            return spec.namespace, spec.name
        mine = (name for name, found in self._names.items() if found[0] == spec.actor_id)
        return next(mine, ("", "")) if actor.error is None else ("", "")


def _state(actor: LocalActor) -> ActorState:
    return ActorState.ALIVE if actor.error is None else ActorState.DEAD


def _facts(actor: LocalActor, name: tuple[str, str]) -> ActorFacts:
    spec = actor.spec
    restarts_left = spec.max_restarts if spec.max_restarts < 0 else spec.max_restarts - actor.restarts
    return ActorFacts(
        spec.actor_id, spec.class_name, name[1], name[0], spec.detached, _state(actor).value, spec.owner,
        spec.owner, os.getpid(), "", actor.restarts, restarts_left if actor.error is None else 0,
        dict(spec.resources), spec.cell, actor.why, actor.created_ns, actor.since_ns,
    )  # fmt: skip
