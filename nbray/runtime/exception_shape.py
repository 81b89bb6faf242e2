"""What an exception is made of, and how to make it again without running its constructor.

Called by:  pickling (exceptions inside values), task_errors (causes, dual classes).
Imports:    the standard library.
Never:      calls ``__init__`` or ``__new__`` of a class that a user wrote.

``BaseException.__reduce__`` calls the class with ``args`` again. Where a constructor takes other
arguments than it passes to ``super().__init__``, that fails, or succeeds with a wrong text. So an
exception is taken apart: its class, ``args``, the members that C code or ``__slots__`` keep, and
its ``__dict__``. Classes that define a pickle protocol of their own keep it.
"""

from __future__ import annotations

import builtins
import contextlib
import types
from typing import Any, TypeVar

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: the class was made by a class statement
_PROTOCOL = (
    "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__",
)  # fmt: skip

#: Members that the constructor sets for good, or that drag in what the exception is only about.
_GROUP = vars(builtins).get("BaseExceptionGroup")  # from Python 3.11
_LEFT_OUT = {(AttributeError, "obj"), (_GROUP, "message"), (_GROUP, "exceptions")}

# Through the descriptors: a class may hide ``args`` or forbid to set attributes.
_ARGS: Any = vars(BaseException)["args"]
_DICT: Any = vars(BaseException)["__dict__"]

E = TypeVar("E", bound=BaseException)
Shape = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]


def take_apart(exc: BaseException) -> Shape:
    """``(args, members, __dict__)`` of an exception; members whose value is None are left out."""
    members: dict[str, Any] = {}
    for base in type(exc).__mro__:
        for name, descriptor in vars(base).items():
            if type(descriptor) is not types.MemberDescriptorType or name.startswith("__"):
                continue
            if (base, name) in _LEFT_OUT:
                continue
            try:
                value = descriptor.__get__(exc)
            except AttributeError:  # a slot that was never set
                continue
            if value is not None:
                members.setdefault(name, value)
    return _ARGS.__get__(exc), members, dict(_DICT.__get__(exc))


def make_exception(cls: type[E], args: tuple[Any, ...]) -> E:
    """An instance of ``cls`` that only the C base of ``cls`` has initialised.

    Raises:
        TypeError: the C base itself refuses ``args`` (exception groups need a text and a list).
    """
    base = _c_base(cls)
    exc: E = base.__new__(cls, *args)
    with contextlib.suppress(TypeError, ValueError):  # a subclass passed it others; members carry them
        base.__init__(exc, *args)
    _ARGS.__set__(exc, args)
    return exc


def put_members(exc: BaseException, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Second half of the rebuilding: members, then ``__dict__``. Read-only members are skipped."""
    members, attributes = state
    for name, value in members.items():
        descriptor = _member(type(exc), name)
        try:
            if descriptor is not None:
                descriptor.__set__(exc, value)
        except (AttributeError, TypeError):
            continue
    _DICT.__get__(exc).update(attributes)


def reduce_exception(exc: BaseException) -> Any:
    """For a pickler: the shape of an exception, or NotImplemented if its class knows better."""
    if has_own_protocol(type(exc)):
        return NotImplemented
    args, members, attributes = take_apart(exc)
    return make_exception, (type(exc), args), (members, attributes), None, None, put_members


def has_own_protocol(cls: type) -> bool:
    """Whether a class in Python code on the way to ``cls`` defines how it pickles."""
    return any(
        name in vars(base) for base in cls.__mro__ if base.__flags__ & _HEAP_TYPE for name in _PROTOCOL
    )


def _c_base(cls: type[BaseException]) -> Any:
    """The C class whose memory layout ``cls`` has: the only one whose ``__new__`` may make it."""
    base: Any = cls
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__  # not the first base: the one that decides the layout
    return base


def _member(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        descriptor = vars(base).get(name)
        if type(descriptor) is types.MemberDescriptorType:
            return descriptor
    return None
