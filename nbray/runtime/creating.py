"""Writing values into the store: space is asked for, or taken from a slab; filled; sealed.

Called by:  runtime.process (put, large arguments), worker.executor (results).
Imports:    runtime.{loop,serialization,slabs,waiting,writing}, store.
Never:      leaves anything behind if Ctrl-C is raised here.

Methods whose docstring says "lock held" are called with ``loop.lock``; the others take it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from nbray.model.errors import ObjectStoreFullError
from nbray.runtime.loop import Loop
from nbray.runtime.serialization import Serialized
from nbray.runtime.slabs import SlabWriter, map_in
from nbray.runtime.waiting import Waiter
from nbray.runtime.writing import write
from nbray.store import refusals
from nbray.store.mapping import Mapping
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    ObjectCreated,
    SealObject,
)

#: The references that a value holds: (object, owner).
Inner = Sequence[tuple[bytes, bytes]]


class Creation:
    """A reservation in the store that is under way. Without a waiter nobody wants it any more."""

    __slots__ = ("cold_bytes", "descriptor", "failure", "waiter")

    def __init__(self, waiter: Waiter | None) -> None:
        self.waiter = waiter
        self.descriptor: Descriptor | None = None
        self.cold_bytes = 0
        self.failure: CreateFailed | None = None


class Creating:
    """The writer's side of the store.

    Args:
        tell_daemon: sends a message to the node daemon; lock held.
        drain: lets go of what was dropped; lock held.
    """

    def __init__(
        self,
        loop: Loop,
        tell_daemon: Callable[[Message], None],
        slabs: SlabWriter,
        drain: Callable[[], None],
    ) -> None:
        self.mapping: Mapping | None = None
        #: The node whose store this is; its slabs are written to without an answer.
        self.node_id = b""
        #: Whether messages for the daemon wait in this process, and a question that makes them leave.
        self.has_backlog: Callable[[], bool] = lambda: False
        self.catch_up: Callable[[], None] = lambda: None
        self.slabs = slabs
        self._loop = loop
        self._tell_daemon = tell_daemon
        self._drain = drain
        self._creations: dict[bytes, Creation] = {}
        self._is_over = False  # the daemon is gone: nothing is answered any more

    def store(
        self, object_id: bytes, owner: bytes, serialized: Serialized, inner: Inner = (), weak: bool = False
    ) -> Descriptor | None:
        """Copy a value into the store and seal it; call it inside the guard.

        None if the session ended first.

        Args:
            object_id: of the new object.
            owner: the process that owns it.
            serialized: the value.
            inner: the references that it holds.
            weak: it may be evicted when room is needed.

        Raises:
            ObjectStoreFullError: no room in the store, or no memory in the machine or cgroup.
        """
        assert self.mapping is not None
        if self.slabs.takes(serialized.size_bytes, self.mapping.capacity_bytes):
            descriptor = self._store_in_slab(object_id, owner, serialized, inner, weak)
            if descriptor is not None:
                return descriptor
        request = CreateObject(object_id, owner, serialized.size_bytes, weak)
        creation = self._create_and_write(request, serialized)
        if creation.failure is not None and serialized.size_bytes <= self.mapping.capacity_bytes:
            gc.collect()  # references in cycles hold objects, too
            creation = self._create_and_write(request, serialized)
        if creation.failure is not None:
            raise full_error(creation.failure, serialized.size_bytes)
        if creation.descriptor is not None:  # else the session ended
            with self._loop.lock:
                self._tell_daemon(SealObject(object_id, tuple(inner)))
        return creation.descriptor

    def _store_in_slab(
        self, object_id: bytes, owner: bytes, serialized: Serialized, inner: Inner, weak: bool
    ) -> Descriptor | None:
        """The way without an answer; None if it is not open now."""
        mapping, size_bytes = self.mapping, serialized.size_bytes
        assert mapping is not None
        with self._loop.lock:
            self._drain()
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
            self._tell_daemon(
                AdoptObject(object_id, owner, piece.generation, piece.offset, size_bytes, weak, tuple(inner))
            )
            self.slabs.finished(piece)
            waits = self.has_backlog()
        if waits:
            self.catch_up()
        return descriptor

    def _create_and_write(self, request: CreateObject, serialized: Serialized) -> Creation:
        creation = self._create(request)
        if creation.descriptor is not None:
            try:
                self._write(creation.descriptor, creation.cold_bytes, serialized)
            except OSError as exc:
                text = refusals.no_memory(serialized.size_bytes, None, exc)
                creation.failure = CreateFailed(request.object_id, "memory", text)
                creation.descriptor = None
        return creation

    def _create(self, request: CreateObject) -> Creation:
        """Ask for space and wait for the answer; call it inside the guard."""
        waiter = Waiter(spins=True)
        creation = Creation(waiter)
        object_id = request.object_id
        with self._loop.lock:
            if self._is_over:  # it was lost while the value was pickled
                return creation
            self._drain()  # first give back what may be given back
            self._creations[object_id] = creation
            self._tell_daemon(request)
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
        creation = self._creations.pop(message.object_id, None)
        if creation is not None and creation.waiter is not None:
            creation.failure = message
            creation.waiter.complete()

    def end(self) -> None:
        """The session is lost: nobody waits any more. Lock held."""
        self._is_over = True
        for creation in self._creations.values():
            if creation.waiter is not None:
                creation.waiter.complete()
        self._creations.clear()


def full_error(failure: CreateFailed, size_bytes: int) -> ObjectStoreFullError:
    """What a user gets to see of a refusal."""
    return ObjectStoreFullError(needed_bytes=size_bytes, why=failure.text)
