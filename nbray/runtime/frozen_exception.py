"""An exception as plain data that always pickles, and back as far as it goes.

Called by:  task_errors.
Imports:    runtime.pickling, exception_shape, exception_text.
Never:      fails: what does not survive is left out or replaced by a text that says so.

Three attempts, each keeping less: the whole exception; its class with those parts that pickle;
its texts. The sender tries whether its pickle can be read, but the reader may still lack a module,
so every part is read with the next attempt in reserve.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

from nbray.runtime.exception_shape import Shape, make_exception, put_members, take_apart
from nbray.runtime.exception_text import message_of, shortened
from nbray.runtime.pickling import dumps

#: An exception above this size travels in parts, and its longest texts are cut.
_WHOLE_MAX_BYTES = 4 * 1024 * 1024
_PART_MAX_BYTES = 1024 * 1024


class Frozen(NamedTuple):
    """Plain builtins only; ``bytes`` are pickles.

    ``parts`` are those of ``exception_shape.Shape``, each pickled by itself.
    """

    class_name: str
    class_pickle: bytes | None
    whole: bytes | None
    parts: tuple[list[bytes], dict[str, bytes], dict[str, bytes]] | None
    text: str
    notes: list[str]


class FrozenMembers(NamedTuple):
    """In place of a list of exceptions, which a group has among its args."""

    items: list[Frozen]


def freeze(exc: BaseException, refs: list[Any]) -> Frozen:
    """Take everything that can travel; references met on the way are appended to ``refs``."""
    cls = type(exc)
    class_pickle = _attempt(lambda: _readable(cls, refs, lambda read: read is cls))
    whole = _attempt(lambda: _readable(exc, refs, lambda read: type(read) is cls))
    if whole is not None and len(whole) > _WHOLE_MAX_BYTES:
        whole = None
    parts = None
    if class_pickle is not None and whole is None:
        parts = _attempt(lambda: _freeze_parts(exc, refs))
    notes = _attempt(lambda: [shortened(str(note)) for note in getattr(exc, "__notes__", ())])
    return Frozen(cls.__name__, class_pickle, whole, parts, message_of(exc), notes or [])


def thaw_class(frozen: Frozen) -> type[BaseException] | None:
    """The class, or None where it cannot be imported or rebuilt."""
    cls = _read(frozen.class_pickle)
    return cls if isinstance(cls, type) and issubclass(cls, BaseException) else None


def thaw(frozen: Frozen) -> BaseException | None:
    """The exception, whole or in part, or None if not even its class survived."""
    exc = _read(frozen.whole)
    if isinstance(exc, BaseException):
        return exc
    cls = thaw_class(frozen)
    if cls is None:
        return None
    shapes: list[Shape] = [((frozen.text,), {}, {})]
    if frozen.parts is not None:
        shapes.insert(0, _thaw_parts(frozen.parts))
    for shape in shapes:
        try:
            return rebuild(cls, shape)
        except Exception:  # noqa: BLE001, S112  (a C base that wants other args: try the next shape)
            continue
    return None


def rebuild(cls: type[BaseException], shape: Shape) -> BaseException:
    """An instance of ``cls`` with this shape, made without constructors. May raise what C bases raise."""
    args, members, attributes = shape
    exc = make_exception(cls, args)
    put_members(exc, (members, attributes))
    return exc


def _freeze_parts(
    exc: BaseException, refs: list[Any]
) -> tuple[list[bytes], dict[str, bytes], dict[str, bytes]]:
    args, members, attributes = take_apart(exc)
    return (
        [_part(value, refs) or pickle.dumps(_placeholder(value)) for value in args],
        {name: part for name, value in members.items() if (part := _part(value, refs))},
        {name: part for name, value in attributes.items() if (part := _part(value, refs))},
    )


def _thaw_parts(parts: tuple[list[bytes], dict[str, bytes], dict[str, bytes]]) -> Shape:
    args, members, attributes = parts
    return (
        tuple(map(_read, args)),
        {name: _read(part) for name, part in members.items()},
        {name: _read(part) for name, part in attributes.items()},
    )


def _part(value: Any, refs: list[Any]) -> bytes | None:
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, BaseException) for v in value):
        return pickle.dumps(FrozenMembers([freeze(v, refs) for v in value]))
    if type(value) is str and len(value) > _PART_MAX_BYTES:
        value = shortened(value)
    part = _attempt(lambda: _readable(value, refs, lambda read: type(read) is type(value)))
    return part if part is not None and len(part) <= 2 * _PART_MAX_BYTES else None


def _read(pickled: bytes | None) -> Any:
    """What a pickle holds, or None. An interrupt by the user comes through."""
    if pickled is None:
        return None
    try:
        value = pickle.loads(pickled)  # noqa: S301  (it came from a worker of this session)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  (unpickling runs user code)
        return None
    if isinstance(value, FrozenMembers):
        return [exc for exc in map(thaw, value.items) if exc is not None]
    return value


def _placeholder(value: Any) -> str:
    return f"<{type(value).__module__}.{type(value).__qualname__}, which cannot be pickled>"


def _readable(value: Any, refs: list[Any], check: Callable[[Any], bool]) -> bytes | None:
    """The pickle of ``value``, if reading it gives what ``check`` accepts."""
    found: list[Any] = []
    pickled = dumps(value, found)
    if not check(pickle.loads(pickled)):  # noqa: S301  (made in the line above)
        return None
    refs.extend(found)
    return pickled


def _attempt(action: Callable[[], Any]) -> Any:
    """The result, or None if it raised anything: user code runs in here, and may even exit.

    Interrupts too: while a failure is being put into words, there is no task left to interrupt.
    """
    try:
        return action()
    except BaseException:  # noqa: BLE001  (the reason for this function)
        return None
