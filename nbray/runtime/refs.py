"""The reference that users hold: a name for a value that may not exist yet.

Called by:  api, runtime.objects, users.
Imports:    msgspec, nbray.core.references, nbray.model.
Never:      locks or sends in ``__del__``, which may run inside any allocation.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from nbray.core.references import Entry, Pair
from nbray.model.errors import RayConnectionError
from nbray.model.ids import OBJECT_ID_BYTES, TASK_ID_BYTES
from nbray.runtime.identifiers import TaskID, check_binary
from nbray.wire.base import Descriptor

if TYPE_CHECKING:
    import asyncio

_NIL = b"\xff" * OBJECT_ID_BYTES


class Home:
    """What a reference knows of its session: where to say that it was dropped.

    ``wake`` may be called from ``__del__``.
    """

    __slots__ = ("dropped", "process_id", "wake")

    def __init__(self, process_id: bytes, wake: Callable[[], None]) -> None:
        self.dropped: deque[bytes] = deque()
        self.process_id = process_id
        self.wake = wake


#: Of references that name no object of a session: nothing is told when they are dropped.
NOWHERE = Home(b"", lambda: None)


class ObjectRef(msgspec.Struct, eq=False, gc=False):
    """Names one object: the result of a task, or a value that was put. Also called ``ObjectID``.

    Get its value with ``nbray.get`` or ``await``; pass it to a task to hand on the value. Equal
    references name the same object.

    Args:
        binary: the 20 bytes of an ID, from ``binary()`` of another reference. If this process knows the
            object, the new reference holds it like any other; else it is only a name.

    Raises:
        TypeError: not bytes.
        ValueError: not 20 of them.
    """

    # A struct that the garbage collector does not know: programs hold them by the hundred thousand, and its
    # rounds over them cost each task a microsecond. A reference points to nothing that points back.

    #: Set by ``runtime.process``: adopts a reference that was unpickled in this process.
    adopt: ClassVar[Callable[[bytes, bytes, bool], ObjectRef] | None] = None
    #: Set by ``runtime.process``: notes that a user pickles a reference by hand; returns (id, owner).
    export: ClassVar[Callable[[ObjectRef], tuple[bytes, bytes]] | None] = None
    #: Set by ``runtime.process``: ties a reference that a user made from bytes to its object, if known.
    claim: ClassVar[Callable[[ObjectRef], bool] | None] = None

    _entry: Entry  # at first the bytes, where a user makes one
    _home: Home = NOWHERE

    if TYPE_CHECKING:  # what users may call; the runtime makes its references by ``make_ref``

        def __init__(self, binary: bytes) -> None: ...

    def __post_init__(self) -> None:
        if self._home is NOWHERE:
            self._entry = Entry(check_binary("ObjectID", self._entry, OBJECT_ID_BYTES), None)
            if ObjectRef.claim is not None:
                ObjectRef.claim(self)

    def __del__(self) -> None:
        entry, home = self._entry, self._home
        if home is NOWHERE:
            return
        home.dropped.append(entry.object_id)
        # Small ones are dealt with on occasion; a large one should give its memory back now.
        if type(entry.value) is Descriptor:
            home.wake()

    def tie(self, entry: Entry, home: Home) -> None:
        """It turned out that the session knows this object; the caller has counted the handle."""
        self._entry = entry
        self._home = home

    @property
    def _id(self) -> bytes:
        return self._entry.object_id

    @property
    def _owner(self) -> bytes:
        """The process that owns it."""
        return self._entry.owner or self._home.process_id

    @classmethod
    def nil(cls) -> ObjectRef:
        """The ID that names no object."""
        return cls(_NIL)

    @classmethod
    def from_random(cls) -> ObjectRef:
        """A new ID, different from all others; it names no object."""
        return cls(os.urandom(OBJECT_ID_BYTES))

    @classmethod
    def size(cls) -> int:
        """20, the number of bytes."""
        return OBJECT_ID_BYTES

    def binary(self) -> bytes:
        """The 20 bytes of the ID."""
        return self._id

    id = binary  # its name in the first releases of Ray

    def hex(self) -> str:
        return self._id.hex()

    def is_nil(self) -> bool:
        return self._id == _NIL

    def task_id(self) -> TaskID:
        """The ID of the task that makes the object; of a value that was put, a number of its own."""
        return TaskID(self._id[:TASK_ID_BYTES])

    # --- in asyncio: loaded when it is used, since importing nbray may not import asyncio ---------------

    def __await__(self) -> Generator[Any, None, Any]:
        from nbray.runtime.awaiting import result_of

        return result_of(self)

    def as_future(self) -> asyncio.Future[Any]:
        """A future of the running event loop that will hold the value, or the error that ``get`` raises.

        Cancelling it ends the wait; the task goes on.

        Raises:
            RuntimeError: no event loop runs in this thread.
            RayConnectionError: no session is running.
        """
        from nbray.runtime.awaiting import future_of

        return future_of(self)

    if not TYPE_CHECKING:  # a type checker would believe that every attribute exists

        def __getattr__(self, name: str) -> Any:
            hint = ""
            if name == "add_done_callback":
                hint = "; asyncio.wait() takes futures: give it ref.as_future()"
            raise AttributeError(f"a reference (ObjectID) has no attribute {name!r}{hint}")

    # --- as a value --------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return type(other) is ObjectRef and other._entry.object_id == self._entry.object_id

    def __hash__(self) -> int:
        return hash(self._entry.object_id)

    def __repr__(self) -> str:
        return f"ObjectID({self._id.hex()})"

    def __copy__(self) -> ObjectRef:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef:
        if self._home is NOWHERE:
            return ObjectRef(self._id)
        if ObjectRef.adopt is None:
            raise RayConnectionError()
        return ObjectRef.adopt(self._id, self._owner, False)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._home is NOWHERE:
            return ObjectRef, (self._id,)
        if ObjectRef.export is None:
            raise RayConnectionError()
        return rebuild_by_hand, ObjectRef.export(self)


def serve_references(
    adopt: Callable[[bytes, bytes, bool], ObjectRef] | None,
    export: Callable[[ObjectRef], tuple[bytes, bytes]] | None,
    claim: Callable[[ObjectRef], bool] | None,
) -> None:
    """The session that looks after references from now on; None when there is none any more."""
    ObjectRef.adopt = adopt
    ObjectRef.export = export
    ObjectRef.claim = claim


#: (entry, home) -> a handle that the entry counts already.
make_ref: Callable[[Entry, Home], ObjectRef] = ObjectRef  # type: ignore[assignment]  # two ways to call it


def pairs_of(refs: Iterable[ObjectRef]) -> list[Pair]:
    """What these name, each once, with its owner; those that name nothing are left out."""
    return list({ref._id: (ref._id, ref._owner) for ref in refs if ref._home is not NOWHERE}.values())


def rebuild(object_id: bytes, owner: bytes) -> ObjectRef:
    """What a pickled reference becomes where it is loaded.

    A process without a session, such as a child of ``multiprocessing``, gets the name alone. Who passes it on
    need not use it, and an error in here would leave a pool waiting for a worker that died of it.
    """
    if ObjectRef.adopt is None:
        return ObjectRef(object_id)
    return ObjectRef.adopt(object_id, owner, False)


def rebuild_by_hand(object_id: bytes, owner: bytes) -> ObjectRef:
    """The same, of a reference that a user pickled: no value that it is in holds its object."""
    if ObjectRef.adopt is None:
        return ObjectRef(object_id)
    return ObjectRef.adopt(object_id, owner, True)
