"""Faulting pages of the arena in by the range, which is several times as fast as one by one.

Called by:  runtime.{bulk_copy,slabs,writing}, store.mapping.
Imports:    the standard library.
Never:      decides whether memory may be taken (store.budget says that).

``MADV_POPULATE_WRITE`` (Linux 5.14) maps pages, gives those memory that have none, and reports what goes
wrong as an error, where a write would end in SIGBUS. What it brings stands in ``runtime.writing``.
``mmap.madvise`` cannot be used: it holds the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os

_MADV_POPULATE_WRITE = 23
_PAGE_MASK = mmap.PAGESIZE - 1

_libc = ctypes.CDLL(None, use_errno=True)


def populate(address: int, size_bytes: int) -> None:
    """Give every page that [address, address + size_bytes) touches memory, and map it to be written.

    Raises:
        OSError: ENOMEM or EFAULT, there is no memory; EINVAL, the kernel is too old.
    """
    start = address & ~_PAGE_MASK
    length = address + size_bytes - start
    result = _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_POPULATE_WRITE)
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@functools.cache
def can_populate() -> bool:
    """Whether this kernel can."""
    with mmap.mmap(-1, mmap.PAGESIZE) as probe:
        try:
            populate(address_of(probe), mmap.PAGESIZE)
        except OSError:
            return False
    return True


def address_of(mapping: mmap.mmap) -> int:
    """Where a writable mapping begins in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))
