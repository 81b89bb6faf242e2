"""What a dead worker wrote to stderr at last, as far as it tells people anything.

Called by:  node.workers.
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
_OURS = '  File "' + os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: Where the zygote begins.
_START = '  File "<string>", line 1 in <module>'


def last_words(lines: Sequence[str]) -> str:
    """The last lines; of a report of ``faulthandler`` the head of the crashed thread."""
    starts = [index for index, line in enumerate(lines) if line.startswith(_FATAL)]
    if not starts:
        return "\n".join(lines[-LINES_MAX:])
    before, report = lines[: starts[-1]], _crashed(lines[starts[-1] :])[:_REPORT_MAX]
    return "\n".join([*before[max(0, len(before) - LINES_MAX + len(report)) :], *report])


def _crashed(report: Sequence[str]) -> list[str]:
    kept: list[str] = []
    other_thread = False
    for line in report:
        if line.startswith("Thread 0x"):
            other_thread = True
        elif not line.startswith(" "):
            other_thread = False
        if other_thread or not line or line == _START:
            continue
        if line.startswith((_OURS, "Extension modules:")):
            continue
        kept.append(line)
    return kept
