"""Values: where they are, how they get into the store and out of it, when they go.

Called by:  runtime.process (get, put, wait), runtime.submitter (results), worker.executor.
Imports:    core.references, store.mapping, runtime.{loop,refs,serialization}.
Never:      deserializes with the loop's lock held (user code runs then).

Methods whose docstring says "lock held" are called with ``loop.lock``; the others take it.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nbray.core.references import Entry, ReferenceTable
from nbray.core.tasks import Task
from nbray.model.errors import NbrayError, ObjectStoreFullError, OwnerDiedError, UnreconstructableError
from nbray.runtime.loop import Loop
from nbray.runtime.promotion import Promotions
from nbray.runtime.refs import Home, ObjectRef, make_ref
from nbray.runtime.serialization import Serialized, deserialize, deserialize_outlined, outline_of, value_kind
from nbray.runtime.slabs import SlabWriter, map_in
from nbray.runtime.task_errors import deserialize_error, serialize_system_error
from nbray.runtime.waiting import AllOf, Waiter
from nbray.runtime.writing import write
from nbray.store import refusals
from nbray.store.mapping import Mapping
from nbray.wire.base import (
    Descriptor,
    Message,
)
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    FreeObjects,
    GetObjects,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    SealObject,
    UnpinObjects,
)


class Creation:
    """A reservation in the store that is under way. Without a waiter nobody wants it any more."""

    __slots__ = ("cold_bytes", "descriptor", "failure", "waiter")

    def __init__(self, waiter: Waiter | None) -> None:
        self.waiter = waiter
        self.descriptor: Descriptor | None = None
        self.cold_bytes = 0
        self.failure: CreateFailed | None = None


class Objects:
    """All values that this process owns, borrows or reads.

    Args:
        tell_daemon: sends a message to the node daemon; lock held.
        argument_ready: called for each task that was waiting for an object; lock held.
        argument_refused: called for each task whose arguments found no room in the store; lock held.
    """

    def __init__(
        self,
        loop: Loop,
        process_id: bytes,
        tell_daemon: Callable[[Message], None],
        argument_ready: Callable[[Task], None],
        argument_refused: Callable[[Task, NbrayError], None],
    ) -> None:
        self.table = ReferenceTable()
        self.home = Home(process_id, loop.wake)
        self.mapping: Mapping | None = None
        self.watchers: list[AllOf] = []  # who waits for many, and ends with the first error
        self.promotions = Promotions(process_id, tell_daemon, loop.arm, argument_ready, self._refused)
        #: The node whose store this is; its slabs are written to without an answer.
        self.node_id = b""
        self.slabs = SlabWriter(tell_daemon)
        #: Whether messages for the daemon wait in this process, and a question that makes them leave.
        self.has_backlog: Callable[[], bool] = lambda: False
        self.catch_up: Callable[[], None] = lambda: None
        self._loop = loop
        self._process_id = process_id
        self._tell_daemon = tell_daemon
        self._argument_ready = argument_ready
        self._argument_refused = argument_refused
        self._closed_views: deque[bytes] = deque()
        self._creations: dict[bytes, Creation] = {}
        self._is_over = False  # the daemon is gone: nothing is answered any more

    # --- references ----------------------------------------------------------------------------

    def own(self, object_id: bytes) -> ObjectRef:
        """A new object of this process and its first handle. Lock held."""
        return make_ref(self.table.own(object_id), self.home)

    def adopt(self, object_id: bytes, owner: bytes) -> ObjectRef:
        """Another handle, on an own object or on somebody else's. Lock held."""
        entry = self.table.entries.get(object_id)
        if entry is not None and owner == self._process_id:
            self.table.add_handle(object_id)
        else:
            entry = self.table.borrow(object_id, owner)
        return make_ref(entry, self.home)

    def claim(self, ref: ObjectRef) -> bool:
        """Count a reference that a user made from bytes, if its object is known. Lock held."""
        entry = self.table.entries.get(ref.binary())
        if entry is None:
            return False
        self.table.add_handle(entry.object_id)
        ref.tie(entry, self.home)
        return True

    def escape(self, object_id: bytes) -> bool:
        """The reference was pickled into something. Lock held. True the first time, for own ones.

        Readers must not have to wait for this process, which may be busy: the value moves to
        the store, now or when it arrives.
        """
        if not self.table.escape(object_id):
            return False
        entry = self.table.entries[object_id]
        if type(entry.value) is bytes:
            self.promotions.promote(entry)
        return True

    def drain(self) -> None:
        """Let go of what was dropped since the last time. Lock held."""
        dropped, closed = self.home.dropped, self._closed_views
        if not dropped and not closed:
            return
        freed: list[Entry] = []
        self.table.drop_handles(dropped, freed)
        while closed:
            self.table.close_view(closed.popleft(), freed)
        if freed:
            self.release(freed)

    def release_arguments(self, object_ids: Sequence[bytes]) -> None:
        """A task that held these is over. Lock held."""
        freed: list[Entry] = []
        for object_id in object_ids:
            self.table.release_argument(object_id, freed)
        if freed:
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

    def release(self, freed: list[Entry]) -> None:
        """Nothing here holds these entries any more. Lock held."""
        own, pinned = [], []
        for entry in freed:
            if type(entry.value) is Descriptor and entry.owner is None:
                own.append(entry.object_id)
            if entry.pinned:
                pinned.append(entry.object_id)
        if own:
            self._tell_daemon(FreeObjects(own))
        if pinned:
            self._tell_daemon(UnpinObjects(pinned))

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
        if not self.table.ready(entry, value, failed):
            if type(value) is Descriptor and not entry.held:
                self._tell_daemon(FreeObjects([entry.object_id]))
            return
        if entry.waiters:
            waiters, entry.waiters = entry.waiters, None
            for waiter in waiters:
                waiter.remaining -= 1
                if waiter.remaining <= 0:
                    waiter.complete()
        if failed and self.watchers:
            for watcher in self.watchers:
                watcher.failed(entry)
        if entry.dependents:
            dependents, entry.dependents = entry.dependents, None
            for task in dependents:
                self._argument_ready(task)
        if entry.escaped and type(value) is bytes:
            self.promotions.promote(entry)

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

    def ask(self, entries: list[Entry]) -> None:
        """Have the daemon tell us when borrowed objects are sealed. Lock held."""
        wanted = []
        for entry in entries:
            if entry.owner is not None and not entry.asked and entry.value is None:
                entry.asked = True
                wanted.append((entry.object_id, entry.owner))
        if wanted:
            self._tell_daemon(GetObjects(wanted))

    def on_ready(self, message: ObjectReady) -> None:
        """Lock held. The daemon has pinned it for us."""
        object_id = message.descriptor.object_id
        entry = self.table.entries.get(object_id)
        if entry is None or entry.owner is None:
            self._tell_daemon(UnpinObjects([object_id]))
            return
        assert self.mapping is not None
        if entry.pinned:  # as an argument whose view lives on; one pin is enough
            self._tell_daemon(UnpinObjects([object_id]))
        entry.pinned = True
        failed = value_kind(self.mapping.readable(message.descriptor)) == "error"
        self.deliver(object_id, message.descriptor, failed)

    def on_gone(self, message: ObjectGone) -> None:
        """Lock held."""
        if message.reason == "owner_died":
            error: NbrayError = OwnerDiedError(message.object_id)
        else:
            error = UnreconstructableError(message.object_id, why="it was freed")
        self.deliver_error(message.object_id, error)

    # --- reading -----------------------------------------------------------------------------------

    def load(self, entry: Entry) -> Any:
        """The value of a ready entry. Large arrays are read-only views of the store.

        Raises:
            Exception: the error that the entry holds, if its task failed.
        """
        value = entry.value
        if entry.failed:
            assert value is not None
            raise self.load_error(value)
        if type(value) is bytes:
            return deserialize(value)
        assert type(value) is Descriptor and self.mapping is not None
        if entry.outline is None:
            data = self.mapping.readable(value)
            entry.outline = outline_of(data)
            if entry.outline is None:
                return deserialize(data, wrap_buffer=partial(self._open_view, entry.object_id, value.offset))
        pickled, extents = entry.outline
        buffers = [self._open_view(entry.object_id, value.offset, at, length) for at, length in extents]
        return deserialize_outlined(pickled, buffers)

    def load_error(self, value: bytes | Descriptor) -> BaseException:
        """The exception that a failed value holds."""
        if type(value) is Descriptor:
            assert self.mapping is not None
            value = bytes(self.mapping.readable(value))
        return deserialize_error(value)

    def _open_view(self, object_id: bytes, base: int, offset: int, length: int) -> Any:
        assert self.mapping is not None
        with self._loop.guard:
            with self._loop.lock:
                self.table.open_view(object_id)
            return self.mapping.exporter(base + offset, length, partial(self._close_view, object_id))

    def _close_view(self, object_id: bytes) -> None:
        # Runs inside garbage collection, maybe under our own lock: append and wake, nothing else.
        self._closed_views.append(object_id)
        self._loop.wake()

    # --- writing -----------------------------------------------------------------------------------

    def store(self, object_id: bytes, owner: bytes, serialized: Serialized) -> Descriptor | None:
        """Copy a value into the store and seal it; call it inside the guard.

        None if the session ended first. Nothing is left if Ctrl-C is raised here.

        Raises:
            ObjectStoreFullError: no room in the store, or no memory in the machine or cgroup.
        """
        assert self.mapping is not None
        if self.slabs.takes(serialized.size_bytes, self.mapping.capacity_bytes):
            descriptor = self._store_in_slab(object_id, owner, serialized)
            if descriptor is not None:
                return descriptor
        creation = self._create_and_write(object_id, owner, serialized)
        if creation.failure is not None and serialized.size_bytes <= self.mapping.capacity_bytes:
            gc.collect()  # references in cycles hold objects, too
            creation = self._create_and_write(object_id, owner, serialized)
        if creation.failure is not None:
            raise _full(creation.failure, serialized.size_bytes)
        if creation.descriptor is not None:  # else the session ended
            with self._loop.lock:
                self._tell_daemon(SealObject(object_id))
        return creation.descriptor

    def _store_in_slab(self, object_id: bytes, owner: bytes, serialized: Serialized) -> Descriptor | None:
        """The way without an answer; None if it is not open now."""
        mapping, size_bytes = self.mapping, serialized.size_bytes
        assert mapping is not None
        with self._loop.lock:
            self.drain()
            piece = None if self._is_over or self.has_backlog() else self.slabs.carve(size_bytes)
        if piece is None:
            return None
        descriptor = Descriptor(object_id, self.node_id, piece.offset, size_bytes, piece.generation)
        try:
            map_in(piece, mapping)
            with mapping.writable(descriptor) as target:
                serialized.write_into(target)
        except BaseException:
            with self._loop.lock:
                self.slabs.finished(piece)
            raise
        with self._loop.lock:
            # It is in the kernel's hands before anybody else can hear of the object: whatever becomes
            # of this process, the daemon reads it.
            self._tell_daemon(AdoptObject(object_id, owner, piece.generation, piece.offset, size_bytes))
            self.slabs.finished(piece)
            waits = self.has_backlog()
        if waits:
            self.catch_up()
        return descriptor

    def _create_and_write(self, object_id: bytes, owner: bytes, serialized: Serialized) -> Creation:
        creation = self._create(object_id, owner, serialized.size_bytes)
        if creation.descriptor is not None:
            try:
                self._write(creation.descriptor, creation.cold_bytes, serialized)
            except OSError as exc:
                text = refusals.no_memory(serialized.size_bytes, None, exc)
                creation.failure = CreateFailed(object_id, "memory", text)
                creation.descriptor = None
        return creation

    def _create(self, object_id: bytes, owner: bytes, size_bytes: int) -> Creation:
        """Ask for space and wait for the answer; call it inside the guard."""
        waiter = Waiter(spins=True)
        creation = Creation(waiter)
        with self._loop.lock:
            if self._is_over:  # it was lost while the value was pickled
                return creation
            self.drain()  # first give back what may be given back
            self._creations[object_id] = creation
            self._tell_daemon(CreateObject(object_id, owner, size_bytes))
        try:
            while not self._loop.wait(waiter) and self._loop.guard.deliver():
                pass  # a handler of the user's own that returns lets it go on
        except BaseException:
            with self._loop.lock:
                self._abandon(object_id, creation)
            raise
        with self._loop.lock:
            self._creations.pop(object_id, None)
        return creation

    def _abandon(self, object_id: bytes, creation: Creation) -> None:
        """Nobody wants it any more: abort it, now or when its space comes. Lock held."""
        creation.waiter = None
        if creation.descriptor is not None:
            self._creations.pop(object_id, None)
            self._tell_daemon(AbortObject(object_id))

    def _write(self, descriptor: Descriptor, cold_bytes: int, serialized: Serialized) -> None:
        assert self.mapping is not None
        try:
            write(self.mapping, descriptor, cold_bytes, serialized)
        except BaseException:
            with self._loop.lock:
                self._tell_daemon(AbortObject(descriptor.object_id))
            raise

    def on_created(self, message: ObjectCreated) -> None:
        """Lock held."""
        assert self.mapping is not None
        if self.promotions.created(message, self.mapping):
            return
        object_id = message.descriptor.object_id
        creation = self._creations.get(object_id)
        if creation is not None and creation.waiter is not None:
            creation.descriptor = message.descriptor
            creation.cold_bytes = message.cold_bytes
            creation.waiter.complete()
        else:
            self._creations.pop(object_id, None)
            self._tell_daemon(AbortObject(object_id))

    def on_create_failed(self, message: CreateFailed) -> None:
        """Lock held."""
        if self.promotions.failed(message):
            return
        creation = self._creations.pop(message.object_id, None)
        if creation is not None and creation.waiter is not None:
            creation.failure = message
            creation.waiter.complete()

    def _refused(self, task: Task, failure: CreateFailed, size_bytes: int) -> None:
        self._argument_refused(task, _full(failure, size_bytes))

    def fail_all(self, error: NbrayError) -> None:
        """The session is lost: every wait ends with this error. Lock held."""
        self._is_over = True
        data = serialize_system_error(error)
        for entry in list(self.table.entries.values()):
            if entry.value is None:
                entry.dependents = None
                entry.escaped = False
                self.deliver(entry.object_id, data, True)
        for creation in self._creations.values():
            if creation.waiter is not None:
                creation.waiter.complete()
        self._creations.clear()


def _full(failure: CreateFailed, size_bytes: int) -> ObjectStoreFullError:
    return ObjectStoreFullError(needed_bytes=size_bytes, why=failure.text)
