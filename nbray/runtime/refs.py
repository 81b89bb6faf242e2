"""The reference that users hold: a name for a value that may not exist yet.

Called by:  api, runtime.objects, users.
Imports:    nbray.model.
Never:      locks or sends in ``__del__``, which may run inside any allocation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from nbray.model.errors import RayConnectionError
from nbray.model.ids import OBJECT_ID_BYTES, TASK_ID_BYTES
from nbray.wire.messages import Descriptor

if TYPE_CHECKING:
    from nbray.core.references import Entry


class Home:
    """What a reference knows of its session: where to say that it was dropped.

    ``wake`` may be called from ``__del__``.
    """

    __slots__ = ("dropped", "process_id", "wake")

    def __init__(self, process_id: bytes, wake: Callable[[], None]) -> None:
        self.dropped: deque[bytes] = deque()
        self.process_id = process_id
        self.wake = wake


class ObjectRef:
    """Names one object: the result of a task, or a value that was put.

    Get its value with ``nbray.get``; pass it to a task to hand on the value. Equal references name
    the same object.
    """

    __slots__ = ("__weakref__", "_entry", "_home")

    #: Set by ``runtime.process``: adopts a reference that was unpickled in this process.
    adopt: ClassVar[Callable[[bytes, bytes], ObjectRef] | None] = None
    #: Set by ``runtime.process``: notes that a reference leaves by pickle; returns (id, owner).
    export: ClassVar[Callable[[ObjectRef], tuple[bytes, bytes]] | None] = None

    def __init__(self, entry: Entry, home: Home) -> None:
        self._entry = entry
        self._home = home

    def __del__(self) -> None:
        try:
            entry, home = self._entry, self._home
        except AttributeError:
            return
        home.dropped.append(entry.object_id)
        # Small ones are dealt with on occasion; a large one should give its memory back now.
        if type(entry.value) is Descriptor:
            home.wake()

    @property
    def _id(self) -> bytes:
        return self._entry.object_id

    @property
    def _owner(self) -> bytes:
        """The process that owns it."""
        return self._entry.owner or self._home.process_id

    def binary(self) -> bytes:
        """The 20 bytes of the ID."""
        return self._id

    def hex(self) -> str:
        return self._id.hex()

    def task_id(self) -> bytes:
        """The 16 bytes of the ID of the task that makes (or whose process put) the object."""
        return self._id[:TASK_ID_BYTES]

    def is_nil(self) -> bool:
        return self._id == b"\xff" * OBJECT_ID_BYTES

    def size(self) -> int:
        return OBJECT_ID_BYTES

    def __eq__(self, other: object) -> bool:
        return type(other) is ObjectRef and other._entry.object_id == self._entry.object_id

    def __hash__(self) -> int:
        return hash(self._entry.object_id)

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def __copy__(self) -> ObjectRef:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef:
        if ObjectRef.adopt is None:
            raise RayConnectionError()
        return ObjectRef.adopt(self._id, self._owner)

    def __reduce__(self) -> tuple[Any, ...]:
        if ObjectRef.export is None:
            raise RayConnectionError()
        return rebuild, ObjectRef.export(self)


_new = object.__new__


def make_ref(entry: Entry, home: Home) -> ObjectRef:
    """A handle that the entry counts already; a third faster than a call of the class."""
    ref = _new(ObjectRef)
    ref._entry = entry
    ref._home = home
    return ref


def rebuild(object_id: bytes, owner: bytes) -> ObjectRef:
    """What a pickled reference becomes where it is loaded.

    Raises:
        RayConnectionError: this process has no session.
    """
    if ObjectRef.adopt is None:
        raise RayConnectionError()
    return ObjectRef.adopt(object_id, owner)
