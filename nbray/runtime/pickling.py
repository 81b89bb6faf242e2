"""The pickler: which part of a value goes by reference, by value, out of band.

Called by:  serialization, culprit, task_errors, functions.
Imports:    cloudpickle. NumPy never: its arrays are met by name.
Never:      changes a class of the process that defined it, whatever comes back from a worker.

C ``pickle`` does the work; ``reducer_override`` sees every object that is not a plain builtin:

* classes for which somebody set a reducer (``set_reducer``);
* functions and classes of ``__main__``, local ones, lambdas -> cloudpickle, by value;
* references (``set_reference_hooks``) -> noted in ``refs``, then reduced by the hook;
* exceptions without a pickle protocol of their own -> ``exception_shape``, without constructors;
* arrays that NumPy alone would copy into the stream -> out of band, so that they too come back
  read-only; memoryviews likewise.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _cloud

from nbray.runtime.exception_shape import reduce_exception

PROTOCOL = 5

Reduced = tuple[Any, ...]

_ARRAY_PROTOCOL = ("__reduce__", "__reduce_ex__", "__setstate__")
_MASKED_PROTOCOL = (*_ARRAY_PROTOCOL, "__getstate__")
_RAW_POINTER_KINDS = "mM"  # dtypes that NumPy keeps in band because the buffer protocol lacks them

_reference_type: type | None = None
_reduce_reference: Callable[[Any], Reduced] | None = None

#: Dynamic classes that came to this process in a pickle: only these take their state from one.
_received: weakref.WeakSet[type] = weakref.WeakSet()


def set_reference_hooks(ref_type: type, reduce: Callable[[Any], Reduced]) -> None:
    """Say how instances of exactly ``ref_type`` are reduced; each is also appended to ``refs``."""
    global _reference_type, _reduce_reference
    _reference_type, _reduce_reference = ref_type, reduce


def set_reducer(kind: type, reduce: Callable[[Any], Reduced] | None) -> None:
    """Reduce instances of exactly ``kind`` so, whatever else knows that class; None: as by default."""
    default = _DEFAULT_REDUCERS.get(kind) if reduce is None else reduce
    if default is None:
        _REDUCERS.pop(kind, None)
    else:
        _REDUCERS[kind] = default


def has_set_reducer(kind: type) -> bool:
    """Whether somebody said how instances of exactly ``kind`` are reduced."""
    return _REDUCERS.get(kind) is not _DEFAULT_REDUCERS.get(kind)


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is not typed
    """One value to one stream. Make a new one for every value: the memo belongs to it.

    ``refs`` lists the references that were met, in order. Buffers go to ``buffer_callback``.
    """

    # The live table, not cloudpickle's ChainMap: that costs 1 us per object, and reducer_override
    # has asked cloudpickle's own table before.
    dispatch_table = copyreg.dispatch_table

    def __init__(
        self, file: io.BytesIO, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None
    ) -> None:
        pickle.Pickler.__init__(self, file, PROTOCOL, buffer_callback=buffer_callback)
        self.refs: list[Any] = []
        self.globals_ref: dict[int, dict[str, Any]] = {}
        self.proto = PROTOCOL

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is _reference_type:
            self.refs.append(obj)
            return _reduce_reference(obj)  # type: ignore[misc]  # set together with the type
        reducer = _REDUCERS.get(kind)
        if reducer is not None:
            return reducer(obj)
        if kind is types.FunctionType:
            return NotImplemented if _is_importable(obj) else self._function_reduce(obj)
        if issubclass(kind, type):
            return NotImplemented if _is_importable(obj) else _reduce_class(obj)
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            return _reduce_numpy(obj)
        numpy = sys.modules.get("numpy")
        if numpy is not None and issubclass(kind, numpy.ndarray):
            return _reduce_array_subclass(obj, kind, numpy.ndarray)
        if issubclass(kind, BaseException) and kind not in copyreg.dispatch_table:
            return reduce_exception(obj)
        return NotImplemented


def dumps(value: Any, refs: list[Any]) -> bytes:
    """``value`` in one stream, buffers included; its references are appended to ``refs``.

    Raises whatever pickling it raises.
    """
    file = io.BytesIO()
    pickler = ValuePickler(file)
    pickle.Pickler.dump(pickler, value)
    refs.extend(pickler.refs)
    return file.getvalue()


def _is_importable(definition: Any) -> bool:
    """The quick yes for what most values name. cloudpickle decides the rest, at 3 us each."""
    name = definition.__module__
    if name == "__main__" or _cloud._PICKLE_BY_VALUE_MODULES:
        return False
    module = sys.modules.get(name)
    return module is not None and vars(module).get(definition.__qualname__) is definition


# --- classes ---------------------------------------------------------------------------------------------


def _reduce_class(cls: type) -> Any:
    reduced = _cloud._class_reduce(cls)
    if reduced is NotImplemented or reduced[-1] is not _cloud._class_setstate:
        return reduced
    make, args, state = reduced[:3]
    slots = vars(cls).get("__slots__")
    if isinstance(slots, (str, tuple, list, dict)) and _may_be_made_with_slots(make, cls):
        # cloudpickle only sets the attribute, later. A class that was made without its slots gives its
        # instances a __dict__, and pickles of those do not fit the class that has them.
        args = (*args[:3], {**args[3], "__slots__": slots}, *args[4:])
    return _receive_class, (make, *args), state, None, None, _set_class_state


def _may_be_made_with_slots(make: Callable[..., type], cls: type) -> bool:
    # Enums have a maker of their own. A tuple's slots are always none, and NamedTuple adds them itself.
    return make is _cloud._make_skeleton_class and not issubclass(cls, tuple)


def _receive_class(make: Callable[..., type], *args: Any) -> type:
    """Rebuild a class, or find the one that this process already has under its tracker ID."""
    # Not made again to find out: that would run metaclasses and __init_subclass__, which keep registries.
    known: type | None = _cloud._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is not None:
        return known
    cls = make(*args)
    _received.add(cls)
    return cls


def _set_class_state(cls: type, state: Any) -> None:
    # cloudpickle would write a worker's copies of methods and attributes into the driver's own
    # class: methods would lose their module's globals, and later changes would be undone.
    if cls in _received:
        _cloud._class_setstate(cls, state)


# --- code ------------------------------------------------------------------------------------------------


def _reduce_code(code: types.CodeType) -> Any:
    """As cloudpickle does it, with the file's name: without it no traceback shows a line; some drop it."""
    make, args = _cloud._code_reduce(code)
    return make, tuple(code.co_filename if arg == _NO_FILE else arg for arg in args)


