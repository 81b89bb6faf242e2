"""One process that owns, borrows and hands on references, by the rules that ``nbray.runtime`` follows.

Called by:  tests.support.borrowing_world.
Imports:    nbray.core.references, which runs unchanged; nbray.wire.
Never:      knows what others hold: it talks to them by way of its wires only.

User code is a set of moves: ``put``, ``read``, ``submit``, ``drop``, ``finish``, ... ``handles`` are the
references that it has in its hands; that is the truth which ``World.held`` begins with, and no rule looks
at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nbray.core.references import Entry, Pair, ReferenceTable
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
    SettleParcels,
    Unheld,
)

if TYPE_CHECKING:
    from tests.support.borrowing_world import World

DAEMON = b"daemon"
VALUE = b"value"


class Closed(NamedTuple):
    """The end of a dead process's socket."""


class WorkerLost(NamedTuple):
    """Daemon -> whom it served: this worker is dead."""

    worker: bytes


class Task(NamedTuple):
    """Submitter -> worker. ``refs`` are inside its arguments, ``values`` arrive as their values."""

    result: bytes  # its name, too
    attempt: int
    refs: tuple[Pair, ...]
    values: tuple[Pair, ...]
    program: int  # what a test's script makes of it

    @property
    def parcel_id(self) -> bytes:
        return b"%b/%d" % (self.result, self.attempt)


class Answer(NamedTuple):
    """Worker -> submitter. A value that is not ``stored`` is in here."""

    result: bytes
    attempt: int
    parcel_id: bytes
    refs: tuple[Pair, ...]
    stored: bool


