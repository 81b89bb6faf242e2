"""ipyparallel, its load-balanced view.

Called by:  benchmarks.adapters.load.
Imports:    ipyparallel, when it is started.
Never:      leaves its profile in the user's folder ($IPYTHONDIR is set by the runner).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ClassVar

from benchmarks.adapters.base import NESTED, PUT, REFS
from benchmarks.adapters.futures import Pool


class Ipyparallel(Pool):
    """A controller and engines on this machine. Its results are futures, too."""

    title = "ipyparallel"
    package = "ipyparallel"
    module = "ipyparallel"
    import_line = "import ipyparallel"
    cannot: ClassVar[dict[str, str]] = {
        PUT: "values are pushed to engines by name; no handle of one is the argument of a task",
        REFS: "a result cannot be the argument of a task",
        NESTED: "an engine has no client of its own cluster",
    }

    def __init__(self) -> None:
        super().__init__()
        self.cluster: Any = None
        self.client: Any = None
        self.view: Any = None

    def start(self, workers: int) -> None:
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=workers, log_level=logging.ERROR)
        self.client = self.cluster.start_and_connect_sync(activate=False)
        self.view = self.client.load_balanced_view()

    def stop(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(self.view.apply_async, function)

    def get(self, handle: Any) -> Any:
        return handle.get()

    def get_all(self, handles: list[Any]) -> list[Any]:
        return [handle.get() for handle in handles]


ADAPTER = Ipyparallel
