"""Several processes that hand references around, their node daemon, and the wires between them.

Called by:  tests.stateful.test_borrowing_{machine,exhaustive,mutations}.
Imports:    nbray.core.{references,holds}, which run unchanged; tests.support.borrowing_process.
Never:      opens a socket, starts a thread, reads a clock.

Whatever is sent stays on its wire until the test lets it arrive. A process that dies takes along what it
had not read; what it had sent stays readable, and the daemon reads its socket to the end before it says
that the process is lost. Leases are not modelled but known: a worker serves one submitter at a time, and
dies with it.

``World`` knows the truth (``held``): who holds what, without counting and without messages. ``check``
compares (RC1): what is held is there. ``check_exactly`` also demands, when all is quiet, that nothing else
is there (RC2, RC8), and that the directory says the same as the processes themselves (RC3, RC4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nbray.core.holds import Abandon, Command, HoldTable
from nbray.core.references import KNOWN, NOT_LET_GO, Pair
from nbray.wire.base import Message
from nbray.wire.object_messages import (
    AdoptObject,
    EndParcels,
    FreeObjects,
    HoldObjects,
    LetGo,
    ObjectsPinned,
    ParcelsSettled,
    PinObjects,
    ReleaseHolds,
    SendParcel,
)
from tests.support.borrowing_process import DAEMON, Answer, Closed, Process, Task, WorkerLost

Wire = tuple[bytes, bytes]


class Daemon:
    """The directory of borrowers as ``store.server`` hosts it, with a store that knows no bytes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.holds = HoldTable()
        self.store: dict[bytes, bytes] = {}  # sealed objects -> their owners
        self.inner: dict[bytes, tuple[Pair, ...]] = {}  # of the copy that was sealed last
        self.gone: set[bytes] = set()  # freed, perhaps before they were here, or abandoned
        self.dying: list[bytes] = []  # read to their ends
        self.lost: set[bytes] = set()

    def read(self, process: bytes, message: Message | Closed) -> None:
        holds = self.holds
        out: list[Command] = []
        match message:
            case HoldObjects(held):
                holds.hold(process, held)
                self.world.vouch(process, held)
            case ReleaseHolds(object_ids):
                holds.release(process, object_ids, out)
            case SendParcel(parcel_id, receiver, held):
                holds.send_parcel(process, parcel_id, receiver, held)
            case EndParcels(sender, parcel_ids):
                holds.end_parcels(process, sender, parcel_ids, out)
            case ParcelsSettled(sender):
                holds.settled(process, sender, out)
            case LetGo(object_ids):
                holds.let_go(process, object_ids, out)
            case FreeObjects(object_ids):
                self._remove(object_ids)
                holds.freed(object_ids, out)
            case AdoptObject(object_id, owner):
                self._adopt(object_id, owner, message.inner)
            case PinObjects(number):
                self.world.send(DAEMON, process, ObjectsPinned(number))
            case Closed():
                self._end(process, out)
            case _:
                raise AssertionError(f"the daemon cannot read {message}")
        self._do(out)

    def _adopt(self, object_id: bytes, owner: bytes, inner: tuple[Pair, ...]) -> None:
        if owner in self.lost or object_id in self.gone:
            return
        self.store[object_id] = owner
        self.inner[object_id] = inner
        self.world.put_inside(object_id, inner)
        self.holds.contain(object_id, inner)

    def _end(self, process: bytes, out: list[Command]) -> None:
        """Workers that served it are killed. It is lost after them, since they use what it holds."""
        self.dying.append(process)
        for worker in self.world.serving(process):
            self.world.crash(worker)
        while ready := [dead for dead in self.dying if not self.world.serving(dead)]:
            self.dying.remove(ready[0])
            self._lose(ready[0], out)

    def _lose(self, process: bytes, out: list[Command]) -> None:
        self.lost.add(process)
        submitter = self.world.leases.pop(process, None)
        if submitter is not None:
            self.world.send(DAEMON, submitter, WorkerLost(process))
        self.holds.process_lost(
            process, sorted(o for o, owner in self.store.items() if owner == process), out
        )

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Abandon):
                self._remove([command.object_id])
            else:
                self.world.send(DAEMON, command.process_id, command.message)

    def _remove(self, object_ids: Iterable[bytes]) -> None:
        for object_id in object_ids:
            self.gone.add(object_id)
            self.store.pop(object_id, None)
            self.inner.pop(object_id, None)


