"""Filling extents that have no memory yet, or none that this process has mapped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nbray.runtime import writing
from nbray.runtime.serialization import deserialize, serialize
from nbray.store.arena import Arena
from nbray.store.mapping import Mapping
from nbray.wire.base import Descriptor

SIZE = 128 * 1024 * 1024


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(SIZE)
    yield arena
    arena.close()


@pytest.fixture
def mapping(arena: Arena) -> Iterator[Mapping]:
    mapping = Mapping(arena.fd, SIZE)
    yield mapping
    mapping.close()


def place(size_bytes: int) -> Descriptor:
    return Descriptor(b"o" * 20, b"n" * 16, 4096, size_bytes, 1)


@pytest.mark.parametrize("elements", [20_000, 700_000, 9_000_000])
@pytest.mark.parametrize("cold", [True, False])
def test_what_was_written_is_read_and_no_memory_beside_it_was_taken(
    arena: Arena, mapping: Mapping, elements: int, cold: bool
) -> None:
    # given a value of several pieces, small and large
    value = {"a": np.arange(elements), "b": np.arange(1000), "c": "text"}
    packed = serialize(value)
    descriptor = place(packed.size_bytes)
    pages = -(-packed.size_bytes // 4096) * 4096
    if not cold:
        arena.back(4096, 4096 + pages)

    # when it is written
    writing.write(mapping, descriptor, pages if cold else 0, packed)

    # then it is there
    read = deserialize(mapping.readable(descriptor))
    assert (read["a"] == value["a"]).all()
    assert (read["b"] == value["b"]).all()
    assert os.fstat(arena.fd).st_blocks * 512 == pages
    assert mapping.is_touched(descriptor.offset, descriptor.size_bytes) is not cold


def test_memory_that_is_not_left_is_an_error_before_it_is_taken(
    arena: Arena, mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poor:
        @staticmethod
        def available() -> int:
            return 10 * 1024 * 1024

    monkeypatch.setattr(writing, "_budget", Poor())
    packed = serialize(np.zeros(100 * 1024 * 1024, np.uint8))

    with pytest.raises(OSError, match="may be taken"):
        writing.write(mapping, place(packed.size_bytes), packed.size_bytes, packed)

    assert os.fstat(arena.fd).st_blocks * 512 <= 4096


def test_an_object_that_lies_on_the_disk_is_written_there(mapping: Mapping, tmp_path: Path) -> None:
    value = {"a": np.arange(9_000_000), "b": np.arange(1000), "c": "text"}
    packed = serialize(value)
    (tmp_path / "file").write_bytes(b"")
    place = Descriptor(b"o" * 20, b"n" * 16, 8192, packed.size_bytes, 1, str(tmp_path / "file"))

    writing.write(mapping, place, 0, packed)

    read = deserialize(mapping.readable(place))
    assert read["c"] == "text"
    assert (read["a"] == value["a"]).all()
    assert (tmp_path / "file").stat().st_size == 8192 + packed.size_bytes
