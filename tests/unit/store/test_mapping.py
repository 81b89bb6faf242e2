"""Views of the arena: read-only for good, and alive as long as anything made from them."""

from __future__ import annotations

import gc
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbray.store.arena import Arena
from nbray.store.file_mappings import LARGE_BYTES
from nbray.store.mapping import Mapping
from nbray.wire.base import Descriptor

SIZE = 1024 * 1024


def place(offset: int, size_bytes: int) -> Descriptor:
    return Descriptor(b"o" * 20, b"n" * 16, offset, size_bytes, 1)


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    arena = Arena.create(SIZE)
    arena.back(0, SIZE)
    mapping = Mapping(arena.fd, SIZE)
    arena.close()
    yield mapping
    mapping.close()


def fill(mapping: Mapping, offset: int, data: bytes) -> None:
    with mapping.writable(place(offset, len(data))) as view:
        view[:] = data


def test_what_one_process_writes_another_reads() -> None:
    arena = Arena.create(SIZE)
    writer, reader = Mapping(arena.fd, SIZE), Mapping(arena.fd, SIZE)
    arena.close()

    fill(writer, 4096, b"hello")

    assert bytes(reader.exporter(4096, 5, int)) == b"hello"
    writer.close()
    reader.close()


def test_sealed_bytes_can_be_looked_at_without_a_view_that_holds_a_pin(mapping: Mapping) -> None:
    fill(mapping, 64, b"header")

    with mapping.readable(place(64, 6)) as view:
        assert view.readonly
        assert bytes(view) == b"header"
    assert mapping.views == 0


def test_a_view_ends_where_the_object_ends(mapping: Mapping) -> None:
    fill(mapping, 64, bytes(range(100)))

    array = mapping.exporter(64, 100, int)

    assert array.dtype == np.uint8
    assert array.tolist() == list(range(100))


def test_the_release_is_told_once_when_the_array_goes(mapping: Mapping) -> None:
    released: deque[str] = deque()
    array = mapping.exporter(0, 100, lambda: released.append("gone"))
    assert mapping.views == 1

    del array

    assert list(released) == ["gone"]
    assert mapping.views == 0


