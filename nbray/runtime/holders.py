"""By which names this process holds references, and arrays over the store.

Called by:  runtime.describing, in the thread of whoever asked.
Imports:    runtime.{refs,roots}.
Never:      runs a user's code (no attribute look-up, no iterator, no repr of theirs), locks, or takes longer
            than it was given.

A breadth-first walk from the roots (``runtime.roots``) through containers, functions, exceptions and the
attributes of instances, one instance deep. The garbage collector cannot be asked instead: it does not know
references (``runtime.refs``).

Large containers are walked in pieces, so that a list of a million numbers does not use up the time of what
comes after it.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from nbray.runtime.refs import Home, ObjectRef
from nbray.runtime.roots import (
    MACHINERY,
    OUTPUT,
    TRACEBACK,
    VARIABLE,
    Root,
    args_of,
    frames_of_exception,
    locals_of,
)

#: How long the walk may take.
BUDGET_S = 0.2
#: How many containers deep it goes.
DEPTH = 4
#: So many children of one container are looked at before the next one gets its turn.
_PIECE = 2_000
_KEY_MAX_CHARS = 40
#: So many names of one object are kept.
_NAMES_MAX = 100

#: These hold nothing that is looked for.
_LEAVES = frozenset(
    {
        int, float, complex, bool, str, bytes, bytearray, type(None), range, slice, types.ModuleType,
        types.CodeType, types.BuiltinFunctionType,
    }
)  # fmt: skip
#: Where the classes of handles of actors and of their methods are; one goes by the name of its variable.
_HANDLES = "nbray.api.actor_handles"
_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None)})


class Name(NamedTuple):
    """How somebody holds an object. ``kind`` is one of ``roots``' kinds."""

    kind: str
    text: str


class Names:
    """What the walk found: names by object ID.

    ``handles`` counts the distinct references among them, and ``complete`` says that there was time for all.
    """

    def __init__(self) -> None:
        self.refs: dict[bytes, list[Name]] = {}
        self.arrays: dict[bytes, list[Name]] = {}
        self.handles: dict[bytes, int] = {}
        self.complete = True


class _Path:
    """Where a value was found: put into words only if something is found there."""

    __slots__ = ("kind", "parent", "suffix", "text")

    def __init__(self, kind: str, text: Any, parent: _Path | None, suffix: str) -> None:
        self.kind = kind
        self.text = text  # a function that makes the text, where that takes time
        self.parent = parent
        self.suffix = suffix

    def words(self) -> str:
        parts, path, suffix = list[str](), self, self.suffix
        while True:
            parts.append(path.text if isinstance(path.text, str) else path.text())
            if path.parent is None:
                return "".join(reversed(parts)) + suffix
            path = path.parent


#: What is still to be walked: where it stands, its children, how many containers and instances deep
#: the walk may still go below it.
_Work = tuple[_Path, Iterator[tuple[Any, Any]], int, int]


def names_of(
    roots: Iterable[Root],
    home: Home,
    locate: Callable[[int], bytes | None],
    clock: Callable[[], float],
    budget_s: float = BUDGET_S,
) -> Names:
    """Walk from the roots.

    Args:
        roots: where to begin.
        home: of the session whose references are meant.
        locate: which object lies at an address of memory; None if that is not in the store.
        clock: seconds.
        budget_s: how long it may take.
    """
    walk = _Walk(home, locate)
    deadline_s = clock() + budget_s
    for number, root in enumerate(roots):
        walk.meet(_Path(root.kind, root.text, None, root.suffix), root.value, DEPTH, 1)
        if not number % 256 and clock() > deadline_s:
            walk.names.complete = False
            break
    work = walk.work
    while work:
        if clock() > deadline_s:
            walk.names.complete = False
            break
        walk.go_on(*work.popleft())
    return walk.names


class _Walk:
    def __init__(self, home: Home, locate: Callable[[int], bytes | None]) -> None:
        self.names = Names()
        self.work: deque[_Work] = deque()
        self._home = home
        self._locate = locate
        # By kind: what an output holds a variable may hold, too.
        self._seen: dict[str, set[int]] = {VARIABLE: set(), OUTPUT: set(), TRACEBACK: set()}
        self._counted: set[int] = set()
        numpy = sys.modules.get("numpy")
        self._ndarray: Any = getattr(numpy, "ndarray", None)

    def go_on(self, path: _Path, children: Iterator[tuple[Any, Any]], depth: int, instances: int) -> None:
        """Look at the next children of a container."""
        meet, number = self.meet, 0
        try:
            for text, child in islice(children, _PIECE):
                number += 1
                if type(child) not in _LEAVES:
                    meet(_Path(path.kind, text, path, path.suffix), child, depth, instances)
        except RuntimeError:  # another thread changed it while we looked
            self.names.complete = False
            return
        if number == _PIECE:
            self.work.append((path, children, depth, instances))

    def meet(self, path: _Path, value: Any, depth: int, instances: int) -> None:
        """A value stands there: note it, or plan to look into it."""
        kind = type(value)
        if kind in _LEAVES:
            return
        if kind is ObjectRef:
            self._note_reference(path, value)
            return
        if self._ndarray is not None and issubclass(kind, self._ndarray):
            self._note_array(path, value)
        if depth <= 0:
            return
        seen = self._seen[path.kind]
        if id(value) in seen:
            return
        children, is_instance = _children_of(kind, value)
        if children is None or (is_instance and not instances):
            return
        seen.add(id(value))
        self.work.append((path, children, depth - 1, instances - is_instance))

    def _note_reference(self, path: _Path, ref: ObjectRef) -> None:
        if ref._home is not self._home:
            return
        object_id = ref._id
        _add(self.names.refs, object_id, path)
        if id(ref) not in self._counted:
            self._counted.add(id(ref))
            self.names.handles[object_id] = self.names.handles.get(object_id, 0) + 1

    def _note_array(self, path: _Path, array: Any) -> None:
        interface = self._ndarray.__array_interface__.__get__(array)  # not a subclass' own
        object_id = self._locate(interface["data"][0])
        if object_id is not None and self._ndarray.size.__get__(array):
            _add(self.names.arrays, object_id, path)


