"""Errors of tasks as a notebook shows them: the cell's frames and the task's, none of nbray.

Called by:  jupyter.kernel.
Imports:    IPython, model.errors, runtime.code_names.
Never:      touches the traceback that an exception has: debuggers see all of it.
"""

from __future__ import annotations

import os
from types import TracebackType

from IPython.core.interactiveshell import InteractiveShell

from nbray.model.errors import NbrayError, RayTaskError
from nbray.runtime import code_names

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
#: IPython asks exceptions for a method of this name.
_METHOD = "_render_traceback_"


class Tracebacks:
    """What a shell learns about nbray's errors, and forgets again."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    def register(self) -> None:
        """From now on, texts call cells by their names, and errors leave out what is not the user's."""
        code_names.use(self._name_of)

        def render(error: NbrayError) -> list[str]:  # a bound method would not get the error
            return self._render(error)

        setattr(NbrayError, _METHOD, render)

    def unregister(self) -> None:
        """As it was before."""
        code_names.use(None)
        if _METHOD in vars(NbrayError):  # another shell may have been the first
            delattr(NbrayError, _METHOD)

    def _name_of(self, file: str) -> str:
        return " ".join(self._shell.compile.format_code_name(file) or ())

    def _render(self, error: NbrayError) -> list[str]:
        """The lines that IPython prints."""
        cause, is_quiet = error.__cause__, error.__suppress_context__
        if isinstance(error, RayTaskError):
            error.__cause__ = None  # the text has its traceback; by itself it has none
            error.__suppress_context__ = True
        try:
            lines: list[str] = self._shell.InteractiveTB.structured_traceback(
                type(error), error, _without_ours(error.__traceback__), tb_offset=1
            )
            return lines
        finally:
            error.__cause__ = cause
            error.__suppress_context__ = is_quiet


def _without_ours(whole: TracebackType | None) -> TracebackType | None:
    """A copy of the frames that are not nbray's; all of them if there are no others but the first."""
    kept = []
    step = whole
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(step)
        step = step.tb_next
    if len(kept) < 2:  # the first is IPython's own
        return whole
    copy = None
    for step in reversed(kept):
        copy = TracebackType(copy, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return copy
