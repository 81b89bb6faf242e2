"""The process pool of the standard library.

Called by:  benchmarks.adapters.load.
Imports:    concurrent.futures, when it is started.
Never:      changes how the pool starts its workers: the default is what people get.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from benchmarks.adapters.base import NESTED, PUT, REFS, Adapter


class Pool(Adapter):
    """Any executor of ``concurrent.futures``' kind."""

    cannot: ClassVar[dict[str, str]] = {
        PUT: "a pool stores no values",
        REFS: "a future cannot be the argument of a task",
        NESTED: "a worker cannot submit to its own pool",
    }

    def __init__(self) -> None:
        self.pool: Any = None

    def stop(self) -> None:
        self.pool.shutdown(wait=True)

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(self.pool.submit, function)

    def get(self, handle: Any) -> Any:
        return handle.result()

    def get_all(self, handles: list[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def settle(self, handles: list[Any]) -> None:
        from concurrent.futures import wait

        wait(handles)

    def one_by_one(self, handles: list[Any]) -> Iterator[Any]:
        from concurrent.futures import as_completed

        return as_completed(handles)


class Futures(Pool):
    """``ProcessPoolExecutor``."""

    title = "concurrent.futures"
    package = ""  # its version is Python's
    module = "concurrent.futures"
    import_line = "from concurrent.futures import ProcessPoolExecutor"

    def start(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(workers)


ADAPTER = Futures
