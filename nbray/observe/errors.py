"""The errors of a job as a table: one line for each, the whole text when it is opened.

Called by:  api.errors.
Imports:    nbray.events.text, nbray.observe.
Never:      hides an error: those that do not fit are counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from nbray.events.text import visible
from nbray.observe import html, renderer
from nbray.observe.wording import counted

#: A table shows so many, the last ones.
SHOWN = 20
_LINE_MAX_CHARS = 300
_PLACE = re.compile(r" \(pid \d+[^)]*\)$")


class ErrorList(list[Any]):
    """Errors, oldest first: dicts with ``type``, ``message`` and ``timestamp``."""

    __slots__ = ()

    def __repr__(self) -> str:
        wide = max((len(each["type"]) for each in self[-SHOWN:]), default=0)
        lines = [f"  {each['type']:<{wide}}  {_line(each)}" for each in self[-SHOWN:]]
        return "\n".join([self._title(), *lines, *(f"  {value}" for _, value in self._notes())])

    def _repr_html_(self) -> str | None:
        if not renderer.wants_html():
            return None
        rows = [
            (_clock(each["timestamp"]), each["type"], html.Folded(_line(each), each["message"]))
            for each in self[-SHOWN:]
        ]
        columns = ("when", "type", "what") if rows else ()
        return html.table(self._title(), columns, rows, self._notes())

    def _title(self) -> str:
        return f"nbray: {counted(len(self), 'error') if self else 'no errors'}"

    def _notes(self) -> list[tuple[str, str]]:
        left_out = len(self) - SHOWN
        return [("more", f"and {left_out:,} before them")] if left_out > 0 else []


def _line(error: Mapping[str, Any]) -> str:
    """What happened, without where."""
    lines = error["message"].rstrip().split("\n")
    text = lines[0]
    if error["type"] == "worker_died" and len(lines) > 1:
        text = lines[1].split(". ")[0]  # the first only says that it did, the rest what to do
    elif error["type"] == "task" and len(lines) > 1:
        text = f"{_PLACE.sub('', lines[0]).removeprefix('task ')}: {lines[-1]}"
    return visible(text, _LINE_MAX_CHARS)


def _clock(timestamp_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(timestamp_s))
