"""What a dead worker wrote to stderr at last, as far as it tells people anything.

Called by:  node.workers, node.daemon (what the driver is shown).
Imports:    the standard library.
Never:      shows frames of nbray, or threads that did not crash.

``faulthandler`` writes the frames of every thread, the crashed one's last and its newest frame first. The
lines that say the most, what happened and where, are so in the middle of many.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

LINES_MAX = 20
#: Of these at most so many are a report of a crash.
_REPORT_MAX = 14
_FATAL = "Fatal Python error:"
#: How lines of a report begin, unless they are empty.
_PARTS = (" ", "Thread 0x", "Current thread", "Stack (", "Python runtime state:", "Extension modules:")
_OURS = '  File "' + os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Where the zygote begins.
_START = '  File "<string>", line 1 in <module>'


class Shown:
    """Which of a worker's lines people see while it writes them: of a report, what ``last_words`` keeps."""

    def __init__(self) -> None:
        self._reading: _Report | None = None

    def of(self, lines: Sequence[str]) -> list[str]:
        """Those of the next lines that are to be shown."""
        shown: list[str] = []
        for line in lines:
            if line.startswith(_FATAL):
                self._reading = _Report()
            elif line and not line.startswith(_PARTS):
                self._reading = None  # a child of the worker crashed, and others go on
            if self._reading is None or self._reading.keeps(line):
                shown.append(line)
        return shown


def last_words(lines: Sequence[str]) -> str:
    """The last lines; of a report of ``faulthandler`` the head of the crashed thread."""
    starts = [index for index, line in enumerate(lines) if line.startswith(_FATAL)]
    if not starts:
        return "\n".join(lines[-LINES_MAX:])
    reading = _Report()
    before, report = lines[: starts[-1]], [line for line in lines[starts[-1] :] if reading.keeps(line)]
    return "\n".join([*before[max(0, len(before) - LINES_MAX + len(report)) :], *report])


class _Report:
    """Goes through a report of ``faulthandler``, line by line."""

    def __init__(self) -> None:
        self._in_other_thread = False
        self._kept = 0

    def keeps(self, line: str) -> bool:
        if line.startswith("Thread 0x"):
            self._in_other_thread = True
        elif not line.startswith(" "):
            self._in_other_thread = False
        if self._in_other_thread or not line or line == _START or self._kept == _REPORT_MAX:
            return False
        if line.startswith((_OURS, "Extension modules:")):
            return False
        self._kept += 1
        return True
