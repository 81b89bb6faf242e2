"""Values: who holds them here, how they arrive, how they are read, when they go.

Called by:  runtime.process (get, put, wait), runtime.submitter (results), worker.executor.
Imports:    core.references, store.mapping, runtime.{creating,loop,promotion,refs,serialization}.
Never:      deserializes with the loop's lock held (user code runs then).

Methods whose docstring says "lock held" are called with ``loop.lock``; the others take it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from nbray.core.references import Away, Entry, Pair, ReferenceTable
from nbray.core.tasks import Task, TaskSpec
from nbray.model.errors import NbrayError, OwnerDiedError, UnreconstructableError
from nbray.runtime.creating import Creating, full_error
from nbray.runtime.freeing import Freeing
from nbray.runtime.loop import Loop
from nbray.runtime.promotion import Promotions
from nbray.runtime.pushed_errors import push
from nbray.runtime.reading import Reading
from nbray.runtime.recomputing import Recomputing
from nbray.runtime.refs import Home, ObjectRef, make_ref
from nbray.runtime.serialization import value_kind
from nbray.runtime.slabs import SlabWriter
from nbray.runtime.task_errors import serialize_system_error
from nbray.runtime.waiting import AllOf, Waiter
from nbray.store.mapping import Mapping
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import (
    CreateFailed,
    FreeObjects,
    GetObjects,
    HoldObjects,
    LetGo,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsLost,
    ObjectsYielded,
    RecallObjects,
    ReleaseHolds,
    Unheld,
    UnpinObjects,
)


class Objects:
    """All values that this process owns, borrows or reads.

    Args:
        tell_daemon: sends a message to the node daemon; lock held.
        tell_soon: the same, with those that follow.
        argument_ready: called for each task that was waiting for an object; lock held.
        argument_refused: called for each task whose arguments found no room in the store; lock held.
    """

    def __init__(
        self,
        loop: Loop,
        process_id: bytes,
        tell_daemon: Callable[[Message], None],
        tell_soon: Callable[[Message], None],
        argument_ready: Callable[[Task], None],
        argument_refused: Callable[[Task, NbrayError], None],
    ) -> None:
        self.table = ReferenceTable()
        self.home = Home(process_id, loop.wake)
        self.mapping: Mapping | None = None
        self.watchers: list[AllOf] = []  # who waits for many, and ends with the first error
        self.away = 0  # how many values were yielded and are not back
        self.slabs = SlabWriter(tell_daemon)
        self.creating = Creating(loop, tell_daemon, self.slabs, self.drain)
        self.promotions = Promotions(self, tell_soon, self.slabs, loop.arm, argument_ready, self._refused)
        #: Objects that tasks use which were pushed to workers: their bytes stay where they are.
        self.in_use: Callable[[], Collection[bytes]] = tuple
        #: How own objects were made, to make lost ones again.
        self.recomputing: Recomputing | None = None
        #: Processes whose holds the directory hears of at once; workers say it when their task is over.
        self.says_at_once = True
        self.freeing = Freeing(self, tell_daemon)
        #: What handles of actors hold; and who hears that none is left here.
        self.handle_objects: Collection[bytes] = ()
        self.on_handles_gone: Callable[[list[bytes]], None]
        self._collects_from_s = 0.0
        self._unpins: list[bytes] = []  # what was copied as it came
        self._loop = loop
        self._tell_daemon = tell_daemon
        self._argument_ready = argument_ready
        self._argument_refused = argument_refused
        self.reading = Reading(loop, self)
        self.load = self.reading.load

    def attach(self, mapping: Mapping, node_id: bytes) -> None:
        """The node's store, and its name."""
        self.mapping = self.creating.mapping = self.promotions.mapping = mapping
        self.creating.node_id = self.promotions.node_id = node_id

    # --- references ----------------------------------------------------------------------------

    def own(self, object_id: bytes) -> ObjectRef:
        """A new object of this process and its first handle. Lock held."""
        return make_ref(self.table.own(object_id), self.home)

    def adopt(self, object_id: bytes, owner: bytes) -> ObjectRef:
        """Another handle, on an own object or on somebody else's. Lock held."""
        entry = self.table.entries.get(object_id)
        if entry is not None and owner == self.home.process_id:
            self.table.add_handle(object_id)
        else:
            entry = self.table.borrow(object_id, owner)
            if self.says_at_once:
                self._loop.soon()
        return make_ref(entry, self.home)

    def claim(self, ref: ObjectRef) -> bool:
        """Count a reference that a user made from bytes, if its object is known. Lock held."""
        entry = self.table.entries.get(ref.binary())
        if entry is None:
            return False
        self.table.add_handle(entry.object_id)
        ref.tie(entry, self.home)
        return True

    def share(self, object_ids: Iterable[bytes]) -> list[Entry]:
        """References that are in a value which leaves. Lock held. Returns own ones, the first time.

        Readers must not have to wait for this process, which may be busy: values move to the store, now
        or when they arrive.
        """
        return self._move_to_store(self.table.share(object_ids))

    def export(self, object_id: bytes) -> list[Entry]:
        """A user pickles a reference: it is held for as long as this process lives. Lock held."""
        return self._move_to_store(self.table.export(object_id))

    def _move_to_store(self, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            if type(entry.value) is bytes:
                self.promote(entry)
        return entries

    def promote(self, entry: Entry, task: Task | None = None) -> None:
        """Move a small value to the store; ``task`` waits for that. Lock held."""
        self.promotions.promote(entry, task)
        if not self._loop.is_due:
            self._loop.soon()

    def is_alive(self, entry: Entry) -> bool:
        """Whether this process still knows it. Lock held."""
        return self.table.entries.get(entry.object_id) is entry

    def inner_of(self, entry: Entry) -> Sequence[Pair]:
        """The references in its value, with their owners. Lock held."""
        known = self.table.entries
        return [(o, self.owner_of(known[o])) for o in entry.inner if o in known]

    def contain(self, outer: Entry, inner: Iterable[Pair]) -> None:
        """The value of an own object holds these references. Lock held."""
        self.table.contain(outer, inner, self.home.process_id)
        if outer.shared:
            self.share(outer.inner)

    def owner_of(self, entry: Entry) -> bytes:
        """The process that owns it."""
        return entry.owner or self.home.process_id

    def drain(self) -> None:
        """Let go of what was dropped since the last time. Lock held."""
        dropped, closed = self.home.dropped, self.reading.closed
        if dropped or closed:
            freed: list[Entry] = []
            self.table.drop_handles(dropped, freed)
            while closed:
                self.table.close_view(closed.popleft(), freed)
            if freed or self.table.let_go:
                self.release(freed)
        if self.says_at_once and self.table.fresh:
            self.say_fresh()
        if self.freeing.condemned:
            self.freeing.advance()

    def release_arguments(self, object_ids: Sequence[bytes]) -> None:
        """A task that held these is over. Lock held."""
        freed: list[Entry] = []
        for object_id in object_ids:
            self.table.release_argument(object_id, freed)
        if freed or self.table.let_go:
            self.release(freed)

    def note_pinned(self, entries: list[Entry]) -> None:
        """The daemon pinned each of these once for us. What died meanwhile, or had a pin, gives it back.

        Lock held.
        """
        surplus = []
        for entry in entries:
            if entry.pinned or self.table.entries.get(entry.object_id) is not entry:
                surplus.append(entry.object_id)
            entry.pinned = True
        if surplus:
            self._tell_daemon(UnpinObjects(surplus))

    def say_fresh(self) -> bool:
        """Tell the directory what was borrowed: always before anything is let go of. Lock held.

        Returns whether there was anything to tell.
        """
        fresh = self.table.take_fresh()
        if fresh:
            self._tell_daemon(HoldObjects(fresh))
        return bool(fresh)

    def release(self, freed: list[Entry]) -> None:
        """Nothing here holds these entries any more. Lock held."""
        own = [e.object_id for e in freed if e.owner is None and (type(e.value) in _STORED or e.doubtful)]
        pinned = [e.object_id for e in freed if e.pinned]
        if self.away:
            self.away -= sum(type(e.value) is Away for e in freed)
        let_go = self.table.take_let_go()
        self.say_fresh()
        released = self.table.released(freed)
        for kind, object_ids in (
            (FreeObjects, own), (UnpinObjects, pinned), (ReleaseHolds, released), (LetGo, let_go),
        ):  # fmt: skip
            if object_ids:
                self._tell_daemon(kind(object_ids))
        if self.recomputing is not None and len(self.recomputing.lineage):
            self.recomputing.gone([e.object_id for e in freed if e.owner is None])
        if self.handle_objects:
            gone = [e.object_id for e in freed if e.object_id in self.handle_objects]
            if gone:
                self.on_handles_gone(gone)

    def on_unheld(self, message: Unheld) -> None:
        """Nobody else holds these own objects. Lock held."""
        freed: list[Entry] = []
        self.table.unheld(message.object_ids, freed)
        self.release(freed)

    # --- values arrive ---------------------------------------------------------------------------

    def deliver(self, object_id: bytes, value: bytes | Descriptor, failed: bool) -> None:
        """A value is there: tell who waits. Lock held."""
        entry = self.table.entries.get(object_id)
        if entry is not None:
            self.deliver_to(entry, value, failed)
        elif type(value) is Descriptor:
            self._tell_daemon(FreeObjects([object_id]))

    def deliver_to(self, entry: Entry, value: bytes | Descriptor, failed: bool) -> None:
        """Likewise, for a record that is at hand. A value is final: a later one is ignored. Lock held."""
        if entry.yielded and type(value) is Descriptor:
            entry.yielded = False
            self.away += 1
            is_new = self.table.ready(entry, Away(value.size_bytes), failed)
        else:
            is_new = self.table.ready(entry, value, failed)
        if not is_new:
            if (type(value) is Descriptor or entry.doubtful) and not (entry.held or entry.told):
                self._tell_daemon(FreeObjects([entry.object_id]))
            return
        self._tell_waiters(entry)
        if entry.shared and type(value) is bytes:
            self.promote(entry)

    def provide(self, entry: Entry, descriptor: Descriptor) -> None:
        """A task that runs here was told where an argument lies. Lock held."""
        if type(entry.value) is Away:
            entry.value = descriptor
            self.away -= 1
            self._tell_waiters(entry)
        else:
            self.deliver_to(entry, descriptor, False)

    def _tell_waiters(self, entry: Entry) -> None:
        if entry.waiters:
            waiters, entry.waiters = entry.waiters, None
            for waiter in waiters:
                waiter.remaining -= 1
                if waiter.remaining <= 0:
                    waiter.complete()
        if entry.failed and self.watchers:
            for watcher in self.watchers:
                watcher.failed(entry)
        if entry.dependents:
            dependents, entry.dependents = entry.dependents, None
            for task in dependents:
                self._argument_ready(task)

    def deliver_error(self, object_id: bytes, error: NbrayError) -> None:
        """The value will never come; this is why. Lock held."""
        self.deliver(object_id, serialize_system_error(error), True)

    def await_entries(self, entries: list[Entry], waiter: Waiter) -> None:
        """Register a waiter with entries that are not ready; ask for the borrowed ones. Lock held."""
        for entry in entries:
            if entry.waiters is None:
                entry.waiters = []
            entry.waiters.append(waiter)
        self.ask(entries)

    def forget_waiter(self, entries: list[Entry], waiter: Waiter) -> None:
        """A wait ended early. Lock held."""
        for entry in entries:
            if entry.waiters and waiter in entry.waiters:
                entry.waiters.remove(waiter)

    def ask(self, entries: Iterable[Entry]) -> None:
        """Have the daemon tell us when borrowed objects are sealed, and what is away is back. Lock held."""
        wanted = []
        for entry in entries:
            value = entry.value
            if not entry.asked and (type(value) is Away or (value is None and entry.owner is not None)):
                entry.asked = True
                wanted.append((entry.object_id, self.owner_of(entry)))
        if wanted:
            self._tell_daemon(GetObjects(wanted))

    def on_ready(self, message: ObjectReady) -> None:
        """Lock held. The daemon has pinned it for us."""
        descriptor = message.descriptor
        entry = self.table.entries.get(descriptor.object_id)
        if entry is not None:
            entry.asked = False
        if entry is None or not (type(entry.value) is Away or (entry.value is None and entry.owner)):
            self._tell_daemon(UnpinObjects([descriptor.object_id]))
            return
        assert self.mapping is not None
        if entry.pinned:  # as an argument whose view lives on; one pin is enough
            self._tell_daemon(UnpinObjects([descriptor.object_id]))
        entry.pinned = True
        if type(entry.value) is Away:
            self.provide(entry, descriptor)
            return
        data = self.mapping.readable(descriptor)
        failed = value_kind(data) == "error"
        if failed or descriptor.size_bytes <= _COPIED_BYTES:
            # Errors are wanted also when there is no room; of others a view would cost more than a copy.
            entry.pinned = False
            self._unpins.append(descriptor.object_id)
            self.deliver_to(entry, bytes(data), failed)
        else:
            self.deliver_to(entry, descriptor, False)

    def after_batch(self) -> None:
        """The messages of one read were dealt with. Lock held."""
        if self._unpins:
            unpins, self._unpins = self._unpins, []
            self._tell_daemon(UnpinObjects(unpins))
        self.drain()

    def on_gone(self, message: ObjectGone) -> None:
        """Lock held."""
        entry = self.table.entries.get(message.object_id)
        if entry is None:
            return
        entry.asked = False
        if message.reason == "owner_died":
            self._lose(entry, OwnerDiedError(message.object_id))
        elif entry.owner is None:
            if type(entry.value) is Away:  # else it was said before
                self._make_again(entry, message.reason)
        elif message.reason == "freed":
            self._lose(entry, _lost(message.object_id, message.reason))
        elif type(entry.value) is Away:  # its owner makes it again, or says why not, when we ask for it
            self.away -= 1
            entry.value = None
            self.ask([entry])

    def on_lost(self, message: ObjectsLost) -> None:
        """Others ask for these own objects, whose bytes are gone. Lock held."""
        for object_id in message.object_ids:
            entry = self.table.entries.get(object_id)
            if entry is None:
                self._tell_daemon(FreeObjects([object_id]))  # so that nobody waits for it
            elif type(entry.value) is Away and not entry.asked:  # else we hear of it as they do
                self._make_again(entry, "lost")

    def _make_again(self, entry: Entry, reason: str) -> None:
        """Its bytes are gone: run its task again, or say why not."""
        obstacle = ""
        if reason != "freed" and self.recomputing is not None:
            obstacle = self.recomputing.recompute(entry)
            if not obstacle:
                return
        error = _lost(entry.object_id, reason, obstacle)
        if obstacle and not isinstance(entry.site, TaskSpec):
            push("put_reconstruction", str(error))
        self._lose(entry, error)

    def _lose(self, entry: Entry, error: NbrayError) -> None:
        self.forget_value(entry)
        self.deliver_to(entry, serialize_system_error(error), True)

    def forget_value(self, entry: Entry) -> None:
        """Its bytes are gone for good. Lock held."""
        if type(entry.value) is Away:
            self.away -= 1
            entry.value = None
            entry.doubtful = entry.owner is None  # the store remembers that it had it

    # --- room --------------------------------------------------------------------------------------

    def on_recall(self, message: RecallObjects) -> None:
        """The store needs room: which of these are not in use here? Lock held."""
        self.drain()
        in_use = self.in_use()
        known = [self.table.entries.get(object_id) for object_id in message.object_ids]
        entries = [entry for entry in known if entry is not None and entry.object_id not in in_use]
        entries.sort(key=lambda entry: entry.read)
        yielded = [entry.object_id for entry in entries if self._yield(entry)]
        self._tell_daemon(ObjectsYielded(message.number, yielded))
        if len(yielded) < len(entries):
            self._collect_garbage()  # views in it are in nobody's use

    def _collect_garbage(self) -> None:
        """Soon, without the lock, and not often: who is asked again may then yield. Lock held."""
        now_s = time.monotonic()
        if now_s >= self._collects_from_s:
            self._collects_from_s = now_s + _COLLECT_EVERY_S
            self._loop.later.append(_collect)

    def _yield(self, entry: Entry) -> bool:
        if entry.views:
            return False
        if type(entry.value) is Descriptor:
            entry.value = Away(entry.value.size_bytes)
            entry.pinned = False
            self.away += 1
            return True
        if entry.value is None and entry.owner is None:
            entry.yielded = True  # its descriptor is on its way to us, and will be out of date
            return True
        return False

    def ask_if_lost(self, entries: Iterable[Entry]) -> bool:
        """Hear of those that are away and whose bytes are gone; False if none is away."""
        with self._loop.guard, self._loop.lock:
            away = [(e.object_id, self.owner_of(e)) for e in entries if type(e.value) is Away]
            if away:
                self._tell_daemon(GetObjects(away, True))
        return bool(away)

    def fetch(self, entries: Iterable[Entry]) -> None:
        """Ask at once for all of these that are away: they come while the first are read."""
        with self._loop.guard, self._loop.lock:
            self.ask([entry for entry in entries if type(entry.value) is Away])

    # --- the store's answers -----------------------------------------------------------------------

    def on_created(self, message: ObjectCreated) -> None:
        """Lock held."""
        if not self.promotions.created(message):
            self.creating.on_created(message)

    def on_create_failed(self, message: CreateFailed) -> None:
        """Lock held."""
        if not self.promotions.failed(message):
            self.creating.on_create_failed(message)

    def _refused(self, task: Task, failure: CreateFailed, size_bytes: int) -> None:
        self._argument_refused(task, full_error(failure, size_bytes))

    def fail_all(self, error: NbrayError) -> None:
        """The session is lost: every wait ends with this error. Lock held."""
        data = serialize_system_error(error)
        for entry in list(self.table.entries.values()):
            kind = type(entry.value)
            if entry.value is None or kind is Away:
                entry.dependents = None
                entry.shared = False
                entry.value = None
                self.deliver_to(entry, data, True)
        self.creating.end()


_STORED = (Descriptor, Away)
#: Who cannot yield what the store asks for looks for garbage this often.
_COLLECT_EVERY_S = 1.0
#: Borrowed values up to this size are copied when they come.
_COPIED_BYTES = 4096
_WHY_GONE = {
    "freed": "It was freed",
    "evicted": "It was evicted to make room",
    "lost": "Its copy on the disk is damaged",
}


def _collect() -> None:
    gc.collect()


def _lost(object_id: bytes, reason: str, obstacle: str = "") -> UnreconstructableError:
    why = _WHY_GONE.get(reason, reason)
    return UnreconstructableError(object_id, why=f"{why}, and {obstacle}." if obstacle else f"{why}.")
