"""What an actor that saves its own state is asked, and what it is told.

Called by:  users, as ``nbray.actor``; api.actor_classes, worker.checkpoints.
Imports:    runtime.identifiers.
Never:      saves anything.
"""

from __future__ import annotations

from typing import NamedTuple

from nbray.runtime.identifiers import ActorCheckpointID, ActorID


class CheckpointContext(NamedTuple):
    """What ``Checkpointable.should_checkpoint`` is told. Since the start, if there was no checkpoint yet."""

    actor_id: ActorID
    num_tasks_since_last_checkpoint: int
    time_elapsed_ms_since_last_checkpoint: int


class Checkpoint(NamedTuple):
    """A checkpoint that can be loaded. ``timestamp``: when it was saved, in milliseconds since 1970."""

    checkpoint_id: ActorCheckpointID
    timestamp: int


class Checkpointable:
    """Base of actor classes that save and load their state by themselves.

    ``@nbray.remote(max_restarts=n, max_task_retries=m)`` then makes actors that come back with the state of
    the checkpoint that they choose; the calls that they answered after it run again. Without
    ``max_task_retries`` these calls are lost.

    The last 20 checkpoints are offered. What a method here raises is pushed as an error of kind
    ``checkpoint``, and the actor goes on as if there had been no checkpoint.
    """

    def should_checkpoint(self, checkpoint_context: CheckpointContext) -> bool:
        """Whether to save now. Asked after each call.

        While a caller has not read answers of this actor for so long that they fill its socket, a
        checkpoint waits until after the next call.
        """
        raise NotImplementedError

    def save_checkpoint(self, actor_id: ActorID, checkpoint_id: ActorCheckpointID) -> None:
        """Save the state under this ID, where a process that comes later finds it.

        The state must be on its way to the disk, or wherever, when this returns: callers forget calls then.
        """
        raise NotImplementedError

    def load_checkpoint(
        self, actor_id: ActorID, available_checkpoints: list[Checkpoint]
    ) -> ActorCheckpointID | None:
        """Take on the state of one of these; asked after the constructor, when the actor was restarted.

        Args:
            actor_id: of this actor.
            available_checkpoints: the newest first; never empty.

        Returns:
            The ID of the one that was loaded; None: none was, so what callers still know runs again.
        """
        raise NotImplementedError

    def checkpoint_expired(self, actor_id: ActorID, checkpoint_id: ActorCheckpointID) -> None:
        """This checkpoint will not be offered again: what was saved for it may go."""
        raise NotImplementedError


_METHODS = ("should_checkpoint", "save_checkpoint", "load_checkpoint", "checkpoint_expired")


def missing_methods(cls: type) -> list[str]:
    """Which methods of ``Checkpointable`` a class derived from it does not define."""
    return [name for name in _METHODS if getattr(cls, name) is getattr(Checkpointable, name)]
