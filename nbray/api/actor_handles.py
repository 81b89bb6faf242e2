"""Handles of actors and of their methods: what users hold, call and pass on.

Called by:  api.actor_classes, users.
Imports:    api.{actor_info,parameters}, runtime.{actors,context,current,process,refs,results}.
Never:      refers from a method to its handle: an actor ends when its last handle goes, and a circle would
            keep one until the garbage collector comes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbray.api.actor_info import ClassInfo, MethodInfo
from nbray.core.tasks import TaskSpec
from nbray.model.errors import StaleSessionError
from nbray.model.resources import whole_or_none
from nbray.runtime.context import Place
from nbray.runtime.current import current
from nbray.runtime.identifiers import ActorID
from nbray.runtime.results import NO_RESULT

if TYPE_CHECKING:
    from nbray.core.actor_calls import Route
    from nbray.runtime.process import Process
    from nbray.runtime.refs import ObjectRef

_TERMINATE = "__ray_terminate__"


class Target:
    """The actor that a handle stands for, in this process. ``ref`` keeps it alive; None: it needs nobody."""

    __slots__ = ("_route", "actor_id", "info", "owner", "process", "ref")

    def __init__(
        self, process: Process, actor_id: bytes, owner: bytes, info: ClassInfo, ref: ObjectRef | None
    ) -> None:
        self.process = process
        self.actor_id = actor_id
        self.owner = owner
        self.info = info
        self.ref = ref
        self._route: Route | None = None

    def __del__(self) -> None:
        # An actor that nobody can call goes now, and not when this process next has something to do.
        ref = self.ref
        if ref is not None:
            home = ref._home  # noqa: SLF001  # the runtime's
            self.ref = ref = None
            home.wake()

    @property
    def route(self) -> Route:
        """The way to it; known from the first call on.

        Raises:
            StaleSessionError: it is of another session.
        """
        process = current()
        if process is not self.process:
            raise StaleSessionError()
        route = self._route
        if route is None:
            info, entry = self.info, None if self.ref is None else self.ref._entry  # noqa: SLF001  # the runtime's
            with process.loop.guard, process.loop.lock:
                route = process.actors.route(
                    self.actor_id, self.owner, info.name, info.max_concurrency, info.keeps_calls, entry
                )
            self._route = route
        return route


class _Calls:
    """The calls of one method with one number of results; ``spec`` is good for one place."""

    __slots__ = ("num_returns", "place", "spec", "target")

    def __init__(self, target: Target, num_returns: int) -> None:
        self.target = target
        self.num_returns = num_returns
        self.spec: TaskSpec | None = None
        self.place: Place | None = None

    def plan(self, process: Process, method: str) -> TaskSpec:
        """What calls from here have in common."""
        target, place = self.target, process.context.place
        spec = process.actors.call_spec(
            target.route, method, self.num_returns, target.info.max_task_retries, place
        )
        self.spec, self.place = spec, place
        return spec


def _submitting(calls: _Calls, method: MethodInfo) -> Callable[..., Any]:
    """The function behind ``handle.method.remote``. It is on the path of every call."""
    parameters, name, own = method.parameters, method.name, calls.target.process
    fits = parameters.fits

    def remote(*args: Any, **kwargs: Any) -> Any:
        process = current()
        if ((len(args), *kwargs) if kwargs else len(args)) not in fits:
            parameters.check(args, kwargs)
        spec = calls.spec
        if spec is None or calls.place is not process.context.place or process is not own:
            spec = calls.plan(process, name)
        refs = process.submit(spec, args, kwargs)
        if spec.num_returns == 1:
            return refs[0]
        return refs or None

    return remote


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)`` calls it and returns at once with a reference."""

    __signature__: Any

    def __init__(self, target: Target, method: MethodInfo, num_returns: int) -> None:
        self._target = target
        self._method = method
        self._num_returns = num_returns
        remote = _submitting(_Calls(target, num_returns), method)
        remote.__name__ = remote.__qualname__ = self.__name__ = method.name
        remote.__doc__ = self.__doc__ = method.doc or None
        if method.signature is not None:
            remote.__signature__ = self.__signature__ = method.signature  # type: ignore[attr-defined]
        self.__dict__["remote"] = remote

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method in the actor's process.

        Calls from one process run in the order in which they were made, unless the actor runs several at
        once.

        Returns:
            A reference to the result; a list of them for ``num_returns`` above 1; None for 0.

        Raises:
            TypeError: the arguments do not fit the method's signature.
            SerializationError: an argument cannot be pickled; names the culprit.
            StaleSessionError: the actor is of another session.
            RayConnectionError: no session is running.
        """
        return self.__dict__["remote"](*args, **kwargs)

    def options(self, *, num_returns: int | None = None, num_return_vals: int | None = None) -> ActorMethod:
        """The same method with another number of results.

        Raises:
            TypeError: not an integer.
            ValueError: less than 0.
        """
        given = num_returns if num_returns is not None else num_return_vals
        if given is None:
            return self
        number = whole_or_none(given)
        if number is None:
            raise TypeError(f"num_returns must be an integer, not {given!r}.")
        if number < 0:
            raise ValueError(f"num_returns must be at least 0, not {number}.")
        return ActorMethod(self._target, self._method, number)

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """``method.options(**options).remote(*args, **kwargs)`` in one call."""
        method = self.options(**options) if options else self
        return method.remote(*(args or ()), **(kwargs or {}))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102  # its docstring is the method's
        raise TypeError(
            f"Actor methods cannot be called directly. Use .{self._method.name}.remote(...) to call "
            f"{self._target.info.name}.{self._method.name} in the actor's process."
        )

    def __repr__(self) -> str:
        return f"<method {self._target.info.name}.{self._method.name} of an actor>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _method_of, (_handle_of(self._target), self._method.name, self._num_returns)


class ActorHandle:
    """Stands for an actor. The actor lives as long as any process has a handle, or a call is under way.

    Pass handles to tasks and actors, put them into containers, or pickle them.
    """

    _target: Target

    def __init__(self, target: Target) -> None:
        self.__dict__["_target"] = target

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._target.actor_id)

    _ray_actor_id = _actor_id

    def __getattr__(self, name: str) -> ActorMethod:
        if name == "_target":  # a handle that is being made
            raise AttributeError(name)
        target: Target = self.__dict__["_target"]
        method = target.info.methods.get(name)
        if method is None:
            raise AttributeError(
                f"Actor class {target.info.name} has no method {name!r}; it has "
                f"{', '.join(target.info.public_names()) or 'none'}."
            )
        made = self.__dict__[name] = ActorMethod(target, method, method.num_returns)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"The attributes of an actor are in its process: give {self._target.info.name} a method that "
            f"sets {name!r}, and call that."
        )

    def __ray_kill__(self) -> None:
        """End the actor's process at once; ``nbray.kill(handle)`` is its name now."""
        from nbray.api.actors import kill

        kill(self)

    def __dir__(self) -> Iterable[str]:
        return [*self._target.info.methods, "__ray_kill__"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._target.actor_id == self._target.actor_id

    def __hash__(self) -> int:
        return hash(self._target.actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._target.info.name}, {self._target.actor_id.hex()})"

    def __copy__(self) -> ActorHandle:
        return ActorHandle(self._target)

    def __deepcopy__(self, memo: dict[int, Any]) -> ActorHandle:
        return ActorHandle(self._target)

    def __reduce__(self) -> tuple[Any, ...]:
        target = self._target
        return rebuild, (target.info, target.actor_id, target.owner, target.ref)


NO_RESULT[ActorHandle] = "the handle of an actor, which is no result by itself: return it in a list."


def target_of(handle: ActorHandle) -> Target:
    """What a handle stands for."""
    target: Target = handle.__dict__["_target"]
    return target


def _handle_of(target: Target) -> ActorHandle:
    return ActorHandle(target)


def _method_of(handle: ActorHandle, name: str, num_returns: int) -> ActorMethod:
    """What a pickled method becomes."""
    target = target_of(handle)
    return ActorMethod(target, target.info.methods[name], num_returns)


def rebuild(info: ClassInfo, actor_id: bytes, owner: bytes, ref: ObjectRef | None) -> ActorHandle:
    """What a pickled handle becomes where it is loaded.

    Raises:
        RayConnectionError: no session is running there.
    """
    return ActorHandle(Target(current(), actor_id, owner, info, ref))


@functools.lru_cache(maxsize=1)
def terminate_method() -> MethodInfo:
    """What every actor has: the call after which it ends by its own will."""
    return MethodInfo.of(_TERMINATE, 1, None, "End the actor when the calls before this one are done.")