def through_pickle(exporter: Any) -> Any:
    """What a reader does: the buffers of a pickle are slices of the exporter."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(np.zeros(8), protocol=5, buffer_callback=buffers.append)
    return pickle.loads(head, buffers=[memoryview(exporter)[:64]])


DERIVED: dict[str, Callable[[Any], Any]] = {
    "slice": lambda a: a[10:20],
    "slice of a slice": lambda a: a[10:90][::2][3:],
    "reshape": lambda a: a.reshape(10, 10),
    "view of another type": lambda a: a[:96].view(np.float64),
    "transposed": lambda a: a.reshape(10, 10).T,
    "frombuffer": lambda a: np.frombuffer(a, dtype=np.int32, count=8, offset=8),
    "frombuffer of a memoryview": lambda a: np.frombuffer(memoryview(a)[8:72], dtype=np.int64),
    "memoryview": memoryview,
    "slice of a memoryview": lambda a: memoryview(a)[5:50].cast("B"),
    "asarray": lambda a: np.asarray(a[1:]),
    "masked": lambda a: np.ma.asarray(a[1:]),
    "iterator": lambda a: iter(a.reshape(10, 10)),
    "pickle buffer": lambda a: pickle.PickleBuffer(a[5:]),
    "array from pickle 5 buffers": through_pickle,
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_what_is_derived_keeps_the_pin(mapping: Mapping, derive: Callable[[Any], Any]) -> None:
    released: deque[str] = deque()
    array = mapping.exporter(64, 100, lambda: released.append("gone"))

    derived = derive(array)
    del array
    gc.collect()
    assert not released

    del derived
    gc.collect()
    assert list(released) == ["gone"]


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_what_is_derived_cannot_be_made_writable(mapping: Mapping, derive: Callable[[Any], Any]) -> None:
    derived = derive(mapping.exporter(64, 100, int))

    if isinstance(derived, np.ndarray):
        assert not derived.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            derived.setflags(write=True)
    elif isinstance(derived, (memoryview, pickle.PickleBuffer)):
        assert memoryview(derived).readonly


def test_each_of_many_views_is_released_by_itself(mapping: Mapping) -> None:
    released: deque[int] = deque()
    arrays = [mapping.exporter(64 * n, 64, lambda n=n: released.append(n)) for n in range(100)]  # type: ignore[misc]

    del arrays[50]
    assert list(released) == [50]
    arrays.clear()

    assert sorted(released) == list(range(100))


def test_an_object_of_no_bytes_has_a_view(mapping: Mapping) -> None:
    released: deque[str] = deque()

    array = mapping.exporter(SIZE, 0, lambda: released.append("gone"))

    assert array.size == 0
    del array
    assert list(released) == ["gone"]
    with mapping.writable(place(SIZE, 0)) as view:
        assert view.nbytes == 0


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1), (SIZE - 4, 5), (0, SIZE + 1)])
def test_nobody_reaches_outside_the_arena(mapping: Mapping, offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="outside the arena"):
        mapping.exporter(offset, length, int)
    with pytest.raises(ValueError, match="outside the arena"):
        mapping.writable(place(offset, length))


def test_closing_with_live_views_leaves_them_readable() -> None:
    arena = Arena.create(SIZE)
    mapping = Mapping(arena.fd, SIZE)
    arena.close()
    fill(mapping, 0, b"still here")
    released: deque[str] = deque()
    array = mapping.exporter(0, 10, lambda: released.append("gone"))[6:]

    mapping.close()
    mapping.close()
    del mapping

    assert bytes(array) == b"here"
    del array
    gc.collect()
    assert list(released) == ["gone"]


def test_a_closed_mapping_gives_no_views() -> None:
    arena = Arena.create(SIZE)
    mapping = Mapping(arena.fd, SIZE)
    arena.close()
    mapping.close()

    with pytest.raises(ValueError, match="closed"):
        mapping.exporter(0, 10, int)
    with pytest.raises(ValueError, match="closed"):
        mapping.writable(place(0, 10))


def test_a_file_that_is_too_small_is_refused() -> None:
    arena = Arena.create(4096)

    with pytest.raises(ValueError, match=r"length|size"):
        Mapping(arena.fd, SIZE)

    arena.close()


def test_the_file_stays_open_for_who_writes_to_it_when_the_mapping_is_closed() -> None:
    arena = Arena.create(SIZE)
    mapping = Mapping(arena.fd, SIZE)
    file = mapping.file
    assert file is not None

    mapping.close()
    assert os.pwrite(file.fd, b"late", 0) == 4
    assert os.pread(arena.fd, 4, 0) == b"late"

    fd = file.fd
    del file
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
    arena.close()


@pytest.fixture
def spilled(tmp_path: Path) -> Descriptor:
    """An object of 10 000 bytes in a file, from the second page on."""
    (tmp_path / "file").write_bytes(bytes(4096) + bytes(range(100)) * 100 + bytes(4096))
    return Descriptor(b"o" * 20, b"n" * 16, 4096, 10_000, 1, str(tmp_path / "file"))


def mappings_of(path: str) -> int:
    return Path("/proc/self/maps").read_text().count(path)


def test_an_object_in_the_spill_file_is_read_through_a_mapping_that_goes_with_its_last_view(
    mapping: Mapping, spilled: Descriptor
) -> None:
    released: deque[int] = deque()

    data = mapping.readable(spilled)
    first = mapping.export(spilled, 0, 100, lambda: released.append(1))
    second = mapping.export(spilled, 200, 50, lambda: released.append(2))[10:20]

    assert bytes(data) == bytes(range(100)) * 100
    assert first.tolist() == list(range(100))
    assert second.tolist() == list(range(10, 20))
    assert mapping.views == 2
    assert mappings_of(spilled.path) == 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        first.setflags(write=True)
    del data, first
    assert mappings_of(spilled.path) == 1
    del second
    assert list(released) == [1, 2]
    assert mappings_of(spilled.path) == 0


def test_the_same_way_leads_to_an_object_in_the_arena(mapping: Mapping) -> None:
    fill(mapping, 100, b"abcdef")

    assert bytes(mapping.export(place(100, 6), 2, 3, int)) == b"cde"


@pytest.mark.parametrize(("at", "length"), [(-1, 5), (9_999, 2), (0, -1)])
def test_bytes_outside_an_object_in_the_spill_file_are_refused(
    mapping: Mapping, spilled: Descriptor, at: int, length: int
) -> None:
    with pytest.raises(ValueError, match="outside an object of 10000 bytes"):
        mapping.export(spilled, at, length, int)


def test_a_spill_file_that_is_gone_is_an_error_of_the_system(mapping: Mapping) -> None:
    with pytest.raises(OSError, match="No such file"):
        mapping.readable(Descriptor(b"o" * 20, b"n" * 16, 0, 10, 1, "/proc/self/fd/99999"))


def test_an_object_of_no_bytes_in_the_spill_file_needs_no_mapping(mapping: Mapping) -> None:
    assert bytes(mapping.readable(Descriptor(b"o" * 20, b"n" * 16, 0, 0, 1, "/nowhere"))) == b""


def test_small_objects_that_lie_near_each_other_share_a_mapping_and_large_ones_do_not(
    mapping: Mapping, tmp_path: Path
) -> None:
    path = str(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes([1]) * 4096 + bytes([2]) * 4096)
    small = [Descriptor(b"o" * 20, b"n" * 16, at, 4096, 1, path) for at in (0, 4096, 8192)]

    first = mapping.export(small[0], 0, 4096, int)
    second = mapping.export(small[1], 0, 4096, int)
    assert mappings_of(path) == 1
    assert [int(first[-1]), int(second[0])] == [1, 2]

    # when the file grows, what is new is found, too
    with open(path, "ab") as file:
        file.write(bytes([3]) * (4096 + 3 * LARGE_BYTES))
    third = mapping.export(small[2], 0, 4096, int)
    large = [Descriptor(b"o" * 20, b"n" * 16, 12288 + n * LARGE_BYTES, LARGE_BYTES, 1, path) for n in (0, 1)]
    views = [mapping.export(place, 0, LARGE_BYTES, int) for place in large]
    assert int(third[0]) == 3
    assert [int(view[-1]) for view in views] == [3, 3]
    assert mappings_of(path) == 4
    assert int(second[0]) == 2
    del first, second, third, views
    assert mappings_of(path) == 0


def test_a_small_object_across_the_end_of_a_window_has_a_mapping_of_its_own(
    mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbray.store.file_mappings.WINDOW_BYTES", 8192)
    path = str(tmp_path / "file")
    (tmp_path / "file").write_bytes(bytes(4096) + bytes([5]) * 8192 + bytes(4096))
    place = Descriptor(b"o" * 20, b"n" * 16, 4096, 8192, 1, path)

    view = mapping.export(place, 0, 8192, int)

    assert view.tolist() == [5] * 8192
    assert bytes(mapping.readable(place)) == bytes([5]) * 8192
