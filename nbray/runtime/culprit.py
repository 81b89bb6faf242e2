"""Which part of a value cannot be pickled.

Called by:  serialization, after pickling failed, and only then.
Imports:    runtime.{guard,pickling}.
Never:      tries without bound: at most ``_MAX_TRIES`` pickles, ``_MAX_DEPTH`` steps down.

The whole failed; the first part of it that fails too is looked into next, until nothing inside is
to blame. Long sequences are halved, not walked. What an object's parts are is read from where its
pickle would take them: ``__dict__``, slots, elements, the variables of a function's closure.
"""

from __future__ import annotations

import builtins
import collections
import functools
import io
import itertools
import pickle
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbray.model.errors import SerializationError, reason_of
from nbray.runtime.guard import TerminatedExit
from nbray.runtime.pickling import ValuePickler, has_set_reducer

_MAX_TRIES = 2_000
_MAX_DEPTH = 30
_HALVE_ABOVE = 16
_KEY_CHARS = 40

#: A part of a value: the path to it, and itself.
Part = tuple[str, Any]


def explain(error: BaseException, roots: Iterable[Part]) -> SerializationError:
    """The error to raise instead of ``error``, which pickling the roots together gave."""
    roots = list(roots)
    # A value that is nested too deeply fails the same way at every depth; its top is the culprit.
    found = None if isinstance(error, RecursionError) else _search(roots)
    path, culprit, reason = found or (roots[0][0], roots[0][1], error)
    return SerializationError(path=path, type_name=_type_name(culprit), reason=reason_of(reason))


def _search(parts: list[Part]) -> tuple[str, Any, BaseException] | None:
    tries = _Tries()
    found: tuple[str, Any, BaseException] | None = None
    seen: set[int] = set()
    for _ in range(_MAX_DEPTH):
        failing = _first_failing(iter(parts), tries)
        if failing is None:
            return found
        path, part = failing[:2]
        if id(part) in seen:
            return found
        seen.add(id(part))
        found = failing
        narrowed = _halve(path, part, tries)
        try:
            parts = [narrowed] if narrowed else list(itertools.islice(_parts(path, part), _MAX_TRIES))
        except Exception:  # noqa: BLE001  (looking into it runs its own code)
            return found
    return found


class _Tries:
    """Pickles parts until the allowance is used up."""

    def __init__(self) -> None:
        self.left = _MAX_TRIES

    def error_of(self, value: Any) -> BaseException | None:
        self.left -= 1
        try:
            pickle.Pickler.dump(ValuePickler(io.BytesIO(), lambda _: None), value)
        except (KeyboardInterrupt, TerminatedExit):
            raise
        except BaseException as exc:  # noqa: BLE001  (so does pickling it)
            return exc
        return None


def _first_failing(parts: Iterator[Part], tries: _Tries) -> tuple[str, Any, BaseException] | None:
    for path, part in parts:
        if tries.left <= 0:
            return None
        error = tries.error_of(part)
        if error is not None:
            return path, part, error
    return None


def _halve(path: str, part: Any, tries: _Tries) -> Part | None:
    """The failing element of a long list or tuple, found by pickling ever smaller slices."""
    if type(part) not in (list, tuple) or len(part) <= _HALVE_ABOVE:
        return None
    low, high = 0, len(part)
    while high - low > 1 and tries.left > 0:
        middle = (low + high) // 2
        if tries.error_of(part[low:middle]) is not None:
            high = middle
        else:
            low = middle
    return f"{path}[{low}]", part[low]


# --- what is inside ----------------------------------------------------------------------------------------


def _parts(path: str, value: Any) -> Iterator[Part]:
    if has_set_reducer(type(value)):  # its parts are not what is pickled
        return
    for kinds, inside in _INSIDE:
        if isinstance(value, kinds):
            yield from inside(path, value)
            break
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        yield from _of_sequence(path, value.tolist())
    if isinstance(value, (type, types.FunctionType, types.ModuleType)):
        return
    yield from _of_object(path, value)


