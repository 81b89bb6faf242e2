"""Freeing objects by force, although somebody holds them.

Called by:  internal; runtime.process (messages of the daemon).
Imports:    core.references, runtime.{loop,objects,task_errors}.
Never:      takes bytes away from under a view, or from a task that uses them: those go when they may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from nbray.core.references import Away, Entry
from nbray.model.errors import UnreconstructableError
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import DropObjects, FreeObjects, UnpinObjects

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects


class _Condemned(NamedTuple):
    """An object that goes when it is not in use here: for everybody if it is our own, else for us."""

    is_own: bool
    is_pinned: bool  # by us


class Freeing:
    """Objects of one process that somebody wants gone. All methods: lock held."""

    def __init__(self, objects: Objects, tell_daemon: Callable[[Message], None]) -> None:
        self._objects = objects
        self._tell_daemon = tell_daemon
        self.condemned: dict[bytes, _Condemned] = {}  # their bytes are still in use

    def free(self, object_ids: Iterable[bytes]) -> None:
        """Free those that are there; what is still to come is left alone. Owners are asked to free theirs."""
        known = self._objects.table.entries
        elsewhere = []
        for object_id in object_ids:
            entry = known.get(object_id)
            if entry is None:
                continue
            if entry.owner is not None:
                elsewhere.append((object_id, entry.owner))
            if entry.value is not None and not entry.failed:
                self._condemn(entry)
        if elsewhere:
            self._tell_daemon(DropObjects(elsewhere))
        self.advance()

    def _condemn(self, entry: Entry) -> None:
        is_own = entry.owner is None
        if entry.pinned or (is_own and type(entry.value) in (Descriptor, Away)):
            self.condemned[entry.object_id] = _Condemned(is_own, entry.pinned)
        elif is_own and entry.shared:  # on its way to the store: tasks may wait for it, and none has it
            self._objects.promotions.withdraw(entry)
            self._tell_daemon(FreeObjects([entry.object_id]))
        self._objects.forget_value(entry)
        entry.pinned = False
        entry.value = serialize_system_error(UnreconstructableError(entry.object_id, why="It was freed."))
        entry.failed = True

    def advance(self) -> None:
        """Give back what is not in use any more."""
        if not self.condemned:
            return
        known, in_use = self._objects.table.entries, self._objects.in_use()
        for object_id, condemned in list(self.condemned.items()):
            entry = known.get(object_id)
            if object_id not in in_use and not (entry is not None and entry.views):
                del self.condemned[object_id]
                if condemned.is_own:
                    self._tell_daemon(FreeObjects([object_id]))
                    if self._objects.recomputing is not None:
                        self._objects.recomputing.gone([object_id])
                if condemned.is_pinned:
                    self._tell_daemon(UnpinObjects([object_id]))
