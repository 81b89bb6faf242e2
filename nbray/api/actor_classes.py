"""Remote classes: what ``@remote`` makes of a class, and how actors are made of it.

Called by:  api.tasks (``remote``), users.
Imports:    api.{actor_handles,actor_info,actor_options,actors,parameters}, runtime, model, wire.
Never:      pickles at decoration: a class is exported with the first actor in each session.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from nbray.api.actor_handles import ActorHandle, Target, terminate_method
from nbray.api.actor_info import ClassInfo, constructor_of, methods_of
from nbray.api.actor_options import ASYNC_CONCURRENCY, ActorOptions, warn_of_detached
from nbray.api.actors import kill
from nbray.api.parameters import Parameters
from nbray.model.resources import CPU, UNIT
from nbray.runtime.actor_names import find_actor, name_actor, name_is_taken
from nbray.runtime.checkpointable import Checkpointable, missing_methods
from nbray.runtime.current import current
from nbray.runtime.functions import Definition
from nbray.runtime.process import Process
from nbray.wire.actor_messages import ActorSpec


class ActorClass:
    """A class whose instances are actors, each in a process of its own: ``C.remote(...)`` makes one.

    Attributes of the class can be read through it. It cannot be called or derived from.
    """

    _cls: type
    _options: ActorOptions

    def __init__(self, cls: type, options: ActorOptions, definition: Definition | None = None) -> None:
        # ``class D(C)`` comes here, too, with a name, the bases and a dict.
        if not isinstance(cls, type):
            _refuse_to_be_derived_from()
        own = self.__dict__
        own["_cls"] = cls
        own["_options"] = options
        own["_definition"] = definition or Definition(cls, cls.__name__)
        for name in ("__module__", "__doc__", "__qualname__", "__name__"):
            own[name] = getattr(cls, name, None)
        if definition is None or not definition.was_received:
            self._look()

    def _look(self) -> dict[str, Any]:
        """What its actors need to know of the class; found at once, unless the class is still being loaded.

        A class whose methods name its remote class arrives in a pickle together with that: at first empty.
        """
        own = self.__dict__
        if "_info" in own:
            return own
        cls, options = self._cls, self._options
        methods = methods_of(cls)
        is_async = any(inspect.iscoroutinefunction(getattr(cls, name, None)) for name in methods)
        _check_constructor(cls)
        concurrency = options.max_concurrency or (ASYNC_CONCURRENCY if is_async else 1)
        interval = _checkpoint_interval(cls, options, overlaps=is_async or concurrency > 1)
        methods["__ray_terminate__"] = terminate_method()
        own["_is_async"] = is_async
        own["_interval"] = interval
        own["_parameters"] = Parameters.of(constructor_of(cls), cls.__name__)
        own["_info"] = ClassInfo(
            cls.__name__, inspect.getdoc(cls) or "", methods, concurrency, options.max_task_retries,
            bool(interval and options.max_task_retries),
        )  # fmt: skip
        return own

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor; returns its handle at once. The constructor runs in the actor's process.

        Raises:
            TypeError: the arguments do not fit the constructor's signature.
            ValueError: an option asks for an impossible quantity, or the name is taken.
            SerializationError: an argument, or the class, cannot be pickled; names the culprit.
            RayConnectionError: no session is running.
        """
        return _make(self, args, kwargs)

    def options(self, **changes: Any) -> ActorClass:
        """The same class with other options; those not given keep their values.

        Args:
            changes: as of ``nbray.remote``, and ``name``, ``namespace`` and ``detached``.
        """
        return ActorClass(self._cls, self._options.replaced(changes), self.__dict__["_definition"])

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> ActorHandle:
        """Make an actor: ``C.options(**options).remote(*args, **kwargs)`` in one call.

        Args:
            args: of the constructor.
            kwargs: likewise.
            options: as of ``nbray.remote``; and ``name`` with ``detached=True``, for an actor that lives
                until it is killed and that others find by its name.
        """
        cls = self.options(**options) if options else self
        return _make(
            cls, tuple(args or ()), dict(kwargs or {})
        )  # at the depth of ``remote``: a warning counts

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:  # noqa: D102  # its docstring is the class's
        name = self._cls.__name__
        raise TypeError(
            f"Actor classes cannot be instantiated directly. Use {name}.remote(...) in place of {name}(...)."
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        _refuse_to_be_derived_from()

    def __getattr__(self, name: str) -> Any:
        if name in ("_cls", "_options"):  # one that is being made
            raise AttributeError(name)
        return getattr(self._cls, name)

    def __repr__(self) -> str:
        return f"ActorClass({self._cls.__name__})"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self._cls, self._options.given)


