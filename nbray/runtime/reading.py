"""Reading values: bytes to objects, and views of the store that keep what they show where it is.

Called by:  runtime.{objects,gets,awaiting,local}, worker.executor.
Imports:    core.references, runtime.{loop,objects,serialization,waiting}, store.mapping.
Never:      deserializes with the loop's lock held (user code runs then).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from nbray.core.references import Entry
from nbray.runtime.loop import Loop
from nbray.runtime.serialization import deserialize, deserialize_outlined, outline_of
from nbray.runtime.task_errors import deserialize_error
from nbray.runtime.waiting import Waiter
from nbray.wire.base import Descriptor

if TYPE_CHECKING:
    from nbray.runtime.objects import Objects


class Reading:
    """The readers of one process. ``closed`` lists objects of which a view was closed, once for each."""

    def __init__(self, loop: Loop, objects: Objects) -> None:
        self.closed: deque[bytes] = deque()
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
                raise deserialize_error(value)
            return deserialize(value)
        outline = entry.outline
        descriptor = self._begin_reading(entry, 1 if outline is None else len(outline.extents) or 1)
        if descriptor is None:
            return self.load(entry)  # it turned into an error
        if outline is None or not outline.extents:
            try:
                return self._load_first(entry, descriptor)
            finally:
                self._close_view(entry.object_id)
        pickled, extents = outline
        return deserialize_outlined(pickled, self._views(entry.object_id, descriptor, extents))

    def _load_first(self, entry: Entry, descriptor: Descriptor) -> Any:
        assert self._objects.mapping is not None
        data = self._objects.mapping.readable(descriptor)
        outline = entry.outline = outline_of(data)
        if outline is None:
            return deserialize(data, wrap_buffer=partial(self._open_view, entry, descriptor))
        buffers = [self._open_view(entry, descriptor, at, length) for at, length in outline.extents]
        return deserialize_outlined(outline.pickled, buffers)

    def _begin_reading(self, entry: Entry, views: int) -> Descriptor | None:
        """Open so many views of it: its bytes stay where they are. None if it failed instead."""
        loop = self._loop
        with loop.guard:
            while True:
                with loop.lock:
                    value = entry.value
                    if type(value) is Descriptor:
                        self._objects.table.open_views(entry, views)
                        return value
                    if type(value) is bytes:
                        return None
                    waiter = Waiter(spins=True)
                    self._objects.await_entries([entry], waiter)
                try:
                    while not loop.wait(waiter) and loop.guard.deliver():
                        pass  # a handler of the user's own that returns lets the wait go on
                finally:
                    if not waiter.done:
                        with loop.lock:
                            self._objects.forget_waiter([entry], waiter)

    def _views(self, object_id: bytes, descriptor: Descriptor, extents: list[tuple[int, int]]) -> list[Any]:
        """Views that are counted already."""
        assert self._objects.mapping is not None
        views: list[Any] = []
        closed = partial(self._close_view, object_id)
        try:
            for at, length in extents:
                views.append(self._objects.mapping.exporter(descriptor.offset + at, length, closed))
        except BaseException:
            for _ in extents[len(views) :]:
                closed()
            raise
        return views

    def _open_view(self, entry: Entry, descriptor: Descriptor, offset: int, length: int) -> Any:
        with self._loop.guard:
            with self._loop.lock:
                self._objects.table.open_views(entry, 1)
            return self._views(entry.object_id, descriptor, [(offset, length)])[0]

    def _close_view(self, object_id: bytes) -> None:
        # Runs inside garbage collection, maybe under our own lock: append and wake, nothing else.
        self.closed.append(object_id)
        self._loop.wake()