def _of_mapping(path: str, value: Any) -> Iterator[Part]:
    for key, item in dict.items(value):
        yield f"{path}[{_key(key)}]", item
    for key in dict.keys(value):
        yield f"{path}.<key {_key(key)}>", key


def _of_sequence(path: str, value: Any) -> Iterator[Part]:
    names = getattr(value, "_fields", None)
    for n, item in enumerate(value):
        yield (f"{path}.{names[n]}" if names else f"{path}[{n}]"), item


def _of_set(path: str, value: Any) -> Iterator[Part]:
    for item in value:
        yield f"{path}.<item {_type_name(item)}>", item


def _of_partial(path: str, value: Any) -> Iterator[Part]:
    yield f"{path}.func", value.func
    yield f"{path}.args", value.args
    yield f"{path}.keywords", value.keywords


def _of_function(path: str, value: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
        try:
            yield f"{path}.<closure>.{name}", cell.cell_contents
        except ValueError:
            continue
    for name in _global_names(value.__code__):
        if name in value.__globals__ and not hasattr(builtins, name):
            yield f"{path}.<globals>.{name}", value.__globals__[name]
    for n, default in enumerate(value.__defaults__ or ()):
        yield f"{path}.<defaults>[{n}]", default
    for name, default in (value.__kwdefaults__ or {}).items():
        yield f"{path}.<defaults>.{name}", default
    for name, attribute in vars(value).items():
        yield f"{path}.{name}", attribute


def _of_class(path: str, value: type) -> Iterator[Part]:
    for name, attribute in list(vars(value).items()):
        if name not in ("__dict__", "__weakref__") and not name.startswith("_abc_"):
            yield f"{path}.{name}", attribute


def _of_object(path: str, value: Any) -> Iterator[Part]:
    for name, attribute in list(getattr(value, "__dict__", {}).items()):
        yield f"{path}.{name}", attribute
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield f"{path}.{name}", getattr(value, name)
    if isinstance(value, BaseException):
        yield f"{path}.args", value.args
    if isinstance(value, collections.defaultdict):
        yield f"{path}.default_factory", value.default_factory
    yield from _of_class_by_value(path, value)


def _of_class_by_value(path: str, value: Any) -> Iterator[Part]:
    # An instance of a class of __main__ brings its class along, which may be what fails.
    if type(value).__module__ == "__main__" or "<locals>" in type(value).__qualname__:
        yield f"type({path})", type(value)


def _of_method(path: str, value: types.MethodType) -> Iterator[Part]:
    yield f"{path}.__self__", value.__self__
    yield f"{path}.__func__", value.__func__


def _of_property(path: str, value: Any) -> Iterator[Part]:
    for name in ("fget", "fset", "fdel", "__func__"):
        if getattr(value, name, None) is not None:
            yield f"{path}.{name}", getattr(value, name)


_INSIDE: tuple[tuple[Any, Callable[[str, Any], Iterator[Part]]], ...] = (
    (dict, _of_mapping),
    ((list, tuple, collections.deque), _of_sequence),
    ((set, frozenset), _of_set),
    (functools.partial, _of_partial),
    (types.FunctionType, _of_function),
    (types.MethodType, _of_method),
    ((property, classmethod, staticmethod), _of_property),
    (type, _of_class),
)


# --- words --------------------------------------------------------------------------------------------------


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _key(key: Any) -> str:
    if type(key) in (str, int, float, bool, bytes, type(None)):
        text = repr(key)
        return text if len(text) <= _KEY_CHARS else text[:_KEY_CHARS] + "..."
    return f"<{_type_name(key)}>"


def _type_name(value: Any) -> str:
    cls = type(value)
    plain = cls.__module__ in ("builtins", "__main__")
    return cls.__qualname__ if plain else f"{cls.__module__}.{cls.__qualname__}"
