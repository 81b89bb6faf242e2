"""Who holds an object besides its owner: the node's directory of borrowers.

Called by:  store.server, its only host.
Imports:    nbray.wire.object_messages.
Never:      touches memory, sends. It appends commands to a list that the caller owns.

An owner counts what holds an object in its own process (``core.references``). Of everybody else the
node's daemon keeps a set, for three reasons: it answers while an owner is busy, it is the first to know
that a process died, and it reads a dead process's messages to their end before it says so. An object
is held here by

* *holders*: processes that said so, each an incarnation, at most once, whatever is repeated;
* *parcels*: values on their way from a sender to a receiver. The sender announces one before it sends,
  the receiver ends it after it has said what it keeps (or, if it was faster, before the announcement is
  read). When the sender dies, the receiver is asked what has arrived: that ends the rest;
* *containers*: values in the store that have references to it in them, until they are freed. Their owners
  count those, too, but not in time: readers see what a task stored before its owner has the answer, and
  perhaps there never is one, since the worker dies; and the owner may die, and the object live on.

An owner that holds an object no more *lets go* of it, and hears ``Unheld`` once nobody else holds it. When
an owner dies its sealed objects are *orphans*: those that are held live on.

Objects that contain each other in a circle hold each other until their owners die.

Source: the race between a hand-over and a release, and its cure by registration before the hand-over, are
those of Birrell et al., "Distributed garbage collection for network objects", 1993.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from nbray.wire.base import Message
from nbray.wire.object_messages import SettleParcels, Unheld

#: So many lost processes are remembered: their late messages change nothing.
LOST_REMEMBERED = 100_000

#: An object and its owner.
Pair = tuple[bytes, bytes]


class Notify(NamedTuple):
    """Command: send this message."""

    process_id: bytes
    message: Message


class Abandon(NamedTuple):
    """Command: the owner of this object is dead and nobody else holds it: its space is free."""

    object_id: bytes


Command = Notify | Abandon


class Parcel(NamedTuple):
    """References in a value that is on its way."""

    receiver: bytes
    object_ids: tuple[bytes, ...]


class Holdings(NamedTuple):
    """What holds an object, for people."""

    holders: tuple[bytes, ...]
    parcels: int
    containers: tuple[bytes, ...]


class HoldTable:
    """All borrowers of one node. A fact that comes twice, or from a lost process, changes nothing."""

    def __init__(self) -> None:
        self._holders: dict[bytes, set[bytes]] = {}  # object -> processes
        self._held_by: dict[bytes, set[bytes]] = {}  # the same by process
        self._parcels: dict[bytes, dict[bytes, Parcel]] = {}  # sender -> parcel ID -> parcel
        self._in_parcels: dict[bytes, int] = {}  # object -> number of parcels
        self._ended_early: dict[bytes, set[bytes]] = {}  # sender -> parcels that it has yet to announce
        self._containers: dict[bytes, set[bytes]] = {}  # object -> stored objects that contain it
        self._inside: dict[bytes, set[bytes]] = {}  # the same by container
        self._orphans: set[bytes] = set()  # objects of the dead that live on
        self._let_go: dict[bytes, bytes] = {}  # object -> owner, who waits for ``Unheld``
        self._lost: OrderedDict[bytes, None] = OrderedDict()

    # --- borrowers -------------------------------------------------------------------------------

    def hold(self, process: bytes, held: Iterable[Pair]) -> None:
        """The process has references to these."""
        if process not in self._lost:
            for object_id, _owner in held:
                self._holders.setdefault(object_id, set()).add(process)
                self._held_by.setdefault(process, set()).add(object_id)

    def release(self, process: bytes, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """The process has none to these any more."""
        for object_id in object_ids:
            if _discard(self._holders, object_id, process):
                _discard(self._held_by, process, object_id)
                self._settle(object_id, out)

    # --- parcels ---------------------------------------------------------------------------------

    def send_parcel(self, sender: bytes, parcel_id: bytes, receiver: bytes, held: Iterable[Pair]) -> None:
        """A value with references to these is about to leave for the receiver."""
        if sender in self._lost or _discard(self._ended_early, sender, parcel_id) or receiver in self._lost:
            return
        parcels = self._parcels.setdefault(sender, {})
        if parcel_id not in parcels:
            parcels[parcel_id] = Parcel(receiver, tuple({object_id: None for object_id, _owner in held}))
            for object_id in parcels[parcel_id].object_ids:
                self._in_parcels[object_id] = self._in_parcels.get(object_id, 0) + 1

    def end_parcels(
        self, receiver: bytes, sender: bytes, parcel_ids: Iterable[bytes], out: list[Command]
    ) -> None:
        """These arrived; the receiver has said what it keeps of them."""
        if receiver in self._lost:
            return
        for parcel_id in parcel_ids:
            if parcel_id in self._parcels.get(sender, ()):
                self._end(sender, parcel_id, out)
            elif sender not in self._lost:
                self._ended_early.setdefault(sender, set()).add(parcel_id)

    def settled(self, receiver: bytes, sender: bytes, out: list[Command]) -> None:
        """The receiver has all that it will ever have of a dead sender."""
        if sender in self._lost:
            for parcel_id, parcel in list(self._parcels.get(sender, {}).items()):
                if parcel.receiver == receiver:
                    self._end(sender, parcel_id, out)

    def _end(self, sender: bytes, parcel_id: bytes, out: list[Command]) -> None:
        parcels = self._parcels[sender]
        parcel = parcels.pop(parcel_id)
        if not parcels:
            del self._parcels[sender]
        for object_id in parcel.object_ids:
            self._in_parcels[object_id] -= 1
            if not self._in_parcels[object_id]:
                del self._in_parcels[object_id]
                self._settle(object_id, out)

    # --- containers ------------------------------------------------------------------------------

    def contain(self, object_id: bytes, inner: Iterable[Pair]) -> None:
        """A value with references to these was sealed in the store.

        They are held until the object is freed. Of several attempts' values each may have been read,
        also one that another has replaced.
        """
        inside = {inner_id for inner_id, _owner in inner} - {object_id}
        if inside:
            self._inside.setdefault(object_id, set()).update(inside)
            for inner_id in inside:
                self._containers.setdefault(inner_id, set()).add(object_id)

    def freed(self, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """These went, by their owner's word or by force: they hold no more what they contain."""
        for object_id in object_ids:
            self._orphans.discard(object_id)
            if object_id in self._inside:  # few have references in them, and many are freed
                for inner_id in self._take_out(object_id):
                    self._settle(inner_id, out)

    def _take_out(self, object_id: bytes) -> list[bytes]:
        """What an object contains; from now on it does not."""
        inside = sorted(self._inside.pop(object_id, ()))
        for inner_id in inside:
            _discard(self._containers, inner_id, object_id)
        return inside

    # --- owners ----------------------------------------------------------------------------------

    def let_go(self, owner: bytes, object_ids: Iterable[bytes], out: list[Command]) -> None:
        """The owner holds these no more. It hears of each, now or later, exactly once."""
        if owner in self._lost:
            return
        for object_id in object_ids:
            self._let_go[object_id] = owner
            self._settle(object_id, out)

    def process_lost(self, process: bytes, orphans: Iterable[bytes], out: list[Command]) -> None:
        """A process is dead, and all that it said was heard.

        Args:
            process: the incarnation.
            orphans: its sealed objects. Those that are held live on.
            out: receives the commands.
        """
        if process in self._lost:
            return
        self._lost[process] = None
        if len(self._lost) > LOST_REMEMBERED:
            self._lost.popitem(last=False)
        for object_id in [o for o, owner in self._let_go.items() if owner == process]:
            del self._let_go[object_id]
        orphans = list(orphans)
        self._orphans.update(orphans)
        self._ended_early.pop(process, None)
        for sender, parcels in list(self._parcels.items()):
            for parcel_id, parcel in list(parcels.items()):
                if parcel.receiver == process:
                    self._end(sender, parcel_id, out)
        in_doubt = sorted({parcel.receiver for parcel in self._parcels.get(process, {}).values()})
        out += [Notify(receiver, SettleParcels(process)) for receiver in in_doubt]
        self.release(process, sorted(self._held_by.get(process, ())), out)
        for object_id in orphans:
            self._settle(object_id, out)

    # --- views -----------------------------------------------------------------------------------

    def is_held(self, object_id: bytes) -> bool:
        return object_id in self._holders or object_id in self._in_parcels or object_id in self._containers

    def holdings(self, object_id: bytes) -> Holdings:
        """What holds an object, apart from its owner."""
        return Holdings(
            tuple(sorted(self._holders.get(object_id, ()))),
            self._in_parcels.get(object_id, 0),
            tuple(sorted(self._containers.get(object_id, ()))),
        )

    def counts(self) -> dict[str, int]:
        """Numbers for people and monitors; all are 0 when nothing is borrowed."""
        return {
            "borrowed": len(self._holders),
            "borrows": sum(map(len, self._holders.values())),
            "parcels": sum(map(len, self._parcels.values())),
            "ended_early": sum(map(len, self._ended_early.values())),
            "containers": len(self._inside),
            "orphans": len(self._orphans),
            "let_go": len(self._let_go),
        }

    def _settle(self, object_id: bytes, out: list[Command]) -> None:
        """If nobody holds it now, say so to whom it concerns."""
        loose = [object_id]
        while loose:  # not recursive: objects may contain each other in long chains
            object_id = loose.pop()
            if self.is_held(object_id):
                continue
            owner = self._let_go.pop(object_id, None)
            if owner is not None:
                out.append(Notify(owner, Unheld([object_id])))
            if object_id in self._orphans:
                self._orphans.remove(object_id)
                out.append(Abandon(object_id))
                loose += self._take_out(object_id)


def _discard(index: dict[bytes, set[bytes]], key: bytes, member: bytes) -> bool:
    """Take a member out of the set under ``key``; False if it was not in it."""
    members = index.get(key)
    if members is None or member not in members:
        return False
    members.remove(member)
    if not members:
        del index[key]
    return True
