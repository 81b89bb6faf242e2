"""What people call the code of a notebook: ``Cell In[3]``, where texts name a file that nobody wrote.

Called by:  jupyter.kernel (``use``); task_errors, pushed_errors, explaining, api (texts for people).
Imports:    linecache.
Never:      changes a text in a process without a notebook, such as a worker; fails.

A worker knows a cell only by the name of a file that never was, so it cannot quote the line either. The
kernel knows both. So texts are put right in the driver, where somebody reads them.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable

#: The name of a file -> what people call it, or "".
Namer = Callable[[str], str]

# As tracebacks have it; ``faulthandler`` leaves out the second comma.
_FRAME = re.compile(r'^([ |]*)File "([^"]+)", line (\d+)(,?)( in .*)?$')
_PLACE = re.compile(r"\bat (\S+):(\d+)")

_namer: Namer | None = None


def use(namer: Namer | None) -> None:
    """From now on, names come from there; None: files keep the names that they have."""
    global _namer
    _namer = namer


def named(text: str) -> str:
    """The text with cells called by their names, and their lines quoted."""
    if _namer is None or (".py" not in text and "<ipython" not in text):
        return text
    lines = text.split("\n")
    told: list[str] = []
    quoted = False
    for number, line in enumerate(lines):
        match = _FRAME.match(line)
        label = _namer(match[2]) if match else ""
        if match is None or not label:
            told.append(_PLACE.sub(_place, line) if " at " in line else line)
            continue
        margin, file, at, comma, where = match.groups()
        told.append(f"{margin}{label}, line {at}{comma}{where or ''}")
        # A report of a crash is kept short: of its frames the newest, which is the first, is quoted.
        if _is_quoted(lines, number, margin) or (quoted and not comma):
            continue
        source = linecache.getline(file, int(at)).strip()
        if source:
            quoted = True
            told.append(f"{margin}  {source}")
    return "\n".join(told)


def _is_quoted(lines: list[str], number: int, margin: str) -> bool:
    return number + 1 < len(lines) and lines[number + 1].startswith(margin + "  ")


def _place(match: re.Match[str]) -> str:
    label = _namer(match[1]) if _namer is not None else ""
    return f"at {label}, line {match[2]}" if label else match[0]
