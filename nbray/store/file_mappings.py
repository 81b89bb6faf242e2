"""Mappings of the spill file, for objects that are read where they lie.

Called by:  store.mapping.
Imports:    the standard library, nbray.wire.
Never:      keeps a mapping that no view needs.

A large object has a mapping of its own. Small ones that lie near each other share one, since a process may
have some ten thousands of mappings, and of such objects more.
"""

from __future__ import annotations

import mmap
import os
import weakref

from nbray.wire.base import Descriptor

#: From here on an object has a mapping of its own.
LARGE_BYTES = 1024 * 1024
#: Others share that of a piece of the file of this size, unless they lie across its end.
WINDOW_BYTES = 64 * 1024 * 1024

#: Path, first byte, and whether it is a window.
_Key = tuple[str, int, bool]


class FileMappings:
    """All of one process. What it hands out lives as long as somebody refers to it."""

    def __init__(self) -> None:
        self._alive: dict[_Key, weakref.ref[mmap.mmap]] = {}

    def find(self, descriptor: Descriptor) -> tuple[mmap.mmap, int]:
        """A mapping to be read in which an object lies, and where it begins there.

        Raises:
            OSError: the file is gone, or the process has too many mappings.
            ValueError: the file is shorter than that.
        """
        path, offset, end = descriptor.path, descriptor.offset, descriptor.offset + descriptor.size_bytes
        start = offset // WINDOW_BYTES * WINDOW_BYTES
        if descriptor.size_bytes >= LARGE_BYTES or end > start + WINDOW_BYTES:
            return self._mapped((path, offset, False), descriptor.size_bytes, descriptor.size_bytes), 0
        return self._mapped((path, start, True), end - start, WINDOW_BYTES), offset - start

    def _mapped(self, key: _Key, needed_bytes: int, wanted_bytes: int) -> mmap.mmap:
        """The mapping that is alive, if it is long enough: the file may have grown since."""
        reference = self._alive.get(key)
        mapped = reference() if reference is not None else None
        if mapped is None or len(mapped) < needed_bytes:
            mapped = _map(key[0], key[1], needed_bytes, wanted_bytes)
            self._alive = {k: other for k, other in self._alive.items() if other() is not None}
            self._alive[key] = weakref.ref(mapped)
        return mapped


def _map(path: str, start: int, needed_bytes: int, wanted_bytes: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        length = max(needed_bytes, min(wanted_bytes, os.fstat(fd).st_size - start))
        return mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
    finally:
        os.close(fd)
