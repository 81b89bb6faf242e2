"""Copying bytes between the arena and the spill file, for threads.

Called by:  store.{disk_jobs,spill_file}.
Imports:    the standard library; store.arena for what Python does not offer.
Never:      decides what goes where; leaves an error unsaid.

Bytes go to the disk straight from the arena, of which the thread maps what it writes; they come back
through a buffer. Either way in pieces that stay in the cache, so that their checksum costs little beside
the copy. The disk begins to write each piece at once, and no more than ``BEHIND_BYTES`` wait for it: copying
and writing overlap, and what has been done is a measure of what the disk has taken.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

#: Bytes are copied by so much at a time.
PIECE_BYTES = 1024 * 1024
#: So much may wait for the disk before the copy waits, too.
BEHIND_BYTES = 32 * 1024 * 1024
#: So much of a disk is left to others: this, or this share of it where that is less.
RESERVE_BYTES = 1024 * 1024 * 1024
RESERVE_SHARE = 0.02

# From linux/magic.h: tmpfs and ramfs.
_IN_MEMORY = frozenset({0x01021994, 0x858458F6})
# From linux/fs.h.
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
#: A file system without that call writes when it likes; ``fdatasync`` waits for all of it.
_NOT_THERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP})

_libc = ctypes.CDLL(None, use_errno=True)


class Piece(NamedTuple):
    """Bytes of one object: where they are, where they go, how many."""

    source: int
    target: int
    size_bytes: int


class Pulse:
    """Says to others how far a thread has come, and to the thread when it should end."""

    __slots__ = ("done_bytes", "stop")

    def __init__(self) -> None:
        self.done_bytes = 0
        self.stop = False

    def beat(self, size_bytes: int) -> None:
        """So much more is done.

        Raises:
            OSError: ECANCELED, it is not wanted any more.
        """
        self.done_bytes += size_bytes
        if self.stop:
            raise OSError(errno.ECANCELED, "the session ends")


#: Writes a buffer to an offset of the arena.
WriteTo = Callable[[memoryview, int], None]


def reserve(fd: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Have the disk set space aside for these bytes of a file, and leave some of the disk to others.

    Raises:
        OSError: ENOSPC, there is not enough.
    """
    wanted = list(ranges)
    disk = os.fstatvfs(fd)
    left = disk.f_bavail * disk.f_frsize - sum(end - start for start, end in wanted)
    if left < min(RESERVE_BYTES, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for start, end in wanted:
        os.posix_fallocate(fd, start, end - start)


def is_memory(fd: int) -> bool:
    """Whether the "disk" of a file is memory: a tmpfs, as /tmp is on some machines."""
    facts = ctypes.create_string_buffer(256)  # struct statfs: its first field is the type
    if _libc.fstatfs(fd, facts) != 0:
        return False
    return ctypes.c_long.from_buffer(facts).value & 0xFFFFFFFF in _IN_MEMORY


def write_out(source: int, page_bytes: int, target: int, pieces: Iterable[Piece], pulse: Pulse) -> list[int]:
    """Copy objects from the arena to a file, until the disk has them; return their checksums.

    Args:
        source: the arena.
        page_bytes: size of its pages.
        target: the file.
        pieces: what goes where.
        pulse: of this thread.

    Raises:
        OSError: they are not there, and what is there is of no use.
    """
    behind: deque[tuple[int, int]] = deque()
    behind_bytes = 0
    checksums = []
    for piece in pieces:
        checksum = 0
        for at, part in _mapped(source, page_bytes, piece):
            checksum = zlib.crc32(part, checksum)
            _write(target, part, piece.target + at)
            _sync_range(target, piece.target + at, len(part), _WRITE)
            behind.append((piece.target + at, len(part)))
            behind_bytes += len(part)
            while behind_bytes > BEHIND_BYTES:
                start, count = behind.popleft()
                behind_bytes -= count
                _sync_range(target, start, count, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
            pulse.beat(len(part))
        checksums.append(checksum)
    os.fdatasync(target)
    return checksums


def _mapped(source: int, page_bytes: int, piece: Piece) -> Iterator[tuple[int, memoryview]]:
    """The parts of an object in the arena, each with its place in the object."""
    if not piece.size_bytes:
        return
    start = piece.source // page_bytes * page_bytes
    end = -(-(piece.source + piece.size_bytes) // page_bytes) * page_bytes
    with (
        mmap.mmap(source, end - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start) as mapped,
        memoryview(mapped) as whole,
        whole[piece.source - start :][: piece.size_bytes] as data,
    ):
        for at in range(0, piece.size_bytes, PIECE_BYTES):
            with data[at : at + PIECE_BYTES] as part:
                yield at, part


def read_back(source: int, write_to: WriteTo, piece: Piece, pulse: Pulse) -> int:
    """Copy an object from a file to the arena; return the checksum of what was there.

    Raises:
        OSError: it cannot be read.
    """
    checksum = 0
    os.posix_fadvise(source, piece.source, piece.size_bytes, os.POSIX_FADV_WILLNEED)
    with memoryview(bytearray(min(PIECE_BYTES, max(piece.size_bytes, 1)))) as buffer:
        for at in range(0, piece.size_bytes, PIECE_BYTES):
            part = buffer[: min(PIECE_BYTES, piece.size_bytes - at)]
            _read(source, part, piece.source + at)
            checksum = zlib.crc32(part, checksum)
            write_to(part, piece.target + at)
            pulse.beat(len(part))
    return checksum


def checksum_of(source: int, offset: int, size_bytes: int, pulse: Pulse) -> int:
    """The checksum of bytes of a file.

    Raises:
        OSError: they cannot be read.
    """
    return read_back(source, lambda _part, _at: None, Piece(offset, 0, size_bytes), pulse)


def _read(fd: int, part: memoryview, offset: int) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(fd, [part[done:]], offset + done)
        if not count:
            raise OSError(errno.EIO, "the file ends too early")
        done += count


def _write(fd: int, part: memoryview, offset: int) -> None:
    done = 0
    while done < len(part):
        done += os.pwrite(fd, part[done:], offset + done)


def _sync_range(fd: int, offset: int, size_bytes: int, flags: int) -> None:
    result = _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), flags)
    if result != 0 and ctypes.get_errno() not in _NOT_THERE:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
