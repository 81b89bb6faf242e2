"""Bytes on their way to the disk and back: all of them, unchanged, or an error."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.store import disk_io
from nbray.store.arena import Arena
from nbray.store.disk_io import (
    PIECE_BYTES,
    Piece,
    Pulse,
    checksum_of,
    is_memory,
    read_back,
    reserve,
    write_out,
)

MIB = 1024 * 1024
PAGE = 4096


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(16 * MIB)
    yield arena
    arena.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("size_bytes", [0, 1, 5000, PIECE_BYTES, 3 * PIECE_BYTES + 17])
def test_what_goes_out_comes_back_with_the_same_checksum(arena: Arena, file: int, size_bytes: int) -> None:
    # given an object that begins and ends anywhere
    data = os.urandom(size_bytes)
    os.pwrite(arena.fd, data, 6400)
    pulse = Pulse()

    (checksum,) = write_out(arena.fd, PAGE, file, [Piece(6400, 2 * PAGE, size_bytes)], pulse)

    assert checksum == zlib.crc32(data)
    assert os.pread(file, size_bytes, 2 * PAGE) == data
    assert pulse.done_bytes == size_bytes
    assert checksum_of(file, 2 * PAGE, size_bytes, pulse) == checksum
    assert read_back(file, arena.writer(), Piece(2 * PAGE, 8 * MIB, size_bytes), pulse) == checksum
    assert os.pread(arena.fd, size_bytes, 8 * MIB) == data


def test_several_objects_go_out_together(arena: Arena, file: int) -> None:
    pieces = [Piece(n * 64, n * PAGE, 64) for n in range(5)]
    os.pwrite(arena.fd, bytes(range(5)) * 64, 0)

    checksums = write_out(arena.fd, PAGE, file, pieces, Pulse())

    assert checksums == [zlib.crc32(os.pread(arena.fd, 64, n * 64)) for n in range(5)]
    assert [os.pread(file, 64, n * PAGE) for n in range(5)] == [
        os.pread(arena.fd, 64, n * 64) for n in range(5)
    ]


def test_no_more_than_so_much_waits_for_the_disk(
    arena: Arena, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(disk_io, "BEHIND_BYTES", 2 * PIECE_BYTES)
    monkeypatch.setattr(disk_io, "_sync_range", lambda _fd, at, _size, flags: calls.append((at, flags)))

    write_out(arena.fd, PAGE, file, [Piece(0, 0, 4 * PIECE_BYTES)], Pulse())

    waited_for = [at for at, flags in calls if flags != 2]
    assert waited_for == [0, PIECE_BYTES]


def test_a_thread_that_is_not_wanted_any_more_ends_soon(arena: Arena, file: int) -> None:
    pulse = Pulse()
    pulse.stop = True

    with pytest.raises(OSError, match="the session ends"):
        write_out(arena.fd, PAGE, file, [Piece(0, 0, 8 * MIB)], pulse)

    assert pulse.done_bytes == PIECE_BYTES


def test_a_file_that_is_too_short_is_an_error_of_the_disk(arena: Arena, file: int) -> None:
    with pytest.raises(OSError, match="ends too early") as caught:
        checksum_of(file, 0, 100, Pulse())

    assert caught.value.errno == errno.EIO


def test_what_the_disk_says_late_is_not_lost(
    arena: Arena, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)

    with pytest.raises(OSError, match="Input/output error"):
        write_out(arena.fd, PAGE, file, [Piece(0, 0, 100)], Pulse())


def test_space_is_set_aside_before_anything_is_written(file: int) -> None:
    reserve(file, [(0, MIB), (3 * MIB, 4 * MIB)])

    assert os.fstat(file).st_blocks * 512 >= 2 * MIB
    assert os.fstat(file).st_size == 4 * MIB


@pytest.mark.parametrize(("left", "is_enough"), [(21, True), (20, True), (19, False)])
def test_some_of_the_disk_is_left_to_others(
    file: int, monkeypatch: pytest.MonkeyPatch, left: int, is_enough: bool
) -> None:
    class Disk:
        f_frsize = 100 * PAGE
        f_blocks = 1000
        f_bavail = left

    monkeypatch.setattr(os, "fstatvfs", lambda _fd: Disk)

    if is_enough:
        reserve(file, [])
    else:
        with pytest.raises(OSError, match="No space left"):
            reserve(file, [])


def test_a_disk_that_is_memory_is_known(file: int) -> None:
    fd = os.memfd_create("test")
    try:
        assert is_memory(fd)
    finally:
        os.close(fd)
