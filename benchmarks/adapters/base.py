"""What a workload may ask of a contender.

Called by:  benchmarks.workloads, benchmarks.tasks.
Imports:    light parts of the standard library only: start-up times are measured with this loaded.
Never:      measures. ``task`` hands out the library's own way to submit, so that a call costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

# What not everybody can do; a workload names what it needs.
PUT = "put"  # store a value once and hand on its handle
REFS = "refs"  # a handle as the argument of a task
NESTED = "nested"  # tasks that start tasks


class Adapter:
    """One contender. A *handle* is whatever it returns for a result that is to come."""

    #: The name of the column.
    title: ClassVar[str]
    #: The package whose version is reported, and the module that is looked for.
    package: ClassVar[str]
    module: ClassVar[str]
    #: What a user types first.
    import_line: ClassVar[str]
    #: Features that are missing, each with the reason that stands in the JSON.
    cannot: ClassVar[dict[str, str]] = {}
    #: Words on the command lines of processes that stay until the driver ends, as multiprocessing's
    #: resource tracker does: nobody waits for them at shutdown.
    stays: ClassVar[tuple[str, ...]] = ()
    #: How long one loop of a workload may take; counts are cut to fit.
    budget_s: ClassVar[float] = 3.0

    @property
    def module_name(self) -> str:
        """By what name ``benchmarks.adapters.load`` finds it."""
        return type(self).__module__.rpartition(".")[2]

    def start(self, workers: int) -> None:
        """Bring up a session with this many workers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it."""
        raise NotImplementedError

    def task(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A callable that starts ``function`` as a task and returns a handle."""
        raise NotImplementedError

    def get(self, handle: Any) -> Any:
        """The value of one handle."""
        raise NotImplementedError

    def get_all(self, handles: list[Any]) -> list[Any]:
        """The values of many."""
        raise NotImplementedError

    def settle(self, handles: list[Any]) -> None:
        """Wait until all are done, without fetching their values."""
        raise NotImplementedError

    def one_by_one(self, handles: list[Any]) -> Iterator[Any]:
        """The handles as they become ready."""
        raise NotImplementedError

    def put(self, value: Any) -> Any:
        """Store a value and return a handle to it."""
        raise NotImplementedError

    def inside(self) -> AbstractContextManager[Adapter]:
        """This contender as it is used within a task, by an adapter that was not started there."""
        raise NotImplementedError

    def share(self, value: Any) -> Any:
        """What a user would pass to many tasks: a handle where there are any, else the value itself."""
        return value if PUT in self.cannot else self.put(value)
