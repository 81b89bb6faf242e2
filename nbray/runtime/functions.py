"""Code on its way to workers, and back to life there.

Called by:  api.tasks (Definition), runtime.process (Exports), worker.executor (Imports).
Imports:    runtime.{serialization,call_limit,custom_serializers}; cloudpickle through them.
Never:      sends the same code twice to one worker.

A function is pickled at its first call in a session, so that it may use what was defined after it.
What else a worker needs before it runs the function travels around that pickle.
"""

from __future__ import annotations

import pickle
import warnings
import weakref
import zlib
from collections.abc import Callable
from typing import Any

from nbray.model.errors import SerializationError, reason_of
from nbray.model.ids import function_id
from nbray.model.limits import FRAME_MAX_BYTES, FUNCTION_WARN_BYTES
from nbray.runtime import custom_serializers
from nbray.runtime.call_limit import CallLimit
from nbray.runtime.pushed_errors import push
from nbray.runtime.serialization import deserialize, serialize
from nbray.wire.messages import (
    DefineFunction,
    PutFunction,
)

_FUNCTION_MAX_BYTES = FRAME_MAX_BYTES - 4096


class Definition:
    """One decoration of a function. Decorated again, as in a cell that is run again, it is another one.

    Args:
        was_received: it came in a pickle; so it is not a definition that this program made.
    """

    __slots__ = ("__weakref__", "function", "name", "place", "was_received")

    def __init__(self, function: Callable[..., Any], name: str, *, was_received: bool = False) -> None:
        self.function = function
        self.name = name
        self.was_received = was_received
        code = getattr(function, "__code__", None)
        #: Where it stands in the source; definitions of one place are counted. "" is not counted.
        self.place = ""
        if code is not None and not was_received:
            self.place = f"{code.co_filename}:{code.co_firstlineno}:{name}:{zlib.crc32(code.co_code):x}"


class Exports:
    """The functions that this process has submitted in this session, by their ID."""

    def __init__(self) -> None:
        self.messages: dict[bytes, DefineFunction] = {}
        self._pickled: weakref.WeakKeyDictionary[Definition, bytes] = weakref.WeakKeyDictionary()
        #: References that functions captured: workers may load the function for as long as the session lasts.
        self.captured: list[Any] = []

    def export(self, definition: Definition, max_calls: int) -> tuple[bytes, PutFunction | None]:
        """Pickle a function, if it was not yet.

        Returns:
            Its ID, and what the daemon should hear of it.

        Raises:
            SerializationError: it captured something that cannot be pickled, or too much; says what.
        """
        pickled = self._pickled.get(definition)
        place = ""
        if pickled is None:
            pickled = self._pickled[definition] = _pickle(definition, self.captured)
            place = definition.place
        records = custom_serializers.records()
        if max_calls or records:
            pickled = pickle.dumps(_Equipped(pickled, max_calls, records), 5)
        key = function_id(pickled)
        fresh = key not in self.messages
        if fresh:
            self.messages[key] = DefineFunction(key, definition.name, pickled)
        told = PutFunction(key, definition.name, pickled if fresh else b"", place)
        return key, told if fresh or place else None


def _pickle(definition: Definition, captured: list[Any]) -> bytes:
    name = definition.name
    serialized = serialize(definition.function, root=name, in_band=True)
    captured += serialized.refs
    pickled = serialized.to_bytes()
    size_bytes = len(pickled)
    if size_bytes > _FUNCTION_MAX_BYTES:
        raise SerializationError(
            path=f"The code of {name}",
            reason=f"it is {size_bytes / 1e6:.0f} MB with the data that it captured, and at most "
            f"{_FUNCTION_MAX_BYTES / 1e6:.0f} MB can be sent. Put the data with nbray.put() and pass the "
            "reference as an argument",
        )
    if size_bytes > FUNCTION_WARN_BYTES:
        text = (
            f"The code of {name} is {size_bytes / 1e6:.0f} MB when pickled: it has captured data. "
            "Put the data with nbray.put() and pass the reference as an argument."
        )
        push("pickling_large_object", text, told=True)
        warnings.warn(text, stacklevel=6)
    return pickled


class _Equipped:
    """A pickled function with what a worker needs before it runs it."""

    __slots__ = ("_parts",)

    def __init__(self, pickled: bytes, max_calls: int, records: tuple[Any, ...]) -> None:
        self._parts = (pickled, max_calls, records)

    def __reduce__(self) -> tuple[Any, ...]:
        return equip, self._parts


def equip(pickled: bytes, max_calls: int, records: tuple[Any, ...]) -> Callable[..., Any]:
    """The function, in a worker; the serializers that its driver registered are known from here on."""
    for record in records:
        custom_serializers.learn(record)
    function: Callable[..., Any] = deserialize(pickled)
    return CallLimit(function, max_calls) if max_calls else function


class Imports:
    """The functions that this worker was told of; each is unpickled when it is first called."""

    def __init__(self) -> None:
        self._defined: dict[bytes, DefineFunction] = {}
        self._loaded: dict[bytes, Callable[..., Any]] = {}
        self._failed: set[bytes] = set()  # people were told

    def define(self, message: DefineFunction) -> None:
        self._defined[message.function_id] = message

    def load(self, key: bytes, kind: str = "register_remote_function") -> Callable[..., Any]:
        """The function; ``kind``: of what people are told if there is none.

        Raises:
            SerializationError: what it needs cannot be imported here. Each time: it may come yet.
        """
        function = self._loaded.get(key)
        if function is None:
            message = self._defined.get(key)
            if message is None:
                raise self._unknown(key)
            try:
                function = deserialize(message.pickled)
            except Exception as exc:
                reason = exc.reason if isinstance(exc, SerializationError) else reason_of(exc)
                what = "Actor class" if kind == "register_actor" else "Remote function"
                path = f"{what} {message.name} was not imported properly: its code"
                error = SerializationError(path=path, reason=reason, reading=True)
                if key not in self._failed:
                    self._failed.add(key)
                    push(kind, str(error))
                raise error from exc
            self._loaded[key] = function
        return function

    def _unknown(self, key: bytes) -> SerializationError:
        path = f"Remote function {key.hex()[:8]}"
        error = SerializationError(path=path, reason="its code never came to this worker", reading=True)
        push("wait_for_function", str(error))
        return error
