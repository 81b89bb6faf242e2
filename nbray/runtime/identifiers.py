"""The ID classes that users see: names of tasks, jobs, workers, nodes, functions, actors.

Called by:  runtime.refs (``ObjectID.task_id()``), api, users.
Imports:    nbray.model.ids for the lengths.
Never:      is used on the path of a task: inside the runtime an ID is plain ``bytes``.

Object IDs are references, which hold their object: see ``runtime.refs``. Random IDs come from the
operating system, so that seeding ``random`` or NumPy repeats none.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

from nbray.model import ids

if TYPE_CHECKING:
    from typing_extensions import Self

_JOB_NUMBERS = 1 << 16


def check_binary(class_name: str, binary: object, size_bytes: int) -> bytes:
    """The bytes of an ID as they were given.

    Raises:
        TypeError: not bytes.
        ValueError: another length.
    """
    if not isinstance(binary, bytes):
        raise TypeError(
            f"{class_name} takes the bytes of an ID, not {type(binary).__name__}; "
            f"from hex digits: {class_name}(bytes.fromhex(text))."
        )
    if len(binary) != size_bytes:
        raise ValueError(
            f"{class_name} needs to have length {size_bytes}, and these are {len(binary)} bytes. "
            "Take them from binary() of such an ID."
        )
    return bytes(binary)


class BaseID:
    """An immutable ID. Equal are those of one class with the same bytes."""

    __slots__ = ("_id",)

    SIZE_BYTES: ClassVar[int] = 20

    def __init__(self, binary: bytes) -> None:
        self._id = check_binary(type(self).__name__, binary, self.SIZE_BYTES)

    @classmethod
    def nil(cls) -> Self:
        """The ID that names nothing."""
        return cls(b"\xff" * cls.SIZE_BYTES)

    @classmethod
    def from_random(cls) -> Self:
        """A new one, different from all others."""
        return cls(os.urandom(cls.SIZE_BYTES))

    @classmethod
    def size(cls) -> int:
        """How many bytes an ID of this class has."""
        return cls.SIZE_BYTES

    def binary(self) -> bytes:
        return self._id

    id = binary

    def hex(self) -> str:
        return self._id.hex()

    def is_nil(self) -> bool:
        return self._id == b"\xff" * self.SIZE_BYTES

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._id == self._id

    def __hash__(self) -> int:
        return hash((type(self), self._id))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._id,)


class UniqueID(BaseID):
    """An ID of no particular kind."""

    __slots__ = ()


class TaskID(BaseID):
    """Names a task: the first bytes of the IDs of its results."""

    __slots__ = ()
    SIZE_BYTES = ids.TASK_ID_BYTES


class JobID(BaseID):
    """Names the work of one driver."""

    __slots__ = ()
    SIZE_BYTES = ids.PROCESS_ID_BYTES

    @classmethod
    def from_int(cls, value: int) -> JobID:
        """The ID of a job that has a number.

        Raises:
            TypeError: not an integer.
            ValueError: not between 0 and 65535.
        """
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"JobID.from_int() takes an integer, not {value!r}.")
        if not 0 <= value < _JOB_NUMBERS:
            raise ValueError(f"The number of a job is between 0 and {_JOB_NUMBERS - 1}, not {value}.")
        return cls(value.to_bytes(cls.SIZE_BYTES, "big"))


class WorkerID(BaseID):
    """Names a process that runs tasks, or a driver."""

    __slots__ = ()
    SIZE_BYTES = ids.PROCESS_ID_BYTES


class ClientID(BaseID):
    """Names a node."""

    __slots__ = ()
    SIZE_BYTES = ids.NODE_ID_BYTES


class FunctionID(BaseID):
    """Names a remote function: the hash of its pickle."""

    __slots__ = ()
    SIZE_BYTES = ids.FUNCTION_ID_BYTES


class ActorID(BaseID):
    """Names an actor by the task that makes it."""

    __slots__ = ()
    SIZE_BYTES = ids.TASK_ID_BYTES


class ActorClassID(BaseID):
    """Names a remote class: the hash of its pickle."""

    __slots__ = ()
    SIZE_BYTES = ids.FUNCTION_ID_BYTES


class ActorCheckpointID(BaseID):
    """Names one saved state of an actor."""

    __slots__ = ()
