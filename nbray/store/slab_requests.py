"""Slabs: asked for, backed, granted, filled, recalled.

Called by:  store.server.
Imports:    nbray.core.{object_commands,objects,slabs}, nbray.store.{disk_jobs,performing,pressure,space}.
Never:      waits for room: where there is none, there is no slab.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from nbray.core.allocator import Extent
from nbray.core.object_commands import Command
from nbray.core.objects import ObjectTable
from nbray.core.slabs import Holder, Slabs
from nbray.store.disk_jobs import RunInThread
from nbray.store.performing import Performer
from nbray.store.space import Space
from nbray.wire.object_messages import AdoptObject, RecallSlab, RequestSlab, ReturnSlab, SlabGranted


class SlabRequests:
    """All methods run on one thread. ``is_contended`` says whether others wait for room."""

    def __init__(
        self,
        table: ObjectTable,
        space: Space,
        perform: Performer,
        run_in_thread: RunInThread,
    ) -> None:
        self.is_contended: Callable[[], bool] = lambda: False
        #: Told of each adopted object which references are in it.
        self.contain: Callable[[bytes, Iterable[tuple[bytes, bytes]]], object] = lambda _object_id, _inner: (
            None
        )
        self._table = table
        self._space = space
        self._perform = perform
        self._run_in_thread = run_in_thread
        self._slabs = Slabs(space.books)
        self._is_closed = False

    @property
    def unused_bytes(self) -> int:
        """In slabs, and in no object."""
        return self._slabs.unused_bytes

    def close(self) -> None:
        """Nobody is answered any more."""
        self._is_closed = True

    def recall_idle(self) -> None:
        """Ask for the slabs of which nothing was used since the last call."""
        self._recall(self._slabs.idle())

    def recall_all(self) -> None:
        """Others need the space."""
        self._recall(self._slabs.holders())

    def _recall(self, holders: list[Holder]) -> None:
        for process_id, generation in holders:
            self._perform.send(process_id, RecallSlab(generation))

    def adopt(self, writer: bytes, message: AdoptObject) -> None:
        """A process made an object in a slab of its own."""
        extent = self._slabs.adopt(writer, message.generation, message.offset, message.size_bytes)
        if extent is None:
            return  # not by our processes
        out: list[Command] = []
        is_here = self._table.adopted(
            message.object_id, message.owner_id, writer, extent, message.size_bytes, out, weak=message.weak
        )
        if is_here:
            self.contain(message.object_id, message.inner)
        self._perform(out)

    def requested(self, writer: bytes, message: RequestSlab) -> None:
        """A process wants one."""
        size = 0 if self.is_contended() else self._slabs.promise(writer, message.object_bytes)
        extent = self._space.reserve(size, is_slab=True) if size else None
        if extent is None:
            if size:
                self._slabs.refused(writer, size)
            self._perform.send(writer, SlabGranted(0, 0, 0))
            return

        def done(error: BaseException | None) -> None:
            self._backed(writer, size, extent, error)

        if not extent.cold:
            done(None)
        elif self._space.room() < extent.cold_bytes:
            done(OSError(errno.ENOMEM, "no memory for a slab"))
        else:
            self._run_in_thread(lambda: self._space.grow(extent), done)

    def _backed(self, writer: bytes, size: int, extent: Extent, error: BaseException | None) -> None:
        if self._is_closed:
            return
        if error is not None:
            self._space.not_backed(extent)
        else:
            self._space.backed(extent)
            if not self._table.is_lost(writer):
                self._slabs.granted(writer, size, extent)
                granted = SlabGranted(extent.offset, extent.size_bytes, extent.generation)
                self._perform.send(writer, granted)
                return
            self._space.release(extent)
        self._slabs.refused(writer, size)
        if not self._table.is_lost(writer):
            self._perform.send(writer, SlabGranted(0, 0, 0))
        self._perform.on_room()

    def returned(self, writer: bytes, message: ReturnSlab) -> None:
        """A process writes no more to one."""
        if self._slabs.returned(writer, message.generation):
            self._perform.on_room()

    def process_lost(self, process_id: bytes) -> None:
        """What it had comes back."""
        if self._slabs.process_lost(process_id):
            self._perform.on_room()
