"""A session for tests, and questions about what it holds.

Called by:  integration tests, which make fixtures of ``session``.
Imports:    nbray, tests.support.waiting.
Never:      leaves a session running.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nbray
from nbray.runtime.current import current
from nbray.runtime.process import Process
from tests.support.waiting import until


@contextmanager
def session(**options: Any) -> Iterator[None]:
    """``nbray.init(**options)`` around a test, a module or a block."""
    nbray.init(**options)
    try:
        yield
    finally:
        nbray.shutdown()


def store_figures() -> dict[str, int]:
    """What the node's store holds now: ``objects``, ``used_bytes``, ..."""
    figures: dict[str, int] = nbray.status().to_dict()["store"]
    return figures


def store_is_empty() -> bool:
    """Whether all memory came back."""
    gc.collect()
    figures = store_figures()
    return not figures["objects"] and not figures["used_bytes"]


def await_empty_store() -> None:
    """Everything was let go of: within seconds the store holds nothing."""
    until(store_is_empty, "the store is empty")


def await_forgotten() -> None:
    """This driver holds no open task and no object, but for those whose references it pickled by hand."""

    def held() -> int:
        gc.collect()
        process = this_process()
        with process.loop.lock:
            process.objects.drain()
            entries = process.objects.table.entries.values()
            return len([e for e in entries if not e.exported]) + len(process.submitter.tasks)

    until(lambda: not held(), "the driver has forgotten every object and task")


def this_process() -> Process:
    """The runtime inside this driver, to look at from inside."""
    return current()
