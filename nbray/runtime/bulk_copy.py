"""Copying bytes fast, without stopping other threads.

Called by:  layout.
Imports:    threading, ctypes; store.pages, transport.linux; NumPy, when the first large piece comes.
Never:      leaves a thread that still writes, whatever interrupts it.

Assigning to a slice of a memoryview holds the GIL for the whole copy, which stalls the I/O thread;
``memmove`` by ctypes releases it. Two threads together fill warm memory 1.1 to 1.6 times as fast as one,
and memory that must be mapped first almost twice as fast. Starting the second costs 50 us: it pays above
4 MiB, which one thread copies in about 400 us.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

from nbray.store.pages import populate
from nbray.transport.linux import keep_off_this_core

#: From here on two threads copy, and the GIL is released. (To get it back may take 5 ms where another
#: thread computes.)
LARGE_BYTES = 4 * 1024 * 1024
#: Pages are mapped and filled by so much at a time. Smaller pieces are left to page faults.
CHUNK_BYTES = 1024 * 1024


def copy_into(target: memoryview, source: bytes | memoryview, *, map_in: bool = False) -> None:
    """Copy ``source`` to ``target``; both are flat, contiguous and equally long, and do not overlap.

    Args:
        target: writable.
        source: elsewhere.
        map_in: the target's pages have memory, but this process has not mapped them yet.

    Raises:
        OSError: they cannot be mapped.
    """
    size_bytes = len(source)
    if size_bytes < CHUNK_BYTES or (size_bytes < LARGE_BYTES and not map_in):
        target[:] = source
        return
    to, of = _address_of(target), _address_of(source)
    copy: Callable[[int, int, int], Any] = _map_and_move if map_in else ctypes.memmove
    if size_bytes < LARGE_BYTES:
        copy(to, of, size_bytes)
        return
    middle = (size_bytes // 2) & ~0xFFF
    _in_two_threads(copy, (to, of, middle), (to + middle, of + middle, size_bytes - middle))


def _address_of(buffer: bytes | memoryview) -> int:
    """Where the bytes lie; also read-only ones."""
    import numpy as np  # 80 ms when it is first imported: only large pieces pay for it

    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def _map_and_move(to: int, of: int, size_bytes: int) -> None:
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
        if helper.native_id is not None:
            keep_off_this_core(helper.native_id)
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
