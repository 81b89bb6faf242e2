"""Freeing objects by force, although somebody holds them.

Called by:  internal; runtime.process (messages of the daemon).
Imports:    core.references, runtime.{loop,objects,task_errors}.
Never:      takes bytes away from under a view, or from a task that uses them: those go when they may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nbray.core.references import Away, Entry
from nbray.model.errors import UnreconstructableError
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import DropObjects, FreeObjects, UnpinObjects

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects


class Freeing:
    """Objects of one process that somebody wants gone. All methods: lock held."""

    def __init__(self, objects: Objects, tell_daemon: Callable[[Message], None]) -> None:
        self._objects = objects
        self._tell_daemon = tell_daemon
        self.condemned: dict[bytes, bool] = {}  # whose bytes are still in use -> whether we pinned them

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Free those that are there; what is still to come is left alone. Owners are asked to free theirs."""
        known = self._objects.table.entries
        elsewhere = []
        for object_id in object_ids:
            entry = known.get(object_id)
            if entry is not None and entry.owner is not None:
                elsewhere.append(object_id)
            elif entry is not None and entry.value is not None and not entry.failed:
                self._condemn(entry)
        if elsewhere:
            self._tell_daemon(DropObjects(elsewhere))
        self.advance()

    def _condemn(self, entry: Entry) -> None:
        if type(entry.value) is Descriptor or type(entry.value) is Away or entry.shared:
            self.condemned[entry.object_id] = entry.pinned
        self._objects.forget_value(entry)
        entry.pinned = False
        entry.value = serialize_system_error(UnreconstructableError(entry.object_id, why="It was freed."))
        entry.failed = True

    def advance(self) -> None:
        """Give back what is not in use any more."""
        if not self.condemned:
            return
        known, in_use = self._objects.table.entries, self._objects.in_use()
        for object_id, pinned in list(self.condemned.items()):
            entry = known.get(object_id)
            if object_id not in in_use and not (entry is not None and entry.views):
                del self.condemned[object_id]
                self._tell_daemon(FreeObjects([object_id]))
                if self._objects.recomputing is not None:
                    self._objects.recomputing.gone([object_id])
                if pinned:
                    self._tell_daemon(UnpinObjects([object_id]))
