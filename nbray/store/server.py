"""The object store of a node: who tells what to whom, and the figures.

Called by:  node.daemon, with messages and lost processes; it lends its loop by way of callables.
Imports:    nbray.core, nbray.store, nbray.wire, nbray.model.
Never:      waits, opens a socket, looks at the bytes of an object.

Its parts: ``space`` (the arena), ``creating`` and ``slab_requests`` (new objects), ``pressure`` (who waits
for room, and who makes it), ``disk_jobs`` (to the disk and back), ``core.objects`` (the directory),
``core.holds`` (borrowers). ``performing`` does what the directory orders.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nbray.core import holds
from nbray.core.holds import HoldTable
from nbray.core.object_commands import Command, Holding
from nbray.core.object_moves import ObjectMoves
from nbray.core.objects import ObjectTable
from nbray.core.overview import overview, state_of
from nbray.core.spilling import RoomMaker
from nbray.store.arena import Arena
from nbray.store.creating import Creations
from nbray.store.disk_jobs import DiskJobs, RunInThread
from nbray.store.performing import Performer
from nbray.store.pressure import Pressure
from nbray.store.slab_requests import SlabRequests
from nbray.store.space import Space
from nbray.store.spill_file import SpillFile
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateObject,
    DropObjects,
    EndParcels,
    FreeObjects,
    GetObjects,
    HoldObjects,
    LetGo,
    ObjectGone,
    ObjectsPinned,
    ObjectsYielded,
    ParcelsSettled,
    PinObjects,
    ReleaseHolds,
    RequestSlab,
    ReturnSlab,
    SealObject,
    SendParcel,
    Unheld,
    UnpinObjects,
)


class SpillPlan(NamedTuple):
    """What becomes of objects when the store is full.

    ``directory``: where they are spilled to; None: nowhere. ``limit_bytes``: no more than that; None: as
    much as the disk gives. ``evicts``: they are evicted instead, those longest unused first.
    """

    directory: Path | None = None
    limit_bytes: int | None = None
    evicts: bool = False


NO_SPILLING = SpillPlan()
#: Small objects are written together, so many at once; in a small store, an eighth of it.
SMALL_BATCH_BYTES = 16 * 1024 * 1024


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
        plan: what becomes of objects when the store is full.
        tell: says something to people.
        clock: seconds since some moment.
        moved: told of each object that was "spilled", "restored", "evicted" or "lost", with its size.
    """

    def __init__(
        self,
        node_id: bytes,
        arena: Arena,
        available: Callable[[], int],
        send: Callable[[bytes, Message], object],
        run_in_thread: RunInThread,
        call_later: Callable[[float, Callable[[], None]], object],
        *,
        writers_back: bool = False,
        plan: SpillPlan = NO_SPILLING,
        tell: Callable[[str], object] = lambda _text: None,
        clock: Callable[[], float] = time.monotonic,
        moved: Callable[[bytes, str, int], object] = lambda _object_id, _state, _size_bytes: None,
    ) -> None:
        file = SpillFile(plan.directory, plan.limit_bytes) if plan.directory is not None else None
        self._send = send
        self._space = Space(arena, available)
        self._table = ObjectTable(node_id)
        self._table.on_moved = moved
        self._holds = HoldTable()
        self.overview = partial(overview, self._table, self._holds)
        self.state_of = partial(state_of, self._table)
        self._perform = Performer(self._space, send)
        moves = ObjectMoves(self._table)
        self._jobs = DiskJobs(
            self._table, moves, self._space, self._perform, file, run_in_thread, clock, tell
        )
        self._slabs = SlabRequests(self._table, self._space, self._perform, run_in_thread)
        batch_bytes = min(SMALL_BATCH_BYTES, arena.capacity_bytes // 8)
        maker = RoomMaker(self._table, spills=file is not None, evicts=plan.evicts, batch_bytes=batch_bytes)
        self._pressure = Pressure(
            self._table, moves, self._space, self._perform, self._jobs, maker, call_later, clock,
            self._slabs.recall_all,
        )  # fmt: skip
        self._slabs.is_contended = self._pressure.is_contended
        self._slabs.contain = self._holds.contain
        self._creations = Creations(
            self._table, self._space, self._perform, self._pressure, self._jobs, run_in_thread, tell,
            writers_back=writers_back,
        )  # fmt: skip
        self._closed = False
        self._handlers: dict[type[Message], Callable[[bytes, Any], None]] = {
            CreateObject: self._creations.requested,
            SealObject: self._on_seal,
            AbortObject: self._on_abort,
            AdoptObject: self._slabs.adopt,
            RequestSlab: self._slabs.requested,
            ReturnSlab: self._slabs.returned,
            FreeObjects: self._on_free,
            DropObjects: self._on_drop,
            GetObjects: self._on_get,
            PinObjects: self._on_pin,
            UnpinObjects: self._on_unpin,
            ObjectsYielded: self._pressure.yielded,
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
        with self._pressure.held():  # nothing of it is asked for, or given to it, before all know
            self._creations.process_lost(process_id)
            out: list[Command] = []
            orphans = self._table.process_lost(process_id, out)
            self._perform(out)
            self._borrow(self._holds.process_lost, process_id, orphans)
            self._slabs.process_lost(process_id)
            self._pressure.process_lost(process_id)

    def cool(self, max_bytes: int) -> int:
        """Give up to ``max_bytes`` of free memory back to the machine; return how many it were.

        It punches at once (about 10 GB/s), so ask for a bounded piece, when the node is idle.
        """
        return 0 if self._closed else self._space.cool(max_bytes)

    def recall_idle_slabs(self) -> None:
        """Ask for the slabs of which nothing was used since the last call."""
        self._slabs.recall_idle()

    def stats(self) -> dict[str, int]:
        """Plain figures for people and monitors. All but totals are 0 when nothing is stored."""
        books = self._space.books
        return {
            "capacity_bytes": books.capacity_bytes,
            "used_bytes": books.used_bytes - self._slabs.unused_bytes,
            "slab_bytes": self._slabs.unused_bytes,
            "backed_bytes": books.backed_bytes,
            "largest_free_bytes": books.largest_free(),
            "creations_waiting": len(self._creations),
            "creations_backing": self._space.backing,
            "set_aside_bytes": self._space.set_aside_bytes,
            "spill_file_bytes": self._jobs.file.used_bytes if self._jobs.file is not None else 0,
            **{f"total_{name}": number for name, number in self._jobs.totals.items()},
            "total_objects_evicted": self._pressure.evicted,
            **self._table.counts(),
            **self._holds.counts(),
        }

    def largest(self, n: int) -> list[Holding]:
        """The ``n`` objects that take most space."""
        return self._table.largest(n)

    def close(self) -> None:
        """Drop the arena, and the spill file. The memory goes when the last process unmaps it. Idempotent."""
        self._closed = True
        self._creations.close()
        self._slabs.close()
        self._pressure.clear()
        self._jobs.close()
        self._space.arena.close()

    # --- messages --------------------------------------------------------------------------------

    def _on_seal(self, writer: bytes, message: SealObject) -> None:
        descriptor = self._table.descriptor(message.object_id, writer)
        if descriptor is None:
            return  # sealed or aborted before
        if not descriptor.path:
            if not self._space.is_told(descriptor.generation):
                return
            self._space.written(descriptor.generation)
        out: list[Command] = []
        if self._table.seal(message.object_id, writer, out):
            self._holds.contain(message.object_id, message.inner)
        self._perform(out)

    def _on_abort(self, writer: bytes, message: AbortObject) -> None:
        self._creations.withdrawn(message.object_id, writer)
        out: list[Command] = []
        self._table.abort(message.object_id, writer, out)
        self._perform(out)

    def _on_free(self, owner: bytes, message: FreeObjects) -> None:
        self._creations.freed(message.object_ids, owner)
        out: list[Command] = []
        freed = self._table.free(message.object_ids, owner, out)
        self._perform(out)
        self._borrow(self._holds.freed, freed)

    def _on_drop(self, _process: bytes, message: DropObjects) -> None:
        """Owners free their objects themselves; of orphans it is done here."""
        of: dict[bytes, list[tuple[bytes, bytes]]] = {}
        for object_id, named in message.held:
            record = self._table.record(object_id)
            owner = record.owner if record is not None else named
            if not self._table.is_lost(owner):
                of.setdefault(owner, []).append((object_id, owner))
            elif record is not None:
                out: list[Command] = []
                self._table.abandon(object_id, out)
                self._perform(out)
                self._borrow(self._holds.freed, [object_id])
        for owner, held in of.items():
            self._send(owner, DropObjects(held))

    def _on_get(self, reader: bytes, message: GetObjects) -> None:
        if message.if_lost:
            for object_id, _owner in message.wanted:
                record = self._table.record(object_id)
                if record is not None and record.loss:
                    self._send(reader, ObjectGone(object_id, record.loss))
            return
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
