"""Looking at actors: ``nbray.actors()``; and ending one that was seen there.

Called by:  users, jupyter.
Imports:    api.{actor_handles,session}, observe, runtime, wire.
Never:      holds an actor that it lists.
"""

from __future__ import annotations

from typing import Any

from nbray.api import session
from nbray.api.actor_handles import ActorHandle, target_of
from nbray.model.ids import short
from nbray.observe.actors import DEAD, Actors, actors_of
from nbray.observe.cards import Killed
from nbray.runtime.current import current
from nbray.runtime.identifiers import ActorID
from nbray.wire.actor_messages import ActorList, GetActors

__all__ = ["actors", "kill_actor"]

#: What people may type of an ID, at least.
_PREFIX_MIN = 4


def actors(actor_id: ActorHandle | ActorID | str | bytes | None = None) -> dict[str, Any]:
    """Which actors there are, and were, on all processes of the cluster, and how they are.

    Args:
        actor_id: ask for this one alone: a handle, or an ID as ``ActorID``, hex or bytes.

    Returns:
        For each ID in hex a dict with ``ActorID``, ``JobID``, ``Address``, ``OwnerAddress``, ``State``
        ("ALIVE", "DEAD", ...), ``Timestamp``, ``Class``, ``Name``, ``Pid``, ``Restarts`` and more (see
        ``nbray.observe.actors.Actors``); prints as a table. For one actor its dict alone, empty if it is not
        known. The last 10,000 dead ones are remembered.

    Raises:
        TypeError: ``actor_id`` is something else.
        ValueError: it is no ID.
        RayConnectionError: no session is running.
    """
    process = current()
    wanted = None if actor_id is None else _hex(actor_id)
    found = process.ask(GetActors)
    assert isinstance(found, ActorList)
    table = actors_of(found.actors, process.job_id, session.node_ip_of(process.welcome))
    return table if wanted is None else table.get(wanted, {})


def kill_actor(word: str) -> Killed:
    """End an actor for good, that is named by its name or ID, as ``nbray.actors()`` shows them.

    Args:
        word: a name, an ID in hex, or the part of one that the table shows.

    Raises:
        ValueError: no living actor, or several, are called that.
        RayConnectionError: no session is running.
    """
    process = current()
    table = actors()
    assert isinstance(table, Actors)
    found = _called(table, word)
    if len(found) != 1:
        raise ValueError(
            f"{'Several living actors are' if found else 'No living actor is'} called {word!r}. Give a name "
            "or an ID: nbray.actors() shows them."
        )
    row = table[found[0]]
    with process.loop.guard, process.loop.lock:
        process.actors.kill(
            bytes.fromhex(found[0]), bytes.fromhex(row["OwnerAddress"]["WorkerID"]), no_restart=True
        )
    return Killed(row["Name"] or row["Class"])


def _called(table: Actors, word: str) -> list[str]:
    living = [actor_id for actor_id, row in table.items() if row["State"] != DEAD]
    by_name = [actor_id for actor_id in living if table[actor_id]["Name"] == word]
    if by_name or len(word) < _PREFIX_MIN:
        return by_name
    word = word.lower()
    return [a for a in living if a.startswith(word) or short(bytes.fromhex(a)) == word]


def _hex(actor_id: object) -> str:
    if isinstance(actor_id, ActorHandle):
        return target_of(actor_id).actor_id.hex()
    if isinstance(actor_id, ActorID):
        return actor_id.hex()
    if isinstance(actor_id, (str, bytes)):
        try:
            return ActorID(actor_id if isinstance(actor_id, bytes) else bytes.fromhex(actor_id)).hex()
        except ValueError as exc:
            raise ValueError(
                f"{actor_id!r} is not the ID of an actor, as handle._actor_id.hex() is."
            ) from exc
    raise TypeError(f"nbray.actors() takes a handle or an ID, not {type(actor_id).__name__}.")
