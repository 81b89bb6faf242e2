"""The classic Ray core API, which two contenders have.

Called by:  benchmarks.adapters.nbray, benchmarks.adapters.ray.
Imports:    benchmarks.adapters.base.
Never:      does anything for the one that it does not do for the other.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from benchmarks.adapters.base import Adapter

# Per process: a task that starts tasks decorates its function once, as a module would.
_remote: dict[tuple[str, Callable[..., Any]], Any] = {}


class Classic(Adapter):
    """``remote``, ``get``, ``put``, ``wait`` of a module."""

    def __init__(self) -> None:
        self.api: Any = None

    def stop(self) -> None:
        self.api.shutdown()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        key = (self.module, function)
        found = _remote.get(key)
        if found is None:
            found = _remote[key] = self.api.remote(function)
        submit: Callable[..., Any] = found.remote
        return submit

    def get(self, handle: Any) -> Any:
        return self.api.get(handle)

    def get_all(self, handles: list[Any]) -> list[Any]:
        values: list[Any] = self.api.get(handles)
        return values

    def settle(self, handles: list[Any]) -> None:
        self.api.wait(handles, num_returns=len(handles))

    def one_by_one(self, handles: list[Any]) -> Iterator[Any]:
        rest = handles
        while rest:
            done, rest = self.api.wait(rest)
            yield from done

    def put(self, value: Any) -> Any:
        return self.api.put(value)

    def inside(self) -> AbstractContextManager[Adapter]:
        self.api = importlib.import_module(self.module)
        return nullcontext(self)