_NO_FILE = "<dynamic-code>"

# --- what the standard library builds of functions ---------------------------------------------------------


def _reduce_cached(cached: Any) -> Any:
    """What ``functools.lru_cache`` made, by value where its function goes so: pickle would name it."""
    found = _cloud._lookup_module_and_qualname(cached)
    if found is not None and not _cloud._is_registered_pickle_by_value(found[0]):
        return NotImplemented
    parameters = cached.cache_parameters()
    return _make_cached, (cached.__wrapped__, parameters["maxsize"], parameters["typed"])


def _make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_cached_property(cached: functools.cached_property[Any]) -> Any:
    """Before Python 3.12 they have a lock."""
    return functools.cached_property, (cached.func,), {"attrname": cached.attrname, "__doc__": cached.__doc__}


def _reduce_weak_keys(weak: weakref.WeakKeyDictionary[Any, Any]) -> Any:
    """With what is in it now. Functions by ``functools.singledispatch`` have one."""
    return weakref.WeakKeyDictionary, (), None, None, iter(weak.items())


# --- buffers ----------------------------------------------------------------------------------------------


def _reduce_numpy(array: Any) -> Any:
    dtype = array.dtype
    if dtype.kind in _RAW_POINTER_KINDS:
        return _view_as, (array.view(f"i{dtype.itemsize}"), dtype)
    if dtype.hasobject or dtype.itemsize == 0:
        return NotImplemented
    if dtype.fields is not None and _has_raw_pointers(dtype):
        return _view_as, (array.view(f"V{dtype.itemsize}"), dtype)
    reduced = array.__reduce_ex__(PROTOCOL)
    if reduced[0].__name__ == "_reconstruct":  # neither C- nor Fortran-like: it copied into bytes
        reduced = array.copy("C").__reduce_ex__(PROTOCOL)
    return reduced


def _has_raw_pointers(dtype: Any) -> bool:
    """Whether dates or times are among its fields, at any depth."""
    dtype = dtype.base
    if dtype.fields is None:
        return dtype.kind in _RAW_POINTER_KINDS
    return any(_has_raw_pointers(field[0]) for field in dtype.fields.values())


def _reduce_array_subclass(array: Any, kind: type, plain: Any) -> Any:
    """A view of a plain array, unless the class has a way of its own to be pickled."""
    if array.dtype.hasobject:
        return NotImplemented
    if _shares(kind, plain, _ARRAY_PROTOCOL):
        return _view_as_class, (plain.view(array, plain), kind)
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    if masked is not None and issubclass(kind, masked) and _shares(kind, masked, _MASKED_PROTOCOL):
        return _reduce_masked(array, kind, plain)
    return NotImplemented


def _shares(kind: type, base: type, protocol: tuple[str, ...]) -> bool:
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in protocol)


def _view_as_class(array: Any, kind: type) -> Any:
    return type(array).view(array, kind)


def _reduce_masked(array: Any, kind: type, plain: Any) -> Any:
    """Two arrays. NumPy's own way copies both into the pickle, and a mask that is none becomes one."""
    mask, fill = array._mask, array._fill_value
    if isinstance(mask, plain):
        mask = plain.view(mask, plain)
    return _mask_array, (plain.view(array, plain), mask, kind, array._baseclass, fill, array._hardmask)


def _mask_array(data: Any, mask: Any, kind: type, base: type, fill: Any, is_hard: bool) -> Any:
    array = type(data).view(data, kind)
    array._mask = mask
    array._baseclass = base
    array._fill_value = None if fill is None else fill.copy()  # it is set in place, and so was read-only
    array._hardmask = is_hard
    array._sharedmask = False
    return array


def _view_as(array: Any, dtype: Any) -> Any:
    return array.view(dtype)


def _reduce_memoryview(view: memoryview) -> Any:
    if not view.c_contiguous:
        view = memoryview(view.tobytes()).cast("B").cast(view.format, view.shape)  # type: ignore[call-overload]
    return _make_memoryview, (pickle.PickleBuffer(view), view.format, view.shape)


def _make_memoryview(buffer: Any, layout: str, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    return flat if layout == "B" and len(shape) == 1 else flat.cast(layout, shape)  # type: ignore[call-overload]


_DEFAULT_REDUCERS: dict[type, Callable[[Any], Any]] = {
    **_cloud.Pickler._dispatch_table,
    memoryview: _reduce_memoryview,
    types.CodeType: _reduce_code,
    type(functools.lru_cache(len)): _reduce_cached,
    functools.cached_property: _reduce_cached_property,
    weakref.WeakKeyDictionary: _reduce_weak_keys,
}
_REDUCERS = dict(_DEFAULT_REDUCERS)

__all__ = ["PROTOCOL", "ValuePickler", "dumps", "has_set_reducer", "set_reducer", "set_reference_hooks"]
