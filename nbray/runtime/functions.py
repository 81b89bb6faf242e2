"""Code on its way to workers, and back to life there.

Called by:  runtime.submitter (export), worker.executor (load).
Imports:    runtime.serialization; cloudpickle through it.
Never:      sends the same code twice to one worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from nbray.model.ids import function_id
from nbray.model.limits import FUNCTION_WARN_BYTES
from nbray.runtime.serialization import deserialize, serialize
from nbray.wire.messages import DefineFunction


class Exports:
    """The functions that this process has submitted, pickled once each, by their ID."""

    def __init__(self) -> None:
        self.messages: dict[bytes, DefineFunction] = {}

    def export(self, function: Callable[..., Any], name: str) -> tuple[bytes, bool]:
        """Pickle ``function``. Returns its ID and whether it is new to this session.

        Raises:
            SerializationError: it captured something that cannot be pickled; says what.
        """
        pickled = serialize(function, root=name, in_band=True).to_bytes()
        if len(pickled) > FUNCTION_WARN_BYTES:
            warnings.warn(
                f"The code of {name} is {len(pickled) / 1e6:.0f} MB when pickled: it has captured data. "
                "Put the data with nbray.put() and pass the reference as an argument.",
                stacklevel=4,
            )
        key = function_id(pickled)
        fresh = key not in self.messages
        if fresh:
            self.messages[key] = DefineFunction(key, name, pickled)
        return key, fresh


class Imports:
    """The functions that this worker was told of; each is unpickled when it is first called."""

    def __init__(self) -> None:
        self._defined: dict[bytes, DefineFunction] = {}
        self._loaded: dict[bytes, Callable[..., Any]] = {}

    def define(self, message: DefineFunction) -> None:
        self._defined[message.function_id] = message

    def load(self, key: bytes) -> Callable[..., Any]:
        """The function. Raises whatever its unpickling raises, each time."""
        function = self._loaded.get(key)
        if function is None:
            message = self._defined[key]
            function = self._loaded[key] = deserialize(message.pickled)
        return function
