"""Faulting pages in by the range."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from nbray.store.arena import Arena
from nbray.store.pages import address_of, can_populate, populate

PAGE = mmap.PAGESIZE

needs_kernel = pytest.mark.skipif(not can_populate(), reason="MADV_POPULATE_WRITE needs Linux 5.14")


@needs_kernel
def test_every_page_that_is_touched_gets_memory_and_no_other() -> None:
    arena = Arena.create(10 * PAGE)
    with mmap.mmap(arena.fd, 10 * PAGE) as mapping:
        populate(address_of(mapping) + PAGE + 1, 2 * PAGE)

        assert os.fstat(arena.fd).st_blocks * 512 == 3 * PAGE
    arena.close()


@needs_kernel
def test_what_cannot_be_written_is_an_error() -> None:
    with mmap.mmap(-1, 2 * PAGE) as mapping:
        address = address_of(mapping)

    with pytest.raises(OSError, match="memory") as caught:  # nothing is mapped there any more
        populate(address, PAGE)
    assert caught.value.errno == errno.ENOMEM