def rebuild(cls: type, given: dict[str, Any]) -> ActorClass:
    """What a pickled remote class becomes where it is loaded."""
    return ActorClass(cls, ActorOptions(given), Definition(cls, cls.__name__, was_received=True))


def _refuse_to_be_derived_from() -> NoReturn:
    raise TypeError(
        "Inheriting from actor classes is not currently supported: derive from the plain class, and decorate "
        "both."
    )


def _check_constructor(cls: type) -> None:
    if inspect.iscoroutinefunction(getattr(cls, "__init__")):  # noqa: B009  # looked at, not called
        raise TypeError(
            f"{cls.__name__}.__init__ is an async def, and would never be awaited. Make it a def: it runs on "
            "the event loop's thread, before any call; a method may do the rest."
        )


def _checkpoint_interval(cls: type, options: ActorOptions, *, overlaps: bool) -> int:
    """As in ``wire.actor_messages.ActorSpec``."""
    name, interval = cls.__name__, options.checkpoint_interval
    if issubclass(cls, Checkpointable):
        missing = missing_methods(cls)
        if missing:
            raise TypeError(
                f"{name} is Checkpointable, so it needs {', '.join(missing)}; see nbray.actor.Checkpointable."
            )
        if interval:
            raise ValueError(
                f"{name} is Checkpointable, so it says itself when to save: leave out checkpoint_interval."
            )
        interval = -1
    if interval and overlaps:
        raise ValueError(
            f"{name} runs several calls at once, or an event loop, so there is no moment to save its state "
            "in: let it run one call at a time (max_concurrency=1, no async def), or do without checkpoints."
        )
    return interval


def _make(actor_class: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
    process = current()
    own = actor_class._look()  # noqa: SLF001  # the other half of the class
    options, info = own["_options"], own["_info"]
    own["_parameters"].check(args, kwargs)
    if options.name and find_actor(process, options.name, options.namespace) is not None:
        raise name_is_taken(options.name)
    template = _template(process, actor_class)
    actor_id, ref = process.actors.create(template, info.keeps_calls, args, kwargs)
    handle = ActorHandle(Target(process, actor_id, process.process_id, info, ref))
    if options.name:
        pickled = pickle.dumps(handle)
        try:
            name_actor(process, options.name, options.namespace, actor_id, process.process_id, pickled)
        except ValueError:  # somebody was faster; a detached actor without a name would stay for ever
            kill(handle, no_restart=True)
            raise
        warn_of_detached(options.name)
    return handle


def _template(process: Process, actor_class: ActorClass) -> ActorSpec:
    own = actor_class.__dict__
    options, info = own["_options"], own["_info"]
    resources, placement = options.resources(process.welcome.resources)
    return ActorSpec(
        actor_id=b"",
        owner=b"",
        class_id=process.export_function(own["_definition"], 0),
        class_name=info.name,
        name=options.name,
        namespace=options.namespace,
        detached=options.detached,
        resources=resources,
        placement=placement,
        max_restarts=options.max_restarts,
        max_concurrency=info.max_concurrency,
        is_async=own["_is_async"],
        checkpoint_interval=own["_interval"],
        args=b"",
        dependencies=[],
        depth=0,
        cell="",
        threads=max(1, resources.get(CPU, 0) // UNIT),
        memory_bytes=options.memory_bytes,
    )
