"""The arena: one sparse memfd per node, and the only code that gives it memory or takes it away.

Called by:  node (creates it, passes its descriptor), store.server (grows and punches it).
Imports:    store.open_file.
Never:      decides which bytes belong to whom (core.allocator does), maps the memory.

A memfd has no name, so nothing can leak, nobody else can open it, and a small /dev/shm does not
limit it. It is sealed against resizing: a process that holds the descriptor and truncates the file
would kill every other process with SIGBUS.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nbray.store.open_file import OpenFile, nameless_file

#: Memory is taken in steps of this size, each after a look at what is left. Half of the smallest
#: reserve of the budget, so that a step under way and small growth beside it stay inside it.
GROWTH_STEP_BYTES = 32 * 1024 * 1024

# From linux/falloc.h; Python offers neither the call nor the flags.
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)


class Arena:
    """Shared memory of ``capacity_bytes``; a page costs nothing until it is backed.

    Safe to use from several threads. Made by :meth:`create`.
    """

    def __init__(self, fd: int, capacity_bytes: int, page_bytes: int = mmap.PAGESIZE) -> None:
        self.fd = fd
        self.capacity_bytes = capacity_bytes
        self.page_bytes = page_bytes
        self._growth = threading.Lock()

    @classmethod
    def create(cls, capacity_bytes: int, *, directory: str = "", huge_pages: bool = False) -> Arena:
        """A new, wholly sparse arena, rounded up to whole pages.

        Args:
            capacity_bytes: its size.
            directory: where it is a file without a name; empty for a memfd. (Such a file cannot be sealed.)
            huge_pages: of the kernel's reserve; a directory must be the mount point of a hugetlbfs then.

        Raises:
            OSError: the kernel refuses one of this size, or of this kind.
        """
        if directory:
            fd = nameless_file(directory)
        else:
            kind = os.MFD_HUGETLB if huge_pages else 0
            fd = os.memfd_create("nbray-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | kind)
        try:
            page_bytes = _huge_page_bytes(fd) if huge_pages else mmap.PAGESIZE
            capacity_bytes = -(-capacity_bytes // page_bytes) * page_bytes
            if huge_pages:
                _check_huge_pages(capacity_bytes, page_bytes)
            os.ftruncate(fd, capacity_bytes)
            if not directory:
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, capacity_bytes, page_bytes)

    def back(self, start: int, end: int) -> None:
        """Give the pages of [start, end) memory, whatever the budget says; see :meth:`grow`.

        Raises:
            OSError: ENOSPC or ENOMEM, nothing is left; EBADF, the arena is closed.
        """
        os.posix_fallocate(self.fd, start, end - start)

    def punch(self, start: int, end: int) -> None:
        """Take the memory of the whole pages in [start, end) away; they read as zeros from now on.

        Raises:
            OSError: EBADF, the arena is closed.
        """
        punch(self.fd, start, end)

    def grow(self, ranges: Iterable[tuple[int, int]], available: Callable[[], int]) -> None:
        """Back all of ``ranges``, or none of them, and look at what is left before each step.

        An oversized request is not refused inside a memory cgroup: it is answered by SIGKILL. So
        the check happens here. Steps of several threads take turns.

        Args:
            ranges: page-aligned, disjoint.
            available: bytes that may still be taken, asked before each step.

        Raises:
            OSError: ENOMEM, the budget does not allow it; else as for :meth:`back`.
        """
        done: list[tuple[int, int]] = []
        try:
            for start, end in _steps(ranges):
                with self._growth:
                    self._step(start, end, available)
                done.append((start, end))
        except BaseException:
            with self._growth:
                if self.fd >= 0:
                    for start, end in done:
                        self.punch(start, end)
            raise

    def again(self) -> OpenFile:
        """The arena for a thread that copies from it, however soon it is closed here."""
        return OpenFile(self.fd)

    def writer(self) -> Callable[[memoryview, int], None]:
        """A function for such a thread that writes bytes to an offset; those pages have memory."""
        if self.page_bytes != mmap.PAGESIZE:  # huge pages can be written to by way of a mapping alone
            mapped = mmap.mmap(self.fd, self.capacity_bytes, mmap.MAP_SHARED, mmap.PROT_WRITE)

            def store(part: memoryview, offset: int) -> None:
                mapped[offset : offset + len(part)] = part

            return store
        file = self.again()

        def write(part: memoryview, offset: int) -> None:
            done = 0
            while done < len(part):
                done += os.pwrite(file.fd, part[done:], offset + done)

        return write

    def _step(self, start: int, end: int, available: Callable[[], int]) -> None:
        left = available()
        if end - start > left:
            raise OSError(errno.ENOMEM, f"{end - start} more bytes are needed and {left} may be taken")
        self.back(start, end)

    def close(self) -> None:
        """Drop the descriptor; the memory lives on while others map it. Waits for a step under way.

        Without that wait the number could be another file's before the step is done with it.
        """
        with self._growth:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)


def free_huge_bytes() -> int:
    """What is left of the huge pages that this machine has reserved, of the usual size."""
    numbers = {name: int(rest.split()[0]) for name, rest in _meminfo() if rest.split()}
    return numbers.get("HugePages_Free", 0) * numbers.get("Hugepagesize", 0) * 1024


def _meminfo() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        yield name, rest


def _huge_page_bytes(fd: int) -> int:
    page_bytes = os.fstat(fd).st_blksize
    if page_bytes <= mmap.PAGESIZE:
        raise OSError(errno.EINVAL, "it is not the mount point of a hugetlbfs, which huge_pages needs")
    return page_bytes


def _check_huge_pages(capacity_bytes: int, page_bytes: int) -> None:
    """Without a reserve the first process that maps it would fail, or die when it writes.

    Raises:
        OSError: ENOMEM.
    """
    free_bytes = free_huge_bytes()
    if capacity_bytes > free_bytes:
        pages = capacity_bytes // page_bytes
        raise OSError(
            errno.ENOMEM,
            f"it needs {pages} huge pages of {page_bytes} bytes, and the machine has "
            f"{free_bytes // page_bytes} free; reserve them (sysctl vm.nr_hugepages={pages}), or leave out "
            "huge_pages",
        )


def punch(fd: int, start: int, end: int) -> None:
    """Take what lies under the whole pages in [start, end) of a file away; they read as zeros from now on.

    Raises:
        OSError: EBADF, it is closed; EOPNOTSUPP, the file system cannot.
    """
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    while _fallocate(fd, mode, start, end - start) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def _steps(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    for start, end in ranges:
        for at in range(start, end, GROWTH_STEP_BYTES):
            yield at, min(at + GROWTH_STEP_BYTES, end)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    return int(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))
