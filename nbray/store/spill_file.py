"""The spill file: one per node, without a name, made when the first object goes to the disk.

Called by:  store.disk_jobs.
Imports:    nbray.core.allocator, nbray.store.{arena,disk_io,open_file}.
Never:      decides who goes there; waits for the disk, but in threads.

Since it has no name, nothing of it can be left behind, however the daemon ends. Processes of this user
reach it by the daemon's descriptor, ``/proc/<pid>/fd/<n>``. Space in it is handed out in whole pages, and
what is freed is punched out, so that the disk space of an object returns with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from nbray.core.allocator import Allocator, Extent
from nbray.store.arena import punch
from nbray.store.disk_io import is_memory, reserve
from nbray.store.open_file import OpenFile, nameless_file

#: Extents begin and end here: readers map them.
_PAGE_BYTES = 4096
#: Where no limit was asked for, the disk is the limit.
_UNLIMITED_BYTES = 1 << 50


class SpillFile:
    """Space on the disk, and the books about it. Methods run on one thread, but for those that say so.

    Args:
        directory: where the file has no name; made when it is needed.
        limit_bytes: it takes no more than that; None for as much as the disk gives.
    """

    def __init__(self, directory: Path, limit_bytes: int | None) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.path = ""
        self.is_memory = False
        self._file: OpenFile | None = None
        self._books = Allocator(max(limit_bytes or _UNLIMITED_BYTES, _PAGE_BYTES), _PAGE_BYTES)

    @property
    def used_bytes(self) -> int:
        return self._books.used_bytes

    def open(self) -> OpenFile:
        """The file, which is made now if it was not. It stays open while anybody has the answer.

        Raises:
            OSError: the directory is missing and cannot be made, or nothing may be written there.
        """
        if self._file is None:
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o700)
            fd = nameless_file(self.directory)
            try:
                self._file = OpenFile(fd)
                self.is_memory = is_memory(fd)
            finally:
                os.close(fd)
            self.path = f"/proc/{os.getpid()}/fd/{self._file.fd}"
        return self._file

    def allocate(self, size_bytes: int) -> Extent | None:
        """Space for an object, or None: the limit is reached. Nothing on the disk changes."""
        pages = -(-max(size_bytes, 1) // _PAGE_BYTES) * _PAGE_BYTES
        extent = self._books.allocate(pages)
        if extent is not None:
            self._books.backing_done(extent)  # in truth a thread will, or it is freed
        return extent

    def back(self, file: OpenFile, extents: Iterable[Extent]) -> None:
        """Have the disk set the space aside; for a thread.

        Raises:
            OSError: ENOSPC, there is not enough. Some of it may be set aside: free them.
        """
        reserve(file.fd, [(extent.offset, extent.end) for extent in extents])

    def punch(self, file: OpenFile, extents: Iterable[Extent]) -> None:
        """Give the disk space of extents back; for a thread. Then ``free`` them."""
        for extent in extents:
            with contextlib.suppress(OSError):  # some file systems cannot: it returns with the file
                punch(file.fd, extent.offset, extent.end)

    def free(self, extents: Iterable[Extent]) -> None:
        """They are nobody's, and there is nothing on the disk."""
        for extent in extents:
            self._books.free(extent)
        self._books.cool(self._books.capacity_bytes)
        if not self._books.used_bytes and self._file is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fd, 0)

    def close(self) -> None:
        """Let go of the file: it is gone when the last thread and the last reader are done with it."""
        self._file = None
