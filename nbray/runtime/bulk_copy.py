"""Copying bytes fast, without stopping other threads.

Called by:  layout.
Imports:    threading, ctypes; store.pages; NumPy, when the first large piece comes.
Never:      leaves a thread that still writes, whatever interrupts it.

Assigning to a slice of a memoryview holds the GIL for the whole copy, which stalls the I/O thread;
``memmove`` by ctypes releases it. Two threads together fill warm memory 1.1 to 1.6 times as fast as one,
and memory that must be faulted in twice as fast. Starting the second costs 50 us: it pays above 4 MiB,
which one thread copies in about 400 us.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from nbray.store.pages import populate

LARGE_BYTES = 4 * 1024 * 1024
#: Pages are faulted in and filled by so much at a time: what was zeroed is still in the cache.
CHUNK_BYTES = 2 * 1024 * 1024
#: Between looks at what memory is left. The smallest reserve of the budget is twice this.
STEP_BYTES = 32 * 1024 * 1024


class Ground:
    """Memory that must be faulted in before it is written. For one writing, from start to end.

    Args:
        address: where it begins.
        before_step: called with a number of bytes before that many are faulted in; raises OSError if
            that may not be. None: the pages have memory, they are only not mapped here.
    """

    def __init__(self, address: int, before_step: Callable[[int], None] | None) -> None:
        self._next = address  # below this all is there
        self._before_step = before_step

    def allow(self, size_bytes: int) -> None:
        """Raises: OSError, there is not that much memory left."""
        if self._before_step is not None:
            self._before_step(size_bytes)

    def reach(self, end: int) -> None:
        """Fault in what lies below ``end``.

        Raises:
            OSError: there is no memory.
        """
        while self._next < end:
            size_bytes = min(end - self._next, STEP_BYTES)
            if (
                size_bytes > CHUNK_BYTES
            ):  # what is less stays inside the budget's reserve; asking takes 0.2 ms
                self.allow(size_bytes)
            populate(self._next, size_bytes)
            self._next += size_bytes

    def reached(self, end: int) -> None:
        """Somebody else faulted in what lies below ``end``."""
        self._next = max(self._next, end)


def copy_into(target: memoryview, source: bytes | memoryview, ground: Ground | None = None) -> None:
    """Copy ``source`` to ``target``; both are flat, contiguous and equally long.

    Args:
        target: writable.
        source: elsewhere: the two do not overlap.
        ground: faults ``target`` in first.

    Raises:
        OSError: ``ground`` found no memory.
    """
    size_bytes = len(source)
    if size_bytes < LARGE_BYTES:
        if ground is not None and size_bytes:
            ground.reach(address_of(target) + size_bytes)
        target[:] = source
        return
    to, of = address_of(target), address_of(source)
    for at in range(0, size_bytes, STEP_BYTES if ground is not None else size_bytes):
        count = min(STEP_BYTES, size_bytes - at) if ground is not None else size_bytes
        if ground is not None:
            ground.allow(count)
        middle = (count // 2) & ~0xFFF
        _in_two_threads(
            _move_by_chunks if ground is not None else ctypes.memmove,
            (to + at, of + at, middle),
            (to + at + middle, of + at + middle, count - middle),
        )
        if ground is not None:
            ground.reached(to + at + count)


def address_of(buffer: bytes | memoryview) -> int:
    """Where the bytes lie; also read-only ones."""
    import numpy as np  # 80 ms when it is first imported: only large pieces pay for it

    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def _move_by_chunks(to: int, of: int, size_bytes: int) -> None:
    for at in range(0, size_bytes, CHUNK_BYTES):
        count = min(CHUNK_BYTES, size_bytes - at)
        populate(to + at, count)
        ctypes.memmove(to + at, of + at, count)


def _in_two_threads(work: Callable[..., Any], first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
    failures: list[BaseException] = []

    def help_out() -> None:
        try:
            work(*second)
        except BaseException as exc:  # noqa: BLE001  (raised again below)
            failures.append(exc)

    helper = threading.Thread(target=help_out, name="nbray-copy", daemon=True)
    helper.start()
    try:
        work(*first)
    finally:
        _join_for_certain(helper)
    if failures:
        raise failures[0]


def _join_for_certain(thread: threading.Thread) -> None:
    """Join; an interrupt is raised again only once the thread has ended."""
    interrupt: BaseException | None = None
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as exc:  # noqa: BLE001  (raised again below)
            interrupt = exc
    if interrupt is not None:
        raise interrupt