def _add(names: dict[bytes, list[Name]], object_id: bytes, path: _Path) -> None:
    known = names.setdefault(object_id, [])
    if len(known) < _NAMES_MAX:
        name = Name(path.kind, path.words())
        if name not in known:
            known.append(name)


# --- what values hold ------------------------------------------------------------------------------------

_Children = Iterator[tuple[Any, Any]]


def _children_of(kind: type, value: Any) -> tuple[_Children | None, bool]:
    """What a value holds, each with the text by which it is reached, and whether the value is an instance."""
    if issubclass(kind, dict):
        return _items(value), False
    if issubclass(kind, list):
        return _numbered(list.__iter__(value)), False
    if issubclass(kind, tuple):
        return _numbered(tuple.__iter__(value)), False
    if issubclass(kind, deque):
        return _numbered(deque.__iter__(value)), False
    if issubclass(kind, (set, frozenset)):
        base: Any = set if issubclass(kind, set) else frozenset
        return ((" (in a set)", item) for item in base.__iter__(value)), False
    if kind is types.FunctionType:
        return _in_function(value), False
    if kind is types.MethodType:
        return iter([(".__self__", value.__self__)]), False
    if kind is functools.partial:
        return iter([(".args", value.args), (".keywords", value.keywords)]), False
    if issubclass(kind, BaseException):
        return _in_exception(value), True
    if kind.__name__ == "ndarray" and kind.__module__ == "numpy":
        return (_numbered(iter(value.tolist())) if value.dtype.hasobject and value.ndim else None), False
    if kind.__module__ == _HANDLES and kind.__name__ in ("ActorHandle", "ActorMethod"):
        target = value.__dict__.get("_target")
        return (None if target is None else iter([("", target.ref)])), False
    attributes = _attributes_of(kind, value)
    return (None if attributes is None else _named(attributes)), True


def _numbered(items: Iterable[Any]) -> _Children:
    for number, item in enumerate(items):
        yield functools.partial("[{}]".format, number), item


def _items(value: dict[Any, Any]) -> _Children:
    for key, item in list(dict.items(value)):
        if type(key) not in _SCALARS:
            yield " (a key)", key
        yield functools.partial(_in_brackets, key), item


def _in_brackets(key: Any) -> str:
    words = repr(key) if type(key) in _SCALARS else "..."
    return f"[{words if len(words) <= _KEY_MAX_CHARS else words[: _KEY_MAX_CHARS - 3] + '...'}]"


def _named(attributes: Any) -> _Children:
    for name, item in list(attributes.items()):
        yield f".{name}", item


def _in_function(function: types.FunctionType) -> _Children:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" (closure: {name})", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    if function.__defaults__:
        yield ".__defaults__", function.__defaults__
    if function.__kwdefaults__:
        yield ".__kwdefaults__", function.__kwdefaults__
    wrapped = function.__dict__.get("__wrapped__")
    if wrapped is not None:
        yield "", wrapped


def _in_exception(error: BaseException) -> _Children:
    yield ".args", args_of(error)
    for frame in frames_of_exception(error):
        for name, value in locals_of(frame).items():
            yield f" (its traceback: {name} in {frame.f_code.co_name}())", value


def _attributes_of(kind: type, value: Any) -> Any:
    """The attributes that a value has of its own, looked up past whatever its class makes of them."""
    if issubclass(kind, type):
        own = type.__dict__["__dict__"].__get__(value)
        return own if own.get("__module__") == "__main__" else None
    package = str(kind.__module__).partition(".")[0]
    if package in MACHINERY or (package == "nbray" and kind.__name__ != "RemoteFunction"):
        return None  # a shell's, or ours: what it holds has names of its own
    for base in type.__dict__["__mro__"].__get__(kind):
        slot = type.__dict__["__dict__"].__get__(base).get("__dict__")
        if slot is not None:
            if type(slot) is not types.GetSetDescriptorType:
                return None  # made up by the class
            own = slot.__get__(value)
            return own if type(own) is dict else None
    return None
