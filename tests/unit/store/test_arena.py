"""The arena takes memory in checked steps, gives it back, and cannot be pulled away from under a reader."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.store import arena as arena_module
from nbray.store.arena import GROWTH_STEP_BYTES, Arena

PAGE = mmap.PAGESIZE
PLENTY = 1 << 40


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(4 * GROWTH_STEP_BYTES)
    yield arena
    arena.close()


def memory_of(arena: Arena) -> int:
    return os.fstat(arena.fd).st_blocks * 512


def test_a_new_arena_costs_nothing(arena: Arena) -> None:
    assert os.fstat(arena.fd).st_size == arena.capacity_bytes
    assert memory_of(arena) == 0


def test_a_capacity_is_rounded_up_to_whole_pages() -> None:
    arena = Arena.create(PAGE + 1)

    assert arena.capacity_bytes == 2 * PAGE

    arena.close()


def test_the_descriptor_is_not_inherited_by_programs_that_are_started(arena: Arena) -> None:
    assert not os.get_inheritable(arena.fd)


def test_nobody_can_resize_it(arena: Arena) -> None:
    for size in (0, 2 * arena.capacity_bytes):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fd, size)


def test_backing_takes_memory_and_punching_gives_it_back(arena: Arena) -> None:
    arena.back(0, 8 * PAGE)
    os.pwrite(arena.fd, b"data", 2 * PAGE)
    assert memory_of(arena) == 8 * PAGE

    arena.punch(PAGE, 4 * PAGE)

    assert memory_of(arena) == 5 * PAGE
    assert os.pread(arena.fd, 4, 2 * PAGE) == bytes(4)
    assert os.fstat(arena.fd).st_size == arena.capacity_bytes


def test_growth_is_checked_before_every_step(arena: Arena) -> None:
    asked: list[int] = []

    def available() -> int:
        asked.append(memory_of(arena))
        return PLENTY

    arena.grow([(0, PAGE), (2 * PAGE, 2 * PAGE + GROWTH_STEP_BYTES + PAGE)], available)

    assert asked == [0, PAGE, PAGE + GROWTH_STEP_BYTES]
    assert memory_of(arena) == GROWTH_STEP_BYTES + 2 * PAGE


def test_growth_that_runs_into_the_budget_leaves_nothing_behind(arena: Arena) -> None:
    arena.back(0, PAGE)
    budget = iter([PLENTY, PAGE])

    with pytest.raises(OSError, match=f"{GROWTH_STEP_BYTES} more bytes are needed and {PAGE} may") as caught:
        arena.grow([(PAGE, PAGE + 2 * GROWTH_STEP_BYTES)], lambda: next(budget))

    assert caught.value.errno == errno.ENOMEM
    assert memory_of(arena) == PAGE


def test_a_closed_arena_refuses_to_grow() -> None:
    arena = Arena.create(PAGE)
    arena.close()
    arena.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        arena.grow([(0, PAGE)], lambda: PLENTY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        arena.punch(0, PAGE)


def test_an_arena_in_a_directory_is_a_file_without_a_name(tmp_path: Path) -> None:
    arena = Arena.create(2 * PAGE, directory=str(tmp_path))

    arena.back(0, PAGE)

    assert list(tmp_path.iterdir()) == []
    assert os.fstat(arena.fd).st_size == 2 * PAGE
    assert os.fstat(arena.fd).st_mode & 0o777 == 0o600
    arena.close()


def test_huge_pages_need_a_reserve_or_a_file_system_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arena_module, "free_huge_bytes", lambda: 0)

    with pytest.raises(OSError, match=r"needs 40 huge pages.*has 0 free.*vm\.nr_hugepages=40"):
        Arena.create(80 * 1024 * 1024, huge_pages=True)
    with pytest.raises(OSError, match="not the mount point of a hugetlbfs"):
        Arena.create(80 * 1024 * 1024, directory=str(tmp_path), huge_pages=True)


def test_a_thread_may_write_to_an_arena_that_is_closed_meanwhile() -> None:
    arena = Arena.create(PAGE)
    copy = arena.again()
    write = arena.writer()
    arena.close()

    write(memoryview(b"late"), 100)

    assert os.pread(copy.fd, 4, 100) == b"late"
