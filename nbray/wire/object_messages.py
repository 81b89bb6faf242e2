"""Messages about objects, between a process and its node daemon.

Called by:  core, store, runtime, which build and match on them; wire.messages gives them their numbers.
Imports:    wire.base.
Never:      carries the bytes of an object.
"""

from __future__ import annotations

from nbray.wire.base import Descriptor, Message


class CreateObject(Message, frozen=True):
    """Writer -> daemon: reserve space. ``owner_id`` is the process that owns the object.

    ``weak``: it may be evicted when room is needed.
    """

    object_id: bytes
    owner_id: bytes
    size_bytes: int
    weak: bool = False


class ObjectCreated(Message, frozen=True):
    """``cold_bytes`` of it have no memory yet: the writer gives them some, within the memory budget."""

    descriptor: Descriptor
    cold_bytes: int = 0


class CreateFailed(Message, frozen=True):
    """``reason`` is "full", "memory" (the machine or cgroup has no more) or "exists"."""

    object_id: bytes
    reason: str
    text: str


class SealObject(Message, frozen=True):
    """Writer -> daemon: it is whole. ``inner``: the references that its value holds, (object, owner)."""

    object_id: bytes
    inner: tuple[tuple[bytes, bytes], ...] = ()


class AbortObject(Message, frozen=True):
    object_id: bytes


class FreeObjects(Message, frozen=True):
    """Owner -> daemon: nobody refers to these any more. Space returns when the last pin goes."""

    object_ids: list[bytes]


class GetObjects(Message, frozen=True):
    """Reader -> daemon: tell me when each is sealed, and pin it for me. Pairs (object, owner).

    ``if_lost``: tell me only, and at once, which of them were there and are gone.
    """

    wanted: list[tuple[bytes, bytes]]
    if_lost: bool = False


class ObjectReady(Message, frozen=True):
    descriptor: Descriptor


class ObjectGone(Message, frozen=True):
    """``reason`` is "owner_died", "freed", "evicted" or "lost" (the copy on the disk is damaged)."""

    object_id: bytes
    reason: str


class PinObjects(Message, frozen=True):
    """Worker -> daemon, before it answers a task whose arguments it keeps views of."""

    request_id: int
    object_ids: list[bytes]


class ObjectsPinned(Message, frozen=True):
    request_id: int


class UnpinObjects(Message, frozen=True):
    object_ids: list[bytes]


class RequestSlab(Message, frozen=True):
    """Writer -> daemon: space for several objects of about this size; answered by ``SlabGranted``."""

    object_bytes: int


class SlabGranted(Message, frozen=True):
    """A slab, all of it backed; ``size_bytes`` 0: there is none to be had now."""

    offset: int
    size_bytes: int
    generation: int


class AdoptObject(Message, frozen=True):
    """Writer -> daemon, before anybody else hears of it: these bytes of my slab are a whole object.

    Created and sealed in one, without an answer. The daemon takes it also after the writer's death.
    """

    object_id: bytes
    owner_id: bytes
    generation: int  # of the slab
    offset: int
    size_bytes: int
    weak: bool = False
    inner: tuple[tuple[bytes, bytes], ...] = ()


class RecallSlab(Message, frozen=True):
    """Daemon -> writer: give back what no object has of this slab."""

    generation: int


class ReturnSlab(Message, frozen=True):
    """Writer -> daemon: I write no more to this slab."""

    generation: int


# --- who else holds an object (core.holds) -------------------------------------------------------


class HoldObjects(Message, frozen=True):
    """Process -> daemon: it has references to these objects of others. Pairs (object, owner)."""

    held: list[tuple[bytes, bytes]]


class ReleaseHolds(Message, frozen=True):
    """Process -> daemon: it has no references to these any more."""

    object_ids: list[bytes]


class SendParcel(Message, frozen=True):
    """Sender -> daemon, before it sends a value with references to ``receiver``: they stay until it arrives.

    ``parcel_id`` is unique in the sender's life.
    """

    parcel_id: bytes
    receiver: bytes
    held: list[tuple[bytes, bytes]]


class EndParcels(Message, frozen=True):
    """Receiver -> daemon: these arrived; what is kept of them stands in ``HoldObjects`` before this."""

    sender: bytes
    parcel_ids: list[bytes]


class SettleParcels(Message, frozen=True):
    """Daemon -> receiver: this sender is dead; end what you had of it, then say ``ParcelsSettled``."""

    sender: bytes


class ParcelsSettled(Message, frozen=True):
    """Receiver -> daemon: nothing of this sender is on its way any more."""

    sender: bytes


class LetGo(Message, frozen=True):
    """Owner -> daemon: only others may hold these now; ask for ``Unheld`` when nobody does."""

    object_ids: list[bytes]


class Unheld(Message, frozen=True):
    """Daemon -> owner: nobody else holds these (any more)."""

    object_ids: list[bytes]


# --- room (core.spilling) ---------------------------------------------------------------------------


class RecallObjects(Message, frozen=True):
    """Daemon -> process that has these in hand: which of them can you do without? Room is needed."""

    number: int
    object_ids: list[bytes]


class ObjectsYielded(Message, frozen=True):
    """The answer: of these it uses no bytes now. It asks (``GetObjects``) before it does again."""

    number: int
    object_ids: list[bytes]


class DropObjects(Message, frozen=True):
    """Somebody -> daemon -> owner: free these although they are held; who reads them gets an error.

    Pairs (object, owner): the daemon may know nothing of an object that its owner keeps to itself.
    """

    held: list[tuple[bytes, bytes]]


class ObjectsLost(Message, frozen=True):
    """Daemon -> owner: somebody asks for these, and their bytes are gone. Recompute them, or say why not."""

    object_ids: list[bytes]
