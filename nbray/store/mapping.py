"""The arena as drivers and workers see it: mapped twice, for life, once to write and once to read.

Called by:  runtime, which writes serialized values and builds views over sealed ones.
Imports:    store.{file_mappings,open_file,pages}, nbray.wire; numpy when the first view is made.
Never:      asks for space, pins or unpins: it says when the last view is gone, and that is all.

Twice, because over a writable mapping NumPy lets anybody ``setflags(write=True)`` and then change
an object that others read. For life, because pages reached through a new mapping cost three times
as much as those that this process has touched before.

What lies in the spill file (``Descriptor.path``) is mapped when it is read, for as long as there are views
of it (``file_mappings``).
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbray.store.file_mappings import FileMappings
from nbray.store.open_file import OpenFile
from nbray.store.pages import address_of
from nbray.wire.base import Descriptor

#: What was faulted in is remembered in pieces of this size.
_TOUCH_BYTES = 64 * 1024

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Mapping:
    """Both mappings of an arena of ``capacity_bytes``, whose descriptor may be closed afterwards.

    ``file`` is the arena as a file, for writes that should not go through a mapping; None when closed.

    Raises:
        OSError: the kernel refuses (address space limit, or the descriptor is not the arena's).
        ValueError: the file is smaller than ``capacity_bytes``.
    """

    def __init__(self, fd: int, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.file: OpenFile | None = None
        self._writable = mmap.mmap(fd, capacity_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            self._readable = mmap.mmap(fd, capacity_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
            self.file = OpenFile(fd)
        except BaseException:
            self._writable.close()
            raise
        self._address = address_of(self._writable)
        #: One byte for each piece of ``_TOUCH_BYTES``: whether this process has faulted all of it in.
        self._touched = bytearray(-(-capacity_bytes // _TOUCH_BYTES))
        #: By id: a weak reference to an array cannot be hashed, and a dict with integer keys runs no
        #: Python code when a callback changes it in the middle of another operation.
        self._exported: dict[int, weakref.ref[Any]] = {}
        self._files = FileMappings()
        self._numpy: Any = None

    @property
    def views(self) -> int:
        """How many exported arrays are alive, themselves or in what was derived from them."""
        return len(self._exported)

    def writable(self, descriptor: Descriptor) -> memoryview:
        """The bytes of an object that is being created. Release it before you seal: ``with``.

        Raises:
            ValueError: it lies outside the arena, or the mapping is closed.
        """
        end = self._end(descriptor.offset, descriptor.size_bytes)
        with memoryview(self._writable) as whole:
            return whole[descriptor.offset : end]

    def address(self, offset: int) -> int:
        """Where a byte of the arena lies in the writable mapping."""
        return self._address + offset

    def read_address(self) -> int | None:
        """Where the mapping begins that views are made over; None before the first view, and when closed."""
        if self._numpy is None or self.file is None:
            return None
        first = self._numpy.frombuffer(self._readable, self._numpy.uint8, 1)
        address: int = first.__array_interface__["data"][0]
        return address

    def is_touched(self, offset: int, size_bytes: int) -> bool:
        """Whether this process has faulted these pages in; those at the two ends do not count.

        A guess, on which only speed depends: they may have been given back since.
        """
        return self._touched.find(0, *_pieces(offset, size_bytes)) < 0

    def touch(self, offset: int, size_bytes: int) -> None:
        """This process has faulted these pages in."""
        first, last = _pieces(offset, size_bytes)
        self._touched[first:last] = b"\1" * (last - first)

    def readable(self, descriptor: Descriptor) -> memoryview:
        """The bytes of a sealed object, read-only. It holds no pin: for as long as something else does.

        Raises:
            ValueError: it lies outside the arena, or the mapping is closed.
            OSError: it lies in the spill file, and that is gone.
        """
        if descriptor.path:
            if not descriptor.size_bytes:
                return memoryview(b"")
            mapped, start = self._files.find(descriptor)
            return memoryview(mapped)[start : start + descriptor.size_bytes]
        end = self._end(descriptor.offset, descriptor.size_bytes)
        with memoryview(self._readable) as whole:
            return whole[descriptor.offset : end]

    def exporter(self, offset: int, length: int, on_release: Callable[[], object]) -> npt.NDArray[np.uint8]:
        """A read-only array over sealed bytes of the arena, which no ``setflags`` makes writable.

        Everything built on it (slices, reshapes, ``frombuffer``, memoryviews, pickle 5 buffers) keeps
        it alive, because it is made directly over the mapping: were it a slice of one large array,
        NumPy would let derived arrays refer to that one and skip it.

        Args:
            offset: of the first byte, in the arena.
            length: in bytes.
            on_release: called once, when the last derived view is gone. It may run inside any
                allocation, in any thread, under any lock that the thread holds: it may append to a
                deque and nothing else.

        Raises:
            ValueError: it lies outside the arena, or the mapping is closed.
        """
        self._end(offset, length)
        return self._export(self._readable, offset, length, on_release)

    def export(
        self, descriptor: Descriptor, at: int, length: int, on_release: Callable[[], object]
    ) -> npt.NDArray[np.uint8]:
        """``exporter`` for bytes of a sealed object, from ``at`` on, wherever it lies.

        Raises:
            ValueError: they lie outside the object or the arena, or the mapping is closed.
            OSError: it lies in the spill file, and that is gone.
        """
        if not descriptor.path:
            return self.exporter(descriptor.offset + at, length, on_release)
        if at < 0 or length < 0 or at + length > descriptor.size_bytes:
            raise ValueError(
                f"{length} bytes at {at} lie outside an object of {descriptor.size_bytes} bytes."
            )
        mapped, start = self._files.find(descriptor)
        return self._export(mapped, start + at, length, on_release)

    def _export(
        self, mapped: mmap.mmap, offset: int, length: int, on_release: Callable[[], object]
    ) -> npt.NDArray[np.uint8]:
        numpy = self._numpy
        if numpy is None:
            import numpy  # when the first view is made

            self._numpy = numpy
        array: npt.NDArray[np.uint8] = numpy.frombuffer(mapped, numpy.uint8, length, offset)
        exported = self._exported

        def released(reference: weakref.ref[Any]) -> None:
            exported.pop(id(reference), None)
            on_release()

        reference = weakref.ref(array, released)
        exported[id(reference)] = reference
        return array

    def close(self) -> None:
        """Unmap what nobody uses. A mapping with live views goes when the last of them does."""
        self.file = None
        for mapping in (self._writable, self._readable):
            try:
                mapping.close()
            except BufferError:
                # Views are alive. They keep the mapping, and it unmaps when it is collected.
                continue

    def _end(self, offset: int, length: int) -> int:
        if offset < 0 or length < 0 or offset + length > self.capacity_bytes:
            raise ValueError(
                f"{length} bytes at offset {offset} lie outside the arena of {self.capacity_bytes} bytes."
            )
        return offset + length


def _pieces(offset: int, size_bytes: int) -> tuple[int, int]:
    """Which pieces lie in these bytes as a whole: the first, and the one after the last."""
    first = -(-offset // _TOUCH_BYTES)
    return first, max(first, (offset + size_bytes) // _TOUCH_BYTES)
