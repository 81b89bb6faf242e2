"""The object store of a node: hosts the allocator and the directory, performs what they decide.

Called by:  node.daemon, with messages and lost processes; it lends its loop by way of callables.
Imports:    nbray.core, nbray.store.arena, nbray.wire, nbray.model.
Never:      waits, opens a socket, maps the arena, looks at the bytes of an object.

The life of a creation::

    CreateObject --> extent? --no--> wait for frees, at most FULL_WAIT_S --> CreateFailed "full"
                       | yes
                     cold pages? --yes--> back them, or let the writer --> CreateFailed "memory"
                       | no                  |
                     ObjectCreated <---------+

A writer backs the pages of a large object faster than anybody else could, since it touches them anyway.
What it may take is set aside until it seals; what it took goes back if it does not.

While its pages are being backed an extent cannot go back to the allocator: if its object is aborted,
freed or lost meanwhile, it goes back when the thread is done.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from typing import Any

from nbray.core import holds
from nbray.core.allocator import LARGE_BYTES, Allocator, Extent
from nbray.core.objects import Command, Holding, ObjectTable, Release
from nbray.core.slabs import Holder, Slabs
from nbray.store import refusals
from nbray.store.arena import Arena
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    EndParcels,
    FreeObjects,
    GetObjects,
    HoldObjects,
    LetGo,
    ObjectCreated,
    ObjectsPinned,
    ParcelsSettled,
    PinObjects,
    RecallSlab,
    ReleaseHolds,
    RequestSlab,
    ReturnSlab,
    SealObject,
    SendParcel,
    SlabGranted,
    Unheld,
    UnpinObjects,
)

#: A full store waits so long for frees that are on their way before it says so.
FULL_WAIT_S = 0.2
#: Up to this size, backing takes less time than handing it to a thread.
INLINE_BACKING_BYTES = 256 * 1024
#: A refusal names so many of the largest objects.
LARGEST_NAMED = 3


class _Creation:
    """A CreateObject that was not answered yet."""

    __slots__ = ("freed", "object_id", "owner", "size_bytes", "writer")

    def __init__(self, message: CreateObject, writer: bytes) -> None:
        self.object_id = message.object_id
        self.owner = message.owner_id
        self.size_bytes = message.size_bytes
        self.writer = writer
        self.freed = False

    @property
    def key(self) -> tuple[bytes, bytes]:
        return self.object_id, self.writer


class StoreServer:
    """Serves the object messages of one node. All methods, and ``done``, run on one thread.

    Args:
        node_id: whose arena this is; goes into descriptors.
        arena: belongs to the server from now on.
        available: bytes of memory that the arena may still take (``MemoryBudget.available``); called
            from worker threads too.
        send: delivers a message to a process; must not raise, and drops what a lost one would get.
        run_in_thread: calls its first argument in some thread and then, on this thread, the second
            with the exception or None.
        call_later: calls back on this thread after a delay in seconds.
        writers_back: writers give the pages of large objects memory themselves.
    """

    def __init__(
        self,
        node_id: bytes,
        arena: Arena,
        available: Callable[[], int],
        send: Callable[[bytes, Message], object],
        run_in_thread: Callable[[Callable[[], object], Callable[[BaseException | None], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        writers_back: bool = False,
    ) -> None:
        self._arena = arena
        self._available = available
        self._writers_back = writers_back
        self._send = send
        self._run_in_thread = run_in_thread
        self._call_later = call_later
        self._allocator = Allocator(arena.capacity_bytes, mmap.PAGESIZE)
        self._table = ObjectTable(node_id)
        self._holds = holds.HoldTable()
        self._slabs = Slabs(self._allocator)
        self._waiting: dict[tuple[bytes, bytes], _Creation] = {}  # for room, oldest first
        self._backing: dict[int, bool] = {}  # generation -> released meanwhile
        self._unbacked: dict[int, Extent] = {}  # by generation: their writers back them
        self._set_aside_bytes = 0  # for those
        self._retrying = False
        self._closed = False
        self._handlers: dict[type[Message], Callable[[bytes, Any], None]] = {
            CreateObject: self._on_create,
            SealObject: self._on_seal,
            AbortObject: self._on_abort,
            AdoptObject: self._on_adopt,
            RequestSlab: self._on_request_slab,
            ReturnSlab: self._on_return_slab,
            FreeObjects: self._on_free,
            GetObjects: self._on_get,
            PinObjects: self._on_pin,
            UnpinObjects: self._on_unpin,
            HoldObjects: lambda process, m: self._holds.hold(process, m.held),
            ReleaseHolds: lambda process, m: self._borrow(self._holds.release, process, m.object_ids),
            SendParcel: lambda process, m: self._holds.send_parcel(process, m.parcel_id, m.receiver, m.held),
            EndParcels: lambda process, m: self._borrow(
                self._holds.end_parcels, process, m.sender, m.parcel_ids
            ),
            ParcelsSettled: lambda process, m: self._borrow(self._holds.settled, process, m.sender),
            LetGo: lambda process, m: self._borrow(self._holds.let_go, process, m.object_ids),
        }

    # --- for the daemon --------------------------------------------------------------------------

    def handle(self, process_id: bytes, message: Message) -> bool:
        """Serve a message from a process; False if it is not about objects.

        Whatever a lost process had still sent is taken and changes nothing.
        """
        handler = self._handlers.get(type(message))
        if handler is None:
            return False
        if not self._closed and not self._table.is_lost(process_id):
            handler(process_id, message)
        return True

    def process_lost(self, process_id: bytes) -> None:
        """A process is gone, and nothing of it runs any more: neither its code nor its writes."""
        for creation in [c for c in self._waiting.values() if c.writer == process_id]:
            del self._waiting[creation.key]
        out: list[Command] = []
        orphans = self._table.process_lost(process_id, out)
        self._perform(out)
        self._borrow(self._holds.process_lost, process_id, orphans)
        if self._slabs.process_lost(process_id):
            self._retry()

    def cool(self, max_bytes: int) -> int:
        """Give up to ``max_bytes`` of free memory back to the machine; return how many it were.

        It punches at once (about 10 GB/s), so ask for a bounded piece, when the node is idle.
        """
        if self._closed:
            return 0
        ranges = self._allocator.cool(max_bytes)
        for start, end in ranges:
            self._arena.punch(start, end)
        return sum(end - start for start, end in ranges)

    def stats(self) -> dict[str, int]:
        """Plain figures for people and monitors."""
        return {
            "capacity_bytes": self._allocator.capacity_bytes,
            "used_bytes": self._allocator.used_bytes - self._slabs.unused_bytes,
            "slab_bytes": self._slabs.unused_bytes,
            "backed_bytes": self._allocator.backed_bytes,
            "largest_free_bytes": self._allocator.largest_free(),
            "creations_waiting": len(self._waiting),
            "creations_backing": len(self._backing),
            "set_aside_bytes": self._set_aside_bytes,
            **self._table.counts(),
            **self._holds.counts(),
        }

    def largest(self, n: int) -> list[Holding]:
        """The ``n`` objects that take most space."""
        return self._table.largest(n)

    def close(self) -> None:
        """Drop the arena. The memory goes when the last process unmaps it. Idempotent."""
        self._closed = True
        self._waiting.clear()
        self._arena.close()

    # --- messages --------------------------------------------------------------------------------

    def _on_create(self, writer: bytes, message: CreateObject) -> None:
        creation = _Creation(message, writer)
        if creation.key in self._waiting or not self._table.admits(
            creation.object_id, creation.owner, creation.writer
        ):
            self._fail(creation, "exists", refusals.exists(creation.object_id))
        elif not 0 <= creation.size_bytes <= self._allocator.capacity_bytes:
            text = refusals.too_large(creation.size_bytes, self._allocator.capacity_bytes)
            self._fail(creation, "full", text)
        elif not self._reserve(creation):
            self._waiting[creation.key] = creation
            self._recall(self._slabs.holders())
            self._call_later(FULL_WAIT_S, lambda: self._give_up(creation))

    def _on_seal(self, writer: bytes, message: SealObject) -> None:
        descriptor = self._table.descriptor(message.object_id, writer)
        if descriptor is None or descriptor.generation in self._backing:
            return  # sealed or aborted before; or before it was told where to write
        extent = self._unbacked.pop(descriptor.generation, None)
        if extent is not None:
            self._set_aside_bytes -= extent.cold_bytes
            self._allocator.backing_done(extent)
        out: list[Command] = []
        if self._table.seal(message.object_id, writer, out):
            self._holds.contain(message.object_id, message.inner)
        self._perform(out)

    def _on_abort(self, writer: bytes, message: AbortObject) -> None:
        self._waiting.pop((message.object_id, writer), None)
        out: list[Command] = []
        self._table.abort(message.object_id, writer, out)
        self._perform(out)

    def _on_free(self, owner: bytes, message: FreeObjects) -> None:
        if self._waiting:
            object_ids = set(message.object_ids)
            for creation in self._waiting.values():
                creation.freed |= creation.owner == owner and creation.object_id in object_ids
        out: list[Command] = []
        freed = self._table.free(message.object_ids, owner, out)
        self._perform(out)
        self._borrow(self._holds.freed, freed)

    def _on_get(self, reader: bytes, message: GetObjects) -> None:
        out: list[Command] = []
        self._table.get(message.wanted, reader, out)
        self._perform(out)

    def _on_pin(self, process: bytes, message: PinObjects) -> None:
        self._table.pin(process, message.object_ids)
        self._send(process, ObjectsPinned(message.request_id))

    def _on_unpin(self, process: bytes, message: UnpinObjects) -> None:
        out: list[Command] = []
        self._table.unpin(process, message.object_ids, out)
        self._perform(out)

    def _borrow(self, decide: Callable[..., None], *facts: Any) -> None:
        """Tell the directory of borrowers something, and do what follows."""
        commands: list[holds.Command] = []
        decide(*facts, commands)
        unheld: dict[bytes, list[bytes]] = {}
        out: list[Command] = []
        for command in commands:
            if isinstance(command, holds.Abandon):
                self._table.abandon(command.object_id, out)
            elif isinstance(command.message, Unheld):
                unheld.setdefault(command.process_id, []).extend(command.message.object_ids)
            else:
                self._send(command.process_id, command.message)
        for owner, object_ids in unheld.items():
            self._send(owner, Unheld(object_ids))
        self._perform(out)

    # --- slabs -----------------------------------------------------------------------------------

    def recall_idle_slabs(self) -> None:
        """Ask for the slabs of which nothing was used since the last call."""
        self._recall(self._slabs.idle())

    def _recall(self, holders: list[Holder]) -> None:
        for process_id, generation in holders:
            self._send(process_id, RecallSlab(generation))

    def _on_adopt(self, writer: bytes, message: AdoptObject) -> None:
        extent = self._slabs.adopt(writer, message.generation, message.offset, message.size_bytes)
        if extent is None:
            return  # not by our processes
        out: list[Command] = []
        if self._table.adopted(message.object_id, message.owner_id, writer, extent, message.size_bytes, out):
            self._holds.contain(message.object_id, message.inner)
        self._perform(out)

    def _on_request_slab(self, writer: bytes, message: RequestSlab) -> None:
        size = self._slabs.promise(writer, message.object_bytes)
        extent = self._allocator.allocate(size) if size else None

        def done(error: BaseException | None) -> None:
            self._slab_backed(writer, size, extent, error)

        if extent is None:
            if size:
                self._slabs.refused(writer, size)
            self._send(writer, SlabGranted(0, 0, 0))
        elif not extent.cold:
            done(None)
        elif self._room() < extent.cold_bytes:
            self._backing[extent.generation] = False
            done(OSError(errno.ENOMEM, "no memory for a slab"))
        else:
            self._backing[extent.generation] = False
            self._run_in_thread(lambda: self._arena.grow(extent.cold, self._room), done)

    def _slab_backed(
        self, writer: bytes, size: int, extent: Extent | None, error: BaseException | None
    ) -> None:
        if self._closed or extent is None:
            return
        if extent.cold:
            del self._backing[extent.generation]
            (self._allocator.backing_done if error is None else self._allocator.backing_failed)(extent)
        if error is None and not self._table.is_lost(writer):
            self._slabs.granted(writer, size, extent)
            self._send(writer, SlabGranted(extent.offset, extent.size_bytes, extent.generation))
            return
        self._slabs.refused(writer, size)
        if error is None:
            self._allocator.free(extent)
        elif not self._table.is_lost(writer):
            self._send(writer, SlabGranted(0, 0, 0))
        self._retry()

    def _on_return_slab(self, writer: bytes, message: ReturnSlab) -> None:
        if self._slabs.returned(writer, message.generation):
            self._retry()

    # --- creation --------------------------------------------------------------------------------

    def _reserve(self, creation: _Creation) -> bool:
        """Allocate and go on to backing; False if there is no room."""
        extent = self._allocator.allocate(creation.size_bytes)
        if extent is None:
            return False
        if extent.cold:
            self._backing[extent.generation] = False
        out: list[Command] = []
        self._table.created(
            creation.object_id, creation.owner, creation.writer, extent, creation.size_bytes, out
        )
        if creation.freed:
            self._table.free([creation.object_id], creation.owner, out)
        self._perform(out)
        if extent.cold:
            self._back(creation, extent)
        else:
            self._announce(creation)
        return True

    def _back(self, creation: _Creation, extent: Extent) -> None:
        def done(error: BaseException | None) -> None:
            self._backed(creation, extent, error)

        left = self._room()
        while left < extent.cold_bytes and self.cool(_whole_pages(extent.cold_bytes - left)):
            left = self._room()  # free pages that lie elsewhere became memory for this object
        if left < extent.cold_bytes:
            text = f"{extent.cold_bytes} more bytes are needed and {left} may be taken"
            done(OSError(errno.ENOMEM, text))
            return
        if self._writers_back and extent.size_bytes >= LARGE_BYTES:
            # (Smaller ones share their first and last page with others.)
            self._leave_to_writer(creation, extent)
            return
        if extent.cold_bytes > INLINE_BACKING_BYTES:
            self._run_in_thread(lambda: self._arena.grow(extent.cold, self._room), done)
            return
        try:
            for start, end in extent.cold:
                self._arena.back(start, end)
        except OSError as error:
            for start, end in extent.cold:
                self._arena.punch(start, end)
            done(error)
        else:
            done(None)

    def _leave_to_writer(self, creation: _Creation, extent: Extent) -> None:
        released = self._backing.pop(extent.generation)
        self._unbacked[extent.generation] = extent
        self._set_aside_bytes += extent.cold_bytes
        if released:
            self._release(extent)
            self._retry()
        else:
            self._announce(creation, extent.cold_bytes)

    def _room(self) -> int:
        """Bytes that may be taken, what writers are about to take left out."""
        return max(0, self._available() - self._set_aside_bytes)

    def _backed(self, creation: _Creation, extent: Extent, error: BaseException | None) -> None:
        if self._closed:
            return
        if error is None:
            released = self._backing.pop(extent.generation)
            self._allocator.backing_done(extent)
            if released:
                self._allocator.free(extent)
                self._retry()
            else:
                self._announce(creation)
            return
        released = self._backing[extent.generation]
        if not released:
            out: list[Command] = []
            self._table.abort(creation.object_id, creation.writer, out)
            self._perform(out)  # releases the extent, which is only noted while it is in _backing
        del self._backing[extent.generation]
        self._allocator.backing_failed(extent)
        if not released:
            text = refusals.no_memory(creation.size_bytes, self._allocator.backed_bytes, error)
            self._fail(creation, "memory", text)
        self._retry()

    def _announce(self, creation: _Creation, cold_bytes: int = 0) -> None:
        descriptor = self._table.descriptor(creation.object_id, creation.writer)
        if descriptor is not None:
            self._send(creation.writer, ObjectCreated(descriptor, cold_bytes))

    def _retry(self) -> None:
        """Space came back: serve whoever fits now, oldest first."""
        if self._retrying or self._closed:
            return
        self._retrying = True
        try:
            for creation in list(self._waiting.values()):
                if self._waiting.get(creation.key) is creation and self._reserve(creation):
                    self._waiting.pop(creation.key, None)
        finally:
            self._retrying = False

    def _give_up(self, creation: _Creation) -> None:
        if self._waiting.get(creation.key) is creation:
            del self._waiting[creation.key]
            books = self._allocator
            self._fail(
                creation,
                "full",
                refusals.full(
                    creation.size_bytes,
                    books.used_bytes,
                    books.capacity_bytes,
                    books.largest_free(),
                    self.largest(LARGEST_NAMED),
                ),
            )

    def _fail(self, creation: _Creation, reason: str, text: str) -> None:
        self._send(creation.writer, CreateFailed(creation.object_id, reason, text))

    # --- commands --------------------------------------------------------------------------------

    def _perform(self, commands: list[Command]) -> None:
        room = False
        for command in commands:
            if isinstance(command, Release):
                room |= self._release(command.extent)
            else:
                self._send(command.process_id, command.message)
        if room and self._waiting:
            self._retry()

    def _release(self, extent: Extent) -> bool:
        if extent.generation in self._backing:
            self._backing[extent.generation] = True
            return False
        if self._unbacked.pop(extent.generation, None) is None:
            self._allocator.free(extent)
            return True
        self._set_aside_bytes -= extent.cold_bytes
        for start, end in extent.cold:  # its writer may have backed some of it
            self._arena.punch(start, end)
        self._allocator.backing_failed(extent)
        return True


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
