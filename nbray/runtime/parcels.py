"""References inside the results of tasks: held for their receiver while they travel.

Called by:  runtime.submitter.
Imports:    core.tasks, runtime.objects, wire.
Never:      keeps anything: the node's directory knows what is under way (``core.holds``).

All methods: lock held.
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core.tasks import Task, parcel_id
from nbray.runtime.objects import Objects
from nbray.wire.base import Message
from nbray.wire.messages import TaskAnswer
from nbray.wire.object_messages import EndParcels, ParcelsSettled


class Parcels:
    """The receiver's side.

    Args:
        objects: whose entries the references become part of.
        tell_daemon: sends a message to the node daemon.
    """

    def __init__(self, objects: Objects, tell_daemon: Callable[[Message], None]) -> None:
        self._objects = objects
        self._tell_daemon = tell_daemon

    def take(self, sender: bytes, answer: TaskAnswer, task: Task) -> None:
        """The results hold references: so do their entries now, if anybody wants them."""
        for entry, inner in zip(task.results, answer.inner, strict=True):
            if inner and self._objects.is_alive(entry):
                self._objects.contain(entry, inner)
        self.end(sender, answer)

    def end(self, sender: bytes, answer: TaskAnswer) -> None:
        """The directory hears what is kept of them, and then that they have arrived."""
        self._objects.say_fresh()
        self._tell_daemon(EndParcels(sender, [parcel_id(answer.task_id, answer.attempt)]))

    def settle(self, sender: bytes) -> None:
        """The sender is dead, and what it had sent here is dealt with."""
        self._objects.say_fresh()
        self._tell_daemon(ParcelsSettled(sender))
