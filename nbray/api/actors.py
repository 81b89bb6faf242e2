"""What users do with actors beside calling them: end, name, find and list them, mark their methods.

Called by:  users, api.actor_handles, util, jupyter.
Imports:    api.{actor_handles,actor_info}, runtime, model, wire.
Never:      makes one (``api.actor_classes`` does).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from nbray.api.actor_handles import ActorHandle, target_of
from nbray.api.actor_info import NUM_RETURNS
from nbray.core.actor_calls import RouteState
from nbray.model.errors import OptionError, StaleSessionError
from nbray.model.resources import whole_or_none
from nbray.runtime.actor_names import find_actor, name_actor, name_is_taken
from nbray.runtime.current import current

__all__ = ["exit_actor", "get_actor", "kill", "method", "register_actor"]

F = TypeVar("F", bound=Callable[..., Any])


def method(*args: Any, **options: Any) -> Callable[[F], F]:
    """Say how many values a method of an actor returns: ``@nbray.method(num_returns=2)``.

    Args:
        args: none.
        options: exactly one, ``num_returns``, also spelled ``num_return_vals``.

    Raises:
        OptionError: another option, or none. It is a TypeError and an AssertionError.
        TypeError: not an integer.
        ValueError: less than 0.
    """
    if args or len(options) != 1 or not options.keys() <= {"num_returns", "num_return_vals"}:
        raise OptionError(
            "Use @nbray.method(num_returns=n), with exactly one keyword; a method of one value needs no "
            "decorator."
        )
    ((name, value),) = options.items()
    number = whole_or_none(value)
    if number is None:
        raise TypeError(f"{name} must be an integer, not {value!r}.")
    if number < 0:
        raise ValueError(f"{name} must be at least 0, not {number}.")

    def mark(function: F) -> F:
        setattr(function, NUM_RETURNS, number)
        return function

    return mark


def kill(actor: ActorHandle, *, no_restart: bool = False) -> None:
    """End an actor's process at once, whatever it does.

    Calls under way raise ``RayActorError``. An actor that may be restarted is, unless told otherwise. To let
    it finish what it was told to do, call ``actor.__ray_terminate__.remote()``.

    Raises:
        ValueError: not a handle.
        StaleSessionError: the actor is of another session.
        RayConnectionError: no session is running.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"nbray.kill() takes the handle of an actor, not {type(actor).__name__}.")
    process = current()
    target = target_of(actor)
    if target.process is not process:
        raise StaleSessionError()
    with process.loop.guard, process.loop.lock:
        process.actors.kill(target.actor_id, target.owner, no_restart)


def is_dead(actor: ActorHandle) -> bool:
    """Whether an actor is known to be dead for good in this process, which calls it."""
    return target_of(actor).route.state is RouteState.DEAD


def exit_actor() -> NoReturn:
    """End the actor that this code runs in, by its own will: no failure, no restart.

    Calls that it was sent before are done by then; later ones raise ``RayActorError``.

    Raises:
        TypeError: this is no actor.
    """
    if current().actor is None:
        raise TypeError("nbray.exit_actor() ends the actor that it is called in, and this is none.")
    raise SystemExit(0)


def register_actor(name: str, actor: ActorHandle, namespace: str = "") -> None:
    """Let others find an actor by a name, until it is dead.

    While the process that named it lives, it needs no handle.

    Raises:
        TypeError: ``name`` is no string, or ``actor`` no handle.
        ValueError: another actor has the name.
        RayConnectionError: no session is running.
    """
    _check_name(name)
    if not isinstance(actor, ActorHandle):
        raise TypeError(f"register_actor() takes the handle of an actor, not {type(actor).__name__}.")
    target, process = target_of(actor), current()
    # Asked before it is pickled, since that holds it for as long as this process lives: an actor that is
    # refused the name would stay without anybody who could call it.
    taken = find_actor(process, name, namespace)
    if taken is not None and pickle.loads(taken) != actor:  # noqa: S301  # made by a process of this session
        raise name_is_taken(name)
    name_actor(process, name, namespace, target.actor_id, target.owner, pickle.dumps(actor))


def get_actor(name: str, namespace: str = "") -> ActorHandle:
    """The actor of that name.

    Raises:
        TypeError: ``name`` is no string.
        ValueError: no actor has it.
        RayConnectionError: no session is running.
    """
    _check_name(name)
    pickled = find_actor(current(), name, namespace)
    if pickled is None:
        raise ValueError(
            f"There is no actor named {name!r}: none was given the name, or it is dead. nbray.actors() lists "
            "all."
        )
    handle: ActorHandle = pickle.loads(pickled)  # noqa: S301  # made by a process of this session
    return handle


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"The name of an actor is a string, not {type(name).__name__}.")
