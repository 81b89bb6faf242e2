"""Advice: the same large value is sent by value again and again.

Called by:  runtime.process, for tasks whose arguments went through the store; no others come here.
Imports:    runtime.{arguments,context,sites}.
Never:      keeps a user's value alive, or copies it.

A value is known again by its identity. Where Python can tell when it is gone (arrays) that is certain;
lists, dicts and bytes are recognized by their identity and a glimpse of their contents, since another one
may lie at the same place by then.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from itertools import islice
from typing import Any

from nbray.runtime.arguments import Argument
from nbray.runtime.context import Place
from nbray.runtime.sites import here, origin_of

logger = logging.getLogger("nbray")

#: Smaller ones are cheap to send.
LARGE_BYTES = 1_000_000
#: The so manieth time is told.
TOLD_AT = 3
_GLIMPSED = 16
_REMEMBERED = 64
_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None)})
#: None of these is what is large.
_SMALL = frozenset({int, float, complex, bool, type(None), Argument})


class Repeats:
    """What one process has sent."""

    def __init__(self) -> None:
        self._times: OrderedDict[Any, tuple[Any, int]] = OrderedDict()  # what it is known by -> what keeps it
        self._told: set[tuple[str, int]] = set()  # lines of code

    def sent(self, args: tuple[Any, ...], kwargs: dict[str, Any], size_bytes: int, place: Place) -> None:
        """These were the arguments of a task, so large together. No lock held."""
        if size_bytes < LARGE_BYTES:
            return
        values = [value for value in (*args, *kwargs.values()) if type(value) not in _SMALL]
        for value in values:
            of_it = size_bytes if len(values) == 1 else _size_of(value)
            if of_it >= LARGE_BYTES and self._count(value) == TOLD_AT:
                self._advise(value, of_it, place)

    def _count(self, value: Any) -> int:
        """How often it was sent, this time included."""
        key: Any = id(value)
        known = self._times
        try:
            keeper: Any = weakref.ref(value)
        except TypeError:
            key = (key, type(value), _glimpse(value))
            keeper = None
        before = known.pop(key, None)
        is_same = before is not None and (keeper is None or before[0]() is value)
        times = before[1] + 1 if before is not None and is_same else 1
        known[key] = (keeper, times)
        if len(known) > _REMEMBERED:
            known.popitem(last=False)
        return times

    def _advise(self, value: Any, size_bytes: int, place: Place) -> None:
        origin = origin_of(here(place, 2))
        line = (origin.file, origin.line)
        if line in self._told:
            return
        self._told.add(line)
        where = f"{origin.cell}, line {origin.line}" if origin.cell else f"{origin.file}:{origin.line}"
        logger.warning(
            "%s: the same %s of %.1f MB was sent to a task for the third time, and is copied each time. "
            "Write once ref = nbray.put(value), and pass ref instead: tasks then read one copy.",
            where, type(value).__name__, size_bytes / 1e6,
        )  # fmt: skip


def _size_of(value: Any) -> int:
    """Of a value whose size can be told at a glance; 0 of all others."""
    kind = type(value)
    if kind in (bytes, bytearray, str):
        return len(value)
    if kind in (list, tuple):
        return 8 * len(value)
    size_bytes = getattr(value, "nbytes", 0) if kind.__module__.partition(".")[0] in _WITH_NBYTES else 0
    return size_bytes if type(size_bytes) is int else 0


_WITH_NBYTES = frozenset({"numpy", "builtins", "torch"})


def _glimpse(value: Any) -> Any:
    """A few of its parts."""
    kind = type(value)
    if kind in (bytes, str, bytearray):
        step = max(1, len(value) // _GLIMPSED)
        return len(value), hash(bytes(value[::step]) if kind is bytearray else value[::step])
    if kind in (list, tuple):
        step = max(1, len(value) // _GLIMPSED)
        return len(value), tuple(map(_mark, value[::step]))
    if kind is dict:
        few = islice(value.items(), _GLIMPSED)
        return len(value), tuple([(_mark(key), _mark(item)) for key, item in few])
    return None


def _mark(part: Any) -> Any:
    return (type(part), hash(part)) if type(part) in _SCALARS else id(part)
