"""Errors of actors: one that is dead, was never made, or holds more than it may.

Called by:  runtime.actors, worker.actor, users.
Imports:    nbray.model.{ending_errors,errors,ids}.
Never:      says that a call did not run: an actor may have died after it had.

::

    NbrayError
    └── RayActorError                  the actor died, or could not be made
        └── ActorOutOfMemoryError      also RayOutOfMemoryError: it was ended for want of memory
    RayOutOfMemoryError
    └── ActorQuotaError                it lives, and holds more than its ``memory=``
"""

from __future__ import annotations

from typing import Any

from nbray.model.ending_errors import RayOutOfMemoryError
from nbray.model.errors import _FieldError, advice_on_signal, last_lines

_MIB = 1 << 20


class RayActorError(_FieldError):
    """The actor is dead, or was never made; with ``max_restarts`` it may have been made again since.

    Args:
        class_name: of the actor.
        actor_id: in hex.
        why: a sentence; for a process that died, how it did.
        node, pid: where it ran; 0 if its process did not die, or never was.
        exit_code, term_signal: how its process ended; signal 0 means that it exited.
        stderr_tail: the last lines it wrote to stderr; of a crash, where Python was.
    """

    class_name: str
    actor_id: str
    why: str
    node: str
    pid: int
    exit_code: int
    term_signal: int
    stderr_tail: str

    def __init__(
        self, *, class_name: str = "", actor_id: str = "", why: str = "", node: str = "", pid: int = 0,
        exit_code: int = 0, term_signal: int = 0, stderr_tail: str = "", **others: Any,
    ) -> None:  # fmt: skip
        _FieldError.__init__(
            self, class_name=class_name, actor_id=actor_id, why=why, node=node, pid=pid, exit_code=exit_code,
            term_signal=term_signal, stderr_tail=stderr_tail, **others,
        )  # fmt: skip

    def __str__(self) -> str:
        f = self.__dict__
        why = f["why"] or "Its process died or was killed."
        text = f"{_name(f)} cannot answer. {why}" + (last_lines(f["stderr_tail"]) or " ")
        advice = advice_on_signal(f["term_signal"])
        return f"{text}{advice + ' ' if advice else ''}{_REMEDY}"


_REMEDY = "Make a new actor, or set max_restarts to have it restarted."


class ActorOutOfMemoryError(RayActorError, RayOutOfMemoryError):
    """The actor's process was ended since the memory of the machine, or of a container, ran out.

    A ``RayActorError``, since it is gone, and a ``RayOutOfMemoryError`` with what was found then.
    """

    def __init__(self, **fields: Any) -> None:
        RayActorError.__init__(self, **fields)

    def __str__(self) -> str:
        f = self.__dict__
        return self._what_was_found(f"the process (pid {f['pid']}) of {_name(f)}") + f"\n{_REMEDY}"


class ActorQuotaError(RayOutOfMemoryError):
    """A call is over, and its actor holds more memory than its ``memory=`` allows. The actor goes on.

    Args:
        class_name, actor_id: of the actor; the ID in hex.
        method: the call that found it so. It has run.
        held_bytes: what the actor's process has for itself.
        limit_bytes: its ``memory=``.
        pid: its process.
    """

    def __init__(self, *, class_name: str = "", actor_id: str = "", method: str = "", **others: Any) -> None:
        super().__init__(**others)
        self.__dict__.update(class_name=class_name, actor_id=actor_id, method=method)

    def __str__(self) -> str:
        f = self.__dict__
        return (
            f"{_name(f)} (pid {f['pid']}) holds {f['held_bytes'] / _MIB:,.0f} MiB after {f['method']}(), and "
            f"its memory= allows {f['limit_bytes'] / _MIB:,.0f} MiB. The call has run and its result is "
            "dropped; the actor goes on, and calls after which it holds less return as ever. Let it hold "
            "less, or give it a larger memory=."
        )


def _name(fields: dict[str, Any]) -> str:
    """People see the counter of the ID: its beginning is the same for all siblings."""
    actor_id = fields["actor_id"]
    return " ".join(filter(None, ("Actor", fields["class_name"], actor_id[24:32] or actor_id[:8])))
