"""Actors that can be found by a name.

Called by:  api.{actor_classes,actors}.
Imports:    runtime.process, wire.
Never:      pickles: a handle comes and goes as bytes.
"""

from __future__ import annotations

from nbray.runtime.process import Process
from nbray.wire.actor_messages import ActorNamed, FindActor, NameActor


def find_actor(process: Process, name: str, namespace: str) -> bytes | None:
    """The pickled handle of the actor with this name, or None.

    Raises:
        NbrayError: the session is lost, or the daemon does not answer.
    """
    found = process.ask(lambda number: FindActor(number, namespace, name))
    assert isinstance(found, ActorNamed)
    return found.handle or None


def name_actor(
    process: Process, name: str, namespace: str, actor_id: bytes, owner: bytes, handle: bytes
) -> None:
    """Let a name find an actor.

    Raises:
        ValueError: it finds another, or the actor is dead.
        NbrayError: the session is lost, or the daemon does not answer.
    """
    found = process.ask(lambda number: NameActor(number, namespace, name, actor_id, owner, handle))
    assert isinstance(found, ActorNamed)
    if not found.actor_id:
        raise ValueError(f"The actor is dead: it cannot be named {name!r}.")
    if found.actor_id != actor_id:
        raise name_is_taken(name)


def name_is_taken(name: str) -> ValueError:
    """The error for a name that an actor has."""
    return ValueError(
        f"An actor is named {name!r} already. Please use a different name, or\n"
        f"  get that one:  nbray.get_actor({name!r})\n"
        f"  replace it:    nbray.kill(nbray.get_actor({name!r}), no_restart=True), then make this one again"
    )
