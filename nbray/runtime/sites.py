"""Which line of a program made an object.

Called by:  runtime.process and local (``put``), runtime.repeats (advice).
Imports:    runtime.context, nbray.wire.memory_messages, core.{actor_calls,tasks}.
Never:      makes words before somebody asks: a site is noted at every ``put``.
"""

from __future__ import annotations

import os
import sys
import types
from typing import Any

from nbray.core.actor_calls import Creation
from nbray.core.tasks import TaskSpec
from nbray.runtime.context import Place
from nbray.wire.memory_messages import Origin

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_frame = sys._getframe  # noqa: SLF001  # as public as it gets


#: A line of code, before anybody asked which: the code, the instruction, the cell of the notebook.
Site = tuple[types.CodeType, int, str]

_last: Site = ((lambda: None).__code__, 0, "")


def here(place: Place, depth: int) -> Site:
    """What is running outside nbray, ``depth`` calls up or more. Takes a fifth of a microsecond.

    The same line gives the same object again and again: a loop that puts a million values makes one.
    """
    global _last
    frame = _frame(depth)
    code = frame.f_code
    while code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
    last, instruction, cell = _last, frame.f_lasti, place.cell
    if last[0] is code and last[1] == instruction and last[2] == cell:
        return last
    _last = last = (code, instruction, cell)
    return last


def origin_of(site: Any) -> Origin:
    """``Entry.site`` as plain facts: a ``Site``, or the ``TaskSpec`` of the task, or actor, it is of."""
    if type(site) is TaskSpec:
        if type(site.pooled) is Creation:
            return Origin("actor", site.pooled.template.class_name, site.cell)
        return Origin("task", site.name, site.cell)
    if type(site) is tuple:
        code, instruction, cell = site
        return Origin("put", "", cell, code.co_filename, _line(code, instruction))
    return Origin()


def _line(code: types.CodeType, instruction: int) -> int:
    line = code.co_firstlineno
    for first, end, number in code.co_lines():
        if first <= instruction < end and number is not None:
            line = number
    return line
