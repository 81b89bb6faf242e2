"""Filling an extent of the store with a value, whatever its pages are: cold, unmapped or warm.

Called by:  runtime.objects.
Imports:    runtime.serialization, store.{budget,mapping,pages}.
Never:      asks for space, seals, takes the loop's lock.

Measured on 100 MB. Pages without memory: ``pwrite`` 2.7 GB/s, which zeroes nothing first; by page fault
1.3 with one thread and 2.5 with two; ``fallocate`` and copy 1.5; faulting in by the range 1.6 and, with
two threads on idle cores, 3.1, but 1.0 where the second core is busy. Pages with memory that this process
has not mapped: by the range 4.3 and 7.5, by page fault 2.9 and 3.1. Mapped pages: 12 and 19.
"""

from __future__ import annotations

import errno
import os

from nbray.runtime.serialization import Serialized
from nbray.store.budget import MemoryBudget
from nbray.store.mapping import Mapping
from nbray.store.open_file import OpenFile
from nbray.store.pages import can_populate
from nbray.wire.base import Descriptor

#: Between looks at what memory is left. The smallest reserve of the budget is twice this.
STEP_BYTES = 32 * 1024 * 1024

_budget: MemoryBudget | None = None


def write(mapping: Mapping, descriptor: Descriptor, cold_bytes: int, serialized: Serialized) -> None:
    """Fill an extent.

    Args:
        mapping: of the arena.
        descriptor: the extent, in the arena or in the spill file.
        cold_bytes: so much of it has no memory yet. Every page of it has afterwards.
        serialized: what goes in.

    Raises:
        OSError: the machine, or a memory cgroup, has no memory for it; or the disk does not take it.
    """
    if descriptor.path:
        _write_to_disk(descriptor, serialized)
        return
    if cold_bytes:
        _write_to_file(mapping.file, descriptor.offset, serialized)
        return
    touched = mapping.is_touched(descriptor.offset, descriptor.size_bytes)
    with mapping.writable(descriptor) as target:
        serialized.write_into(target, map_in=not touched and can_populate())
    if not touched:
        mapping.touch(descriptor.offset, descriptor.size_bytes)


def _write_to_file(file: OpenFile | None, offset: int, serialized: Serialized) -> None:
    if file is None:
        raise ValueError("The arena is closed.")
    allowed_bytes = 0
    left_bytes = serialized.size_bytes
    for at, piece in serialized.pieces():
        with memoryview(piece) as whole:
            done = 0
            while done < len(whole):
                if not allowed_bytes:
                    allowed_bytes = min(STEP_BYTES, left_bytes)
                    _check_budget(allowed_bytes)
                    left_bytes -= allowed_bytes
                count = os.pwrite(file.fd, whole[done : done + allowed_bytes], offset + at + done)
                done += count
                allowed_bytes -= count


def _write_to_disk(descriptor: Descriptor, serialized: Serialized) -> None:
    """Its space was set aside, and memory that the kernel uses for it is memory that it can take back."""
    fd = os.open(descriptor.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for at, piece in serialized.pieces():
            with memoryview(piece) as whole:
                done = 0
                while done < len(whole):
                    count = os.pwrite(fd, whole[done : done + STEP_BYTES], descriptor.offset + at + done)
                    done += count
    finally:
        os.close(fd)


def _check_budget(size_bytes: int) -> None:
    """The daemon found enough for all of it; but others take memory, too, and SIGKILL answers a limit.

    Raises:
        OSError: ENOMEM.
    """
    global _budget
    if _budget is None:
        _budget = MemoryBudget()
    left = _budget.available()
    if left < size_bytes:
        raise OSError(errno.ENOMEM, f"{size_bytes} more bytes are needed and {left} may be taken")