class Process:
    def __init__(self, world: World, name: bytes) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.table = ReferenceTable()
        self.handles: dict[bytes, int] = {}
        self.inline: set[bytes] = set()  # own objects whose values are here and not in the store
        self.exported: set[bytes] = set()
        self.pending: dict[bytes, tuple[Task, bytes]] = {}  # unfinished tasks, and their workers
        self.buried: set[bytes] = set()  # workers of ours that are lost
        self.running: Task | None = None
        self.submitter = b""
        self.answer: Answer | None = None  # waits for the daemon's reply
        self.dropped: deque[bytes] = deque()  # handles that are gone, of which the table was not told
        self.made = 0

    # --- what user code does -------------------------------------------------------------------------

    def put(self, refs: Sequence[bytes] = (), *, stored: bool = True) -> bytes:
        """A new object; ``refs`` are in its value, which is in the store, or in this process's memory."""
        object_id, pairs = self._new(), self._pairs(refs)
        self.world.promise(object_id, pairs)
        self._fill(self.table.entries[object_id], pairs, stored=False)
        if stored:
            self._promote(object_id)
        return object_id

    def submit(
        self, worker: bytes, refs: Sequence[bytes] = (), values: Sequence[bytes] = (), program: int = 0
    ) -> bytes | None:
        """A task for a worker; returns its result, which is still to come."""
        if not self.world.lease(self.name, worker):
            return None
        result = self._new()
        self._share(refs)
        for object_id in values:  # and with a value leaves what is in it
            self._share(self.table.entries[object_id].inner)
        for object_id in (*refs, *values):
            self.table.hold_argument(object_id)
        task = Task(result, 0, self._pairs(refs), self._pairs(values), program)
        self.pending[result] = (task, worker)
        self.world.send(self.name, worker, task)
        return result

    def read(self, object_id: bytes) -> bool:
        """Deserialize a value; its references are in our hands then. False if it is not there."""
        value = self.value(object_id)
        for pair in value or ():
            self._take(*pair)
        return value is not None

    def value(self, object_id: bytes) -> tuple[Pair, ...] | None:
        """An own value as it came; another's as the daemon knows it."""
        entry = self.table.entries[object_id]
        if entry.owner is None:
            return tuple(self.world.inside.get(object_id, ())) if entry.value is not None else None
        return self.world.daemon.inner.get(object_id)

    def copy(self, object_id: bytes) -> None:
        self._take(object_id, self.world.owners[object_id])

    def drop(self, object_id: bytes) -> None:
        if object_id not in self.handles:
            return
        self.handles[object_id] -= 1
        if not self.handles[object_id]:
            del self.handles[object_id]
            self.world.unvouched.pop((self.name, object_id), None)
        self.dropped.append(object_id)
        if self.world.eager:
            self.drain()

    def all_handles(self) -> list[bytes]:
        return [object_id for object_id, number in sorted(self.handles.items()) for _ in range(number)]

    def export(self, object_id: bytes) -> None:
        """Pickle a reference by hand: this process holds it for the rest of its life."""
        for entry in self.table.export(object_id):
            self._promote(entry.object_id)
        self.exported.add(object_id)
        self.world.pickles.append(((object_id, self.world.owners[object_id]), self.name))

    def load(self, pair: Pair, maker: bytes) -> None:
        """Load a reference that somebody pickled by hand, and tell at once."""
        if pair[1] == self.name and pair[0] not in self.table.entries:
            return
        if pair[0] not in self.handles and pair[1] != self.name:
            self.world.unvouched[self.name, pair[0]] = maker
        self._take(*pair)
        self._tell_fresh()

    def finish(self, results: Sequence[bytes], dropped: Sequence[bytes], *, stored: bool = True) -> None:
        """The running task returns references, and its variables go; what is left was put away somewhere."""
        task = self.running
        assert task is not None
        assert self.answer is None
        pairs = self._pairs(results)
        self.world.promise(task.result, pairs)
        self._share(results)
        if stored:
            self._seal(task.result, self.submitter, pairs)
        if pairs:
            self._tell(SendParcel(task.parcel_id, self.submitter, list(pairs)))
        self.answer = Answer(task.result, task.attempt, task.parcel_id, pairs, stored)
        for object_id in dropped:
            self.drop(object_id)
        self._release_arguments(task.values)
        self._tell_fresh()
        self._answer_when_confirmed()

    def _answer_when_confirmed(self) -> None:
        """The answer makes the submitter let go: first the daemon must know what is kept here."""
        if self.table.unconfirmed:
            self.table.unconfirmed = False
            self._tell(PinObjects(0, []))
        else:
            self._send_answer()

    def give_back(self, worker: bytes) -> None:
        """Its lease ends; somebody else may have it."""
        if self.world.leases.get(worker) == self.name and not self.tasks_of(worker):
            del self.world.leases[worker]

    def tasks_of(self, worker: bytes) -> list[Task]:
        return [task for task, by in self.pending.values() if by == worker]

    def given_up(self) -> list[bytes]:
        """Tasks of workers that are lost. The daemon said so: it has read all that they told it of."""
        return [result for result, (_task, worker) in sorted(self.pending.items()) if worker in self.buried]

    def fail(self, result: bytes) -> None:
        """The task is over; its result is an error."""
        task, _worker = self.pending[result]
        entry = self.table.entries.get(result)
        if entry is not None:
            self.table.ready(entry, VALUE, True)
            self._seal(result, self.name, ())
        self._over(task)

    def retry(self, result: bytes, worker: bytes) -> None:
        if self.world.lease(self.name, worker):
            task, _worker = self.pending[result]
            task = task._replace(attempt=task.attempt + 1)
            self.pending[result] = (task, worker)
            self.world.send(self.name, worker, task)

    # --- what arrives --------------------------------------------------------------------------------

    def takes(self, message: object) -> bool:
        """A worker runs one task at a time."""
        return not isinstance(message, Task) or self.running is None

    def receive(self, sender: bytes, message: object) -> None:
        match message:
            case Task():
                self._start(sender, message)
            case Answer():
                self._on_answer(sender, message)
            case ObjectsPinned():
                self._send_answer()
            case Unheld(object_ids):
                freed: list[Entry] = []
                self.table.unheld(object_ids, freed)
                self._release(freed)
            case SettleParcels(dead):
                self._read_last_words(dead)
                self._tell_fresh()
                self._tell(ParcelsSettled(dead))
            case WorkerLost(dead):
                self._read_last_words(dead)
                self.buried.add(dead)
            case _:
                raise AssertionError(f"a process cannot read {message}")

    def _start(self, submitter: bytes, task: Task) -> None:
        self.running, self.submitter = task, submitter
        for pair in task.refs:
            self._take(*pair)
        for object_id, owner in task.values:
            self.table.borrow_argument(object_id, owner)
            for pair in self.world.inside.get(object_id, ()):
                self._take(*pair)

    def _on_answer(self, worker: bytes, answer: Answer) -> None:
        wanted = self.expects(worker, answer)
        entry = self.table.entries.get(answer.result)
        if wanted and entry is not None:
            self._fill(entry, answer.refs, answer.stored)
        if answer.refs:
            self._end_parcel(worker, answer.parcel_id)
        if wanted:
            self._over(self.pending[answer.result][0])

    def _fill(self, entry: Entry, inner: tuple[Pair, ...], stored: bool) -> None:
        """The value of an own object is here. Readers must not have to wait for us: it moves to the store."""
        if self.table.ready(entry, VALUE, False):
            self.table.contain(entry, inner, self.name)
            self.world.put_inside(entry.object_id, inner)
            if not stored:
                self.inline.add(entry.object_id)
            if entry.shared:
                self._share(entry.inner)
                self._promote(entry.object_id)

    def expects(self, worker: bytes, answer: Answer) -> bool:
        task, by = self.pending.get(answer.result, (None, b""))
        return task is not None and (by, task.attempt) == (worker, answer.attempt)

    def _end_parcel(self, sender: bytes, parcel_id: bytes) -> None:
        self._tell_fresh()
        self._tell(EndParcels(sender, [parcel_id]))

    def _over(self, task: Task) -> None:
        del self.pending[task.result]
        self._release_arguments([*task.refs, *task.values])

    def _release_arguments(self, pairs: Iterable[Pair]) -> None:
        freed: list[Entry] = []
        for object_id, _owner in pairs:
            self.table.release_argument(object_id, freed)
        self._release(freed)

    def _read_last_words(self, dead: bytes) -> None:
        while (dead, self.name) in self.world.wires:
            self.world.deliver((dead, self.name))

    def _send_answer(self) -> None:
        assert self.answer is not None
        self.world.send(self.name, self.submitter, self.answer)
        self.answer = self.running = None

    # --- what the daemon is told ----------------------------------------------------------------------

    def flush(self) -> None:
        """Tell of everything that came and went."""
        self.drain()
        self._tell_fresh()

    def drain(self) -> None:
        """Let go of what was dropped since the last time."""
        freed: list[Entry] = []
        self.table.drop_handles(self.dropped, freed)
        self._release(freed)

    def _release(self, freed: list[Entry]) -> None:
        """Nothing here holds these entries any more."""
        own = [entry.object_id for entry in freed if entry.owner is None]
        let_go = self.table.take_let_go()
        if freed or let_go:
            self._tell_fresh()
        released = self.table.released(freed)
        if own:
            self._tell(FreeObjects(own))
        if released:
            self._tell(ReleaseHolds(released))
        if let_go:
            self._tell(LetGo(let_go))

    def _tell_fresh(self) -> None:
        fresh = self.table.take_fresh()
        if fresh:
            self._tell(HoldObjects(fresh))

    def _tell(self, message: Message) -> None:
        self.world.send(self.name, DAEMON, message)

    # --- odds and ends -------------------------------------------------------------------------------

    def _share(self, refs: Iterable[bytes]) -> None:
        for entry in self.table.share(refs):
            self._promote(entry.object_id)

    def _promote(self, object_id: bytes) -> None:
        if object_id in self.inline:
            self.inline.remove(object_id)
            self._seal(object_id, self.name, tuple(self.world.inside[object_id]))

    def _new(self) -> bytes:
        self.made += 1
        object_id = b"%b.%d" % (self.name, self.made)
        self.table.own(object_id)
        self.handles[object_id] = 1
        self.world.owners[object_id] = self.name
        return object_id

    def _take(self, object_id: bytes, owner: bytes) -> None:
        """One more handle, as ``runtime.objects.adopt`` makes it."""
        if owner == self.name:
            assert object_id in self.table.entries, f"{object_id!r} came back to its owner, and was freed"
            self.table.add_handle(object_id)
        else:
            self.table.borrow(object_id, owner)
        self.handles[object_id] = self.handles.get(object_id, 0) + 1

    def _pairs(self, refs: Iterable[bytes]) -> tuple[Pair, ...]:
        return tuple((object_id, self.world.owners[object_id]) for object_id in refs)

    def _seal(self, object_id: bytes, owner: bytes, inner: tuple[Pair, ...]) -> None:
        self._tell(AdoptObject(object_id, owner, 0, 0, 0, False, inner))

    def roots(self) -> list[Pair]:
        """What it holds, in truth: in its hands, for its tasks, in an answer that waits, in pickles."""
        unvouched = self.world.unvouched
        roots = [(o, self.world.owners[o]) for o in self.handles if (self.name, o) not in unvouched]
        roots += [(o, self.world.owners[o]) for o in self.exported]
        for task, _worker in self.pending.values():
            roots += (*task.refs, *task.values)
        if self.answer is not None:
            roots += self.answer.refs
        return roots

    def freeze(self) -> tuple[object, ...]:
        if not self.alive:
            return ()
        return (
            [
                (
                    (e.object_id, e.handles, e.arguments, e.kept, e.inner),
                    (e.value, e.failed, e.shared, e.exported, e.told),
                )
                for _, e in sorted(self.table.entries.items())
            ],
            sorted(self.inline),
            self.table.unconfirmed,
            self.table.let_go,
            sorted(self.pending.items()),
            sorted(self.buried),
            self.running,
            self.answer,
            list(self.dropped),
            self.made,
        )
