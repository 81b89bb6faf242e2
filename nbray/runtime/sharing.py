"""References that come and go: out of pickles, into values that leave this process, made from bytes.

Called by:  runtime.{process,refs}, worker.executor.
Imports:    runtime.{loop,objects,refs}, core.{references,tasks}.
Never:      keeps a reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nbray.core.references import Entry, Pair
from nbray.core.tasks import Task
from nbray.model import ids
from nbray.model.errors import NbrayError
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.refs import NOWHERE, ObjectRef, pairs_of, rebuild


class Host(Protocol):
    """Whose part this is."""

    failure: NbrayError | None  # why the session is lost, if it is


class Sharing:
    """What references do beside being held.

    Args:
        tasks: those of this process that are not over, by ID.
        check: raises if the session is lost, or the reference is another session's.
    """

    def __init__(
        self,
        host: Host,
        loop: Loop,
        objects: Objects,
        tasks: dict[bytes, Task],
        check: Callable[[ObjectRef], None],
    ) -> None:
        self._host = host
        self._loop = loop
        self._objects = objects
        self._tasks = tasks
        self._check = check

    def adopt(self, object_id: bytes, owner: bytes, by_hand: bool) -> ObjectRef:
        """A reference was unpickled here; ``by_hand``: from a pickle that a user made."""
        with self._loop.guard, self._loop.lock:
            ref = self._objects.adopt(object_id, owner)
            if by_hand:  # nothing but the life of its maker holds the object
                self._objects.say_fresh()
        return ref

    def claim(self, ref: ObjectRef) -> bool:
        """A reference that was made from bytes becomes a handle on its object. False: none is known."""
        with self._loop.guard, self._loop.lock:
            return ref._home is NOWHERE and self._objects.claim(ref)

    def reduce(self, ref: ObjectRef) -> tuple[Any, ...]:
        """What our own pickler makes of a reference; who called it looks after what is in ``refs``."""
        if ref._home is NOWHERE:
            return ref.__reduce__()
        if ref._home is not self._objects.home or self._host.failure is not None:
            self._check(ref)
        return rebuild, (ref._id, ref._owner)

    def export(self, ref: ObjectRef) -> tuple[bytes, bytes]:
        """A user pickles a reference."""
        self._check(ref)
        with self._loop.guard, self._loop.lock:
            self._will_seal(self._objects.export(ref._id))
        return ref._id, ref._owner

    def share(self, refs: list[ObjectRef]) -> list[Pair]:
        """These are in a value that is about to leave; returns each once, with its owner. Lock held."""
        pairs = pairs_of(refs)
        self._will_seal(self._objects.share([object_id for object_id, _owner in pairs]))
        return pairs

    def _will_seal(self, entries: list[Entry]) -> None:
        """Results that are still to come go to the store at once: in time or not, they are promoted else."""
        tasks = self._tasks
        for entry in entries:
            task = tasks.get(entry.object_id[: ids.TASK_ID_BYTES])
            if task is not None:
                task.seal_results = True