class World:
    """``eager`` processes notice at once what their code dropped; others when they are made to."""

    def __init__(self, names: Iterable[bytes], *, eager: bool = True) -> None:
        self.eager = eager
        self.daemon = Daemon(self)
        self.processes: dict[bytes, Process] = {}
        self.wires: dict[Wire, list[object]] = {}
        self.leases: dict[bytes, bytes] = {}  # worker -> whom it serves
        self.owners: dict[bytes, bytes] = {}  # of all objects that ever were
        self.inside: dict[bytes, dict[Pair, None]] = {}  # object -> all that any value of it ever had in it
        self.promised: dict[bytes, set[bytes]] = {}  # the same, with what no one has seen yet
        self.pickles: list[tuple[Pair, bytes]] = []  # made by hand, and by whom
        #: Handles from pickles that were made by hand: nobody knows of them until the daemon does.
        self.unvouched: dict[tuple[bytes, bytes], bytes] = {}  # (process, object) -> who made the pickle
        for name in names:
            self.processes[name] = Process(self, name)

    # --- wires -------------------------------------------------------------------------------------

    def send(self, sender: bytes, receiver: bytes, message: object) -> None:
        if receiver == DAEMON or self.processes[receiver].alive:
            self.wires.setdefault((sender, receiver), []).append(message)

    def deliverable(self) -> list[Wire]:
        return [wire for wire in sorted(self.wires) if self._takes(wire)]

    def _takes(self, wire: Wire) -> bool:
        return wire[1] == DAEMON or self.processes[wire[1]].takes(self.wires[wire][0])

    def deliver(self, wire: Wire, *, twice: bool = False) -> None:
        """The oldest message of a wire arrives; ``twice`` if that makes no difference (RC3)."""
        sender, receiver = wire
        message = self.wires[wire].pop(0)
        if not self.wires[wire]:
            del self.wires[wire]
        if receiver != DAEMON:
            self.processes[receiver].receive(sender, message)
            return
        assert isinstance(message, Message | Closed)
        self.daemon.read(sender, message)
        if twice and isinstance(message, HoldObjects | ReleaseHolds):
            self.daemon.read(sender, message)

    def crash(self, name: bytes) -> None:
        """It dies here and now."""
        if self.processes[name].alive:
            self.processes[name] = dead = Process(self, name)
            dead.alive = False
            self.wires = {wire: some for wire, some in self.wires.items() if wire[1] != name}
            self.send(name, DAEMON, Closed())

    def settle(self) -> None:
        """Let everything arrive that can."""
        while True:
            for process in self.processes.values():
                if process.alive:
                    process.flush()
            wires = self.deliverable()
            if not wires:
                return
            for wire in wires:
                if wire in self.wires and self._takes(wire):
                    self.deliver(wire)

    # --- leases ------------------------------------------------------------------------------------

    def serving(self, name: bytes) -> list[bytes]:
        return sorted(worker for worker, submitter in self.leases.items() if submitter == name)

    def lease(self, submitter: bytes, worker: bytes) -> bool:
        """A worker begins to serve, or goes on to; not one that would so serve itself."""
        elder: bytes | None = submitter
        while elder is not None:
            if elder == worker:
                return False
            elder = self.leases.get(elder)
        return self.processes[worker].alive and self.leases.setdefault(worker, submitter) == submitter

    # --- the truth ---------------------------------------------------------------------------------

    def put_inside(self, object_id: bytes, inner: Iterable[Pair]) -> None:
        self.inside.setdefault(object_id, {}).update(dict.fromkeys(inner))

    def promise(self, object_id: bytes, inner: Iterable[Pair]) -> None:
        self.promised.setdefault(object_id, set()).update(inner_id for inner_id, _owner in inner)

    def leads_to(self, object_id: bytes, inner: bytes) -> bool:
        """Whether an object contains another, at whatever depth, or will."""
        seen, loose = {object_id}, [object_id]
        while loose:
            found = self.promised.get(loose.pop(), set()) - seen
            seen |= found
            loose += found
        return inner in seen

    def vouch(self, process: bytes, held: Iterable[Pair]) -> None:
        """The daemon heard that a process holds these; if a pickle's maker held them until now, it counts."""
        unread = self.wires.get((process, DAEMON), ())
        for object_id, owner in held:
            maker = self.unvouched.get((process, object_id))
            again = any(isinstance(m, HoldObjects) and (object_id, owner) in m.held for m in unread)
            if maker is None or maker in self.daemon.lost or again:
                continue
            if self.exists(object_id, owner):
                del self.unvouched[process, object_id]

    def exists(self, object_id: bytes, owner: bytes) -> bool:
        """Whether the object is there for who holds it; false also before it is sealed, if its owner died."""
        process = self.processes[owner]
        if process.alive:
            return object_id in process.table.entries
        return object_id in self.daemon.store or (
            object_id not in self.daemon.gone and object_id in self._sealed_on_its_wire(owner)
        )

    def _sealed_on_its_wire(self, owner: bytes) -> set[bytes]:
        on_wire = self.wires.get((owner, DAEMON), ())
        return {m.object_id for m in on_wire if isinstance(m, AdoptObject) and m.owner_id == owner}

    def held(self, *, also_unvouched: bool = False) -> dict[bytes, bytes]:
        """All objects that somebody holds, and their owners."""
        held: dict[bytes, bytes] = {}
        loose = [pair for process in self.processes.values() if process.alive for pair in process.roots()]
        if also_unvouched:
            loose += [(o, self.owners[o]) for p, o in self.unvouched if self.processes[p].alive]
        arriving = self._arriving()
        while loose:
            object_id, owner = loose.pop()
            if object_id in held:
                continue
            held[object_id] = owner
            if self.exists(object_id, owner):
                loose += self.inside.get(object_id, ())
                loose += arriving.get(object_id, ())
        return held

    def _arriving(self) -> dict[bytes, tuple[Pair, ...]]:
        """References in answers that were sent, and will be taken."""
        arriving = {}
        for (sender, receiver), messages in self.wires.items():
            for message in messages:
                if isinstance(message, Answer) and self.processes[receiver].expects(sender, message):
                    arriving[message.result] = message.refs
        return arriving

    def check(self) -> None:
        """RC1: what is held is there, unless its owner died before it was in the store."""
        for object_id, owner in self.held().items():
            if self.processes[owner].alive:
                there = object_id in self.processes[owner].table.entries
            else:
                there = object_id not in self.daemon.gone
            assert there, f"{object_id!r} was freed, and is held"

    def check_exactly(self) -> None:
        """Nothing is on its way: what is there is held, and all sides say the same."""
        self.check()
        held = self.held(also_unvouched=True)
        for object_id, owner in self.daemon.store.items():
            assert object_id in held, f"{object_id!r} of {owner!r} stays in the store"
        borrowed: dict[bytes, set[bytes]] = {}
        own_let_go = 0
        for name, process in self.processes.items():
            if process.alive:
                for object_id, entry in process.table.entries.items():
                    if entry.owner is None:
                        assert object_id in held, f"{object_id!r} stays with its owner"
                        own_let_go += entry.told != NOT_LET_GO
                    else:
                        assert entry.held, f"{object_id!r} stays with {name!r}"
                        assert entry.told == KNOWN or not (entry.handles or entry.kept)
                        if entry.told == KNOWN:
                            borrowed.setdefault(object_id, set()).add(name)
        holds = self.daemon.holds
        assert {o: set(holds.holdings(o).holders) for o in borrowed} == borrowed
        counts = holds.counts()
        assert (counts["borrowed"], counts["borrows"]) == (len(borrowed), sum(map(len, borrowed.values())))
        assert (counts["parcels"], counts["ended_early"], counts["let_go"]) == (0, 0, own_let_go)

    def check_empty(self) -> None:
        """Everybody let go, and all is quiet."""
        self.check_exactly()
        assert not self.daemon.store
        assert not any(len(process.table) for process in self.processes.values() if process.alive)
        assert not any(self.daemon.holds.counts().values()), self.daemon.holds.counts()

    # --- for searches ------------------------------------------------------------------------------

    def freeze(self) -> tuple[object, ...]:
        """Everything that the future depends on, in one order, to compare states with."""
        holds, daemon = self.daemon.holds, self.daemon
        return (
            [process.freeze() for process in self.processes.values()],
            [(wire, [(type(m).__name__, m) for m in some]) for wire, some in sorted(self.wires.items())],
            sorted(self.leases.items()),
            sorted(daemon.store),
            sorted(daemon.gone),
            sorted(daemon.inner.items()),
            sorted((o, sorted(pairs)) for o, pairs in self.inside.items()),
            sorted(self.unvouched.items()),
            list(_frozen(holds._holders)),
            sorted((sender, sorted(parcels.items())) for sender, parcels in holds._parcels.items()),
            list(_frozen(holds._ended_early)),
            list(_frozen(holds._inside)),
            sorted(holds._orphans),
            sorted(holds._let_go.items()),
            daemon.dying,
            sorted(holds._lost),
        )


def _frozen(index: dict[bytes, set[bytes]]) -> Iterator[tuple[bytes, list[bytes]]]:
    return ((key, sorted(members)) for key, members in sorted(index.items()))


__all__ = ["DAEMON", "Daemon", "Process", "Task", "Wire", "World"]
