"""Dask, its distributed scheduler.

Called by:  benchmarks.adapters.load.
Imports:    distributed, when it is started.
Never:      starts the dashboard; lets equal calls share one result.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.adapters.base import Adapter


class Dask(Adapter):
    """A local cluster of processes with one thread each."""

    title = "Dask"
    package = "distributed"
    module = "distributed"
    import_line = "import distributed"
    stays = ("resource_tracker",)

    def __init__(self) -> None:
        self.cluster: Any = None
        self.client: Any = None

    def start(self, workers: int) -> None:
        from distributed import Client, LocalCluster

        self.cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True,
            dashboard_address=None, silence_logs=logging.CRITICAL,
        )  # fmt: skip
        self.client = Client(self.cluster)

    def stop(self) -> None:
        self.client.close()
        self.cluster.close()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(self.client.submit, function, pure=False)

    def get(self, handle: Any) -> Any:
        return handle.result()

    def get_all(self, handles: list[Any]) -> list[Any]:
        values: list[Any] = self.client.gather(handles)
        return values

    def settle(self, handles: list[Any]) -> None:
        from distributed import wait

        wait(handles)

    def one_by_one(self, handles: list[Any]) -> Iterator[Any]:
        from distributed import as_completed

        return iter(as_completed(handles))

    def put(self, value: Any) -> Any:
        # hash=False: equal values are different objects, as everywhere else.
        return self.client.scatter(value, direct=True, hash=False)

    @contextmanager
    def inside(self) -> Iterator[Adapter]:
        from distributed import worker_client

        with worker_client() as client:
            self.client = client
            yield self


ADAPTER = Dask
