"""Reading values: bytes to objects, and views of the store that keep what they show where it is.

Called by:  runtime.{objects,gets,awaiting,local,task_arguments}, worker.executor.
Imports:    core.references, runtime.{loop,objects,serialization,waiting}, store.mapping.
Never:      deserializes with the loop's lock held (user code runs then).
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from nbray.core.references import Entry
from nbray.runtime.loop import Loop
from nbray.runtime.serialization import deserialize, deserialize_outlined, outline_of
from nbray.runtime.task_errors import deserialize_error
from nbray.runtime.waiting import Waiter
from nbray.wire.base import Descriptor

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects


class _Reader:
    """Counts as a view while its owner's bytes are looked at; goes with the frame that holds it."""

    __slots__ = ("_object_id", "_reading")

    def __init__(self, reading: Reading, object_id: bytes) -> None:
        self._reading = reading
        self._object_id = object_id

    def __del__(self) -> None:
        self._reading.closed.append(self._object_id)  # nobody waits for that: a moment ago it was in use


class Reading:
    """The readers of one process. ``closed`` lists objects of which a view was closed, once for each."""

    def __init__(self, loop: Loop, objects: Objects) -> None:
        self.closed: deque[bytes] = deque()
        self.raised_s = 0.0  # when somebody last got the error of a task
        self._turn = 0  # counts reads: what was not read for longest is yielded first
        self._loop = loop
        self._objects = objects

    def load(self, entry: Entry) -> Any:
        """The value of a ready entry. Large arrays are read-only views of the store.

        Raises:
            Exception: the error that the entry holds, if its task failed.
        """
        value = entry.value
        if type(value) is bytes:
            if entry.failed:
                self._raise(value)
            return deserialize(value)
        outline = entry.outline
        if outline is not None and outline.extents:
            buffers = self._open(entry, outline.extents)
            return self.load(entry) if buffers is None else deserialize_outlined(outline.pickled, buffers)
        reader = self._open(entry, None)
        return self.load(entry) if reader is None else self._load_first(entry, reader)

    def _raise(self, error: bytes) -> NoReturn:
        self.raised_s = time.monotonic()
        raise deserialize_error(error)

    def error_of(self, entry: Entry) -> bytes | None:
        """The error that a failed entry holds, wherever it lies; None if its bytes are away. Lock held."""
        value = entry.value
        if type(value) is Descriptor:
            assert self._objects.mapping is not None
            return bytes(self._objects.mapping.readable(value))
        return value if type(value) is bytes else None

    def _load_first(self, entry: Entry, reader: list[Any]) -> Any:
        """Read a value whose parts are not known yet; the reader keeps its bytes where they are."""
        descriptor = entry.value
        assert type(descriptor) is Descriptor and reader and self._objects.mapping is not None
        data = self._objects.mapping.readable(descriptor)
        if entry.failed:  # it was shared, and moved to the store as all that is shared does
            self._raise(bytes(data))
        outline = entry.outline = outline_of(data)
        if outline is None:
            return deserialize(data, wrap_buffers=lambda extents: self._open(entry, extents) or [])
        return deserialize_outlined(outline.pickled, self._open(entry, outline.extents) or [])

    def _open(self, entry: Entry, extents: list[tuple[int, int]] | None) -> list[Any] | None:
        """Views of these parts, or a reader: from now on its bytes stay where they are.

        Whatever is on the disk is brought back. None if it turned into an error instead. All that counts
        as a view is an object before Ctrl-C can be raised, so that nothing stays open.
        """
        loop, table = self._loop, self._objects.table
        with loop.guard:
            while True:
                with loop.lock:
                    value = entry.value
                    if type(value) is Descriptor:
                        self._turn += 1
                        entry.read = self._turn
                        table.open_views(entry, 1 if extents is None else len(extents))
                        break
                    if type(value) is bytes:
                        return None
                    waiter = Waiter(spins=True)
                    self._objects.await_entries([entry], waiter)
                self._wait(entry, waiter)
            if extents is None:
                return [_Reader(self, entry.object_id)]
            return self._views(value, extents)

    def _wait(self, entry: Entry, waiter: Waiter) -> None:
        loop = self._loop
        try:
            while not loop.wait(waiter) and loop.guard.deliver():
                pass  # a handler of the user's own that returns lets the wait go on
        finally:
            if not waiter.done:
                with loop.lock:
                    self._objects.forget_waiter([entry], waiter)

    def _views(self, place: Descriptor, extents: list[tuple[int, int]]) -> list[Any]:
        """Views that are counted already."""
        mapping = self._objects.mapping
        assert mapping is not None
        views: list[Any] = []
        closed = partial(self.close_view, place.object_id)
        try:
            for at, length in extents:
                views.append(mapping.export(place, at, length, closed))
        except BaseException:
            for _ in extents[len(views) :]:
                closed()
            raise
        return views

    def close_view(self, object_id: bytes) -> None:
        """Runs inside garbage collection, maybe under our own lock: append and wake, nothing else."""
        self.closed.append(object_id)
        self._loop.wake()
