"""The spill file: no name, whole pages, and disk space that returns."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.store.spill_file import SpillFile

PAGE = 4096
MIB = 1024 * 1024


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpillFile]:
    file = SpillFile(tmp_path / "spill", None)
    yield file
    file.close()


def disk_bytes(file: SpillFile) -> int:
    return os.fstat(file.open().fd).st_blocks * 512


def test_nothing_is_there_before_it_is_needed(file: SpillFile) -> None:
    assert not file.directory.exists()
    assert file.path == ""

    file.open()

    assert list(file.directory.iterdir()) == []
    assert file.directory.stat().st_mode & 0o777 == 0o700


def test_other_processes_of_this_user_reach_it(file: SpillFile) -> None:
    os.pwrite(file.open().fd, b"hello", 0)

    code = f"import sys; sys.stdout.write(open({file.path!r}).read())"
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=20)

    assert read.stdout == b"hello"


def test_space_is_handed_out_in_whole_pages_and_used_again(file: SpillFile) -> None:
    first, second = file.allocate(1), file.allocate(PAGE + 1)
    assert first is not None
    assert second is not None

    assert (first.offset, first.size_bytes, second.offset, second.size_bytes) == (0, PAGE, PAGE, 2 * PAGE)
    file.free([first])
    again = file.allocate(PAGE)

    assert again is not None
    assert again.offset == 0
    assert again.generation != first.generation
    assert file.used_bytes == 3 * PAGE


def test_the_disk_gets_its_space_back_object_by_object(file: SpillFile) -> None:
    fd = file.open()
    one, two = file.allocate(MIB), file.allocate(MIB)
    assert one is not None
    assert two is not None
    file.back(fd, [one, two])
    assert disk_bytes(file) == 2 * MIB

    file.punch(fd, [one])
    file.free([one])
    assert disk_bytes(file) == MIB

    file.punch(fd, [two])
    file.free([two])
    assert disk_bytes(file) == os.fstat(fd.fd).st_size == file.used_bytes == 0


def test_it_takes_no_more_than_its_limit(tmp_path: Path) -> None:
    file = SpillFile(tmp_path, 3 * PAGE)

    assert file.allocate(4 * PAGE) is None
    first = file.allocate(2 * PAGE)
    assert first is not None
    assert file.allocate(2 * PAGE) is None
    assert file.allocate(PAGE) is not None
    assert file.used_bytes == 3 * PAGE


def test_where_files_without_a_name_cannot_be_made_the_name_goes_at_once(
    file: SpillFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        assert flags & os.O_EXCL
        assert flags & os.O_NOFOLLOW
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", without)
    opened = file.open()

    assert list(file.directory.iterdir()) == []
    assert os.fstat(opened.fd).st_nlink == 0
    assert os.fstat(opened.fd).st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        SpillFile(tmp_path / "a" / "b", None).open()


def test_it_is_gone_when_nobody_uses_it_any_more(file: SpillFile) -> None:
    in_a_thread = file.open()
    fd = in_a_thread.fd
    file.close()
    os.pwrite(fd, b"x", 0)

    del in_a_thread

    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
