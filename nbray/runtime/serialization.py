"""Values to bytes and back.

Called by:  runtime (objects, submitter, functions), worker.
Imports:    runtime.{guard,layout,pickling}. NumPy never.
Never:      loses an error: what cannot be pickled is named by its path in the value.

What a value looks like in bytes stands in ``layout``, how its parts are pickled in ``pickling``,
and how an exception travels in ``task_errors``.

Arrays come back as read-only views of the bytes that they were read from. Copies, and so writable,
are only what NumPy or a class keeps inside the pickle: arrays of objects or of texts of any length
(StringDType), and subclasses of ndarray with a pickle protocol of their own.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, Literal

from nbray.model.errors import NbrayError, SerializationError, reason_of
from nbray.model.limits import INLINE_MAX_BYTES
from nbray.runtime.guard import TerminatedExit
from nbray.runtime.layout import (
    BUFFERED,
    ERROR,
    OUTLINE_MAX_BYTES,
    PLAIN,
    Outline,
    Serialized,
    take_apart,
)
from nbray.runtime.pickling import PROTOCOL, ValuePickler, set_reference_hooks

#: (offset, length) of each buffer -> objects over those bytes that hold what keeps them alive.
WrapBuffers = Callable[[list[tuple[int, int]]], list[Any]]

_dumps = pickle.dumps
_loads = pickle.loads

#: Exactly these need neither our pickler nor an error path.
_SCALARS = frozenset({int, float, str, bytes, bool, complex, type(None)})
_FEW = 16  # up to so many elements, looking at each type costs less than making a pickler


def serialize(value: Any, *, root: str = "value", in_band: bool = False) -> Serialized:
    """Pickle ``value`` and keep its large buffers apart, uncopied.

    Args:
        value: anything; references inside are listed in ``refs`` of the answer.
        root: what messages call the value, such as ``result[3]``.
        in_band: copy buffers into the pickle, so that arrays are writable again where they are read.

    Raises:
        SerializationError: names the path to the part that cannot be pickled.
    """
    kind = type(value)
    if kind in _SCALARS or (
        (kind is list or kind is tuple) and len(value) <= _FEW and _SCALARS.issuperset(map(type, value))
    ):
        return Serialized(_dumps(value, PROTOCOL))
    return _pickle(value, ((root, value),), in_band)


def serialize_args(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Serialized:
    """The value ``(args, kwargs)``, for which ``deserialize`` gives that pair again.

    Raises:
        SerializationError: names the argument, and the path in it.
    """
    return _pickle((args, kwargs), (("args", args), ("kwargs", kwargs)), False)


def pack_scalars(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """The same in one piece, if all are numbers and short texts; None otherwise."""
    scalars = _SCALARS
    for value in args:
        if type(value) not in scalars:
            return None
    if kwargs and not scalars.issuperset(map(type, kwargs.values())):
        return None
    data = _dumps((args, kwargs), PROTOCOL)
    return data if len(data) <= INLINE_MAX_BYTES else None


def pack_small(value: Any) -> bytes | None:
    """A value of the commonest kinds as bytes that may ride in a message; None for all others."""
    if type(value) in _SCALARS:
        data = _dumps(value, PROTOCOL)
        if len(data) <= INLINE_MAX_BYTES:
            return data
    return None


def deserialize(data: Any, *, wrap_buffers: WrapBuffers | None = None) -> Any:
    """The value that ``serialize`` was given.

    Args:
        data: bytes, or a read-only view (memoryview or uint8 array) of an object in the store.
        wrap_buffers: called once with the offset and length in ``data`` of all out-of-band buffers; what
            it answers must be read-only and must keep those bytes alive. Default: slices of ``data``.

    Raises:
        SerializationError: a class or module is missing here, its code raised, or ``data`` is damaged.
        NbrayError: what reading a reference inside raised.
    """
    try:
        kind = data[-1]
        if kind == PLAIN:
            return _loads(data)
        if kind != BUFFERED:
            raise ValueError(f"Bytes of kind {kind} are not a value.")
        whole = memoryview(data).toreadonly()
        pickled, extents, _ = take_apart(whole)
        if wrap_buffers is None:
            return _loads(pickled, buffers=[whole[at : at + length] for at, length in extents])
        return _loads(pickled, buffers=wrap_buffers(extents))
    except NbrayError:
        raise
    except Exception as exc:
        raise SerializationError(path="A value", reason=reason_of(exc), reading=True) from exc


def outline_of(data: Any) -> Outline | None:
    """Of a value in one piece; None if it is not worth keeping."""
    if data[-1] != BUFFERED:
        return None
    pickled, extents, _ = take_apart(memoryview(data))
    return Outline(bytes(pickled), extents) if len(pickled) <= OUTLINE_MAX_BYTES else None


def deserialize_outlined(pickled: bytes, buffers: list[Any]) -> Any:
    """``deserialize`` of what an outline has told, with the buffers that it names; raises the same."""
    try:
        return _loads(pickled, buffers=buffers)
    except NbrayError:
        raise
    except Exception as exc:
        raise SerializationError(path="A value", reason=reason_of(exc), reading=True) from exc


def value_kind(data: Any) -> Literal["value", "error"]:
    """What ``data`` holds; an error is read with ``task_errors.deserialize_error``."""
    return "error" if data[-1] == ERROR else "value"


def _pickle(value: Any, roots: tuple[tuple[str, Any], ...], in_band: bool) -> Serialized:
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    try:
        pickler = ValuePickler(file, None if in_band else buffers.append)
        pickle.Pickler.dump(pickler, value)
        raw = [buffer.raw() for buffer in buffers]
    except (KeyboardInterrupt, TerminatedExit, NbrayError):
        raise
    except BaseException as exc:  # also SystemExit: a __reduce__ may not end the user's process
        from nbray.runtime.culprit import explain

        raise explain(exc, roots) from exc
    if not raw:
        return Serialized(file.getvalue(), pickler.refs)
    return Serialized.with_buffers(file.getvalue(), raw, pickler.refs)


__all__ = [
    "Serialized", "WrapBuffers", "deserialize", "deserialize_outlined", "outline_of", "pack_scalars",
    "pack_small", "serialize", "serialize_args", "set_reference_hooks", "value_kind",
]  # fmt: skip
