"""Ctrl-C at the n-th bytecode of an operation, for every n.

Called by:  tests of what an interrupt may not break.
Imports:    the standard library.
Never:      signals anybody but this process.

The interpreter calls a trace function before each bytecode of the frames that are watched, and that
function raises SIGINT there. It is stricter than life: outside of it, handlers run only where the
interpreter looks (on calls, on entry, on jumps back).
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

#: Run by the collector inside any allocation; Python drops whatever is raised in them.
_FINALIZERS = ("__del__", "_close_view", "released")


@dataclass
class Outcome:
    """What became of one interrupted call."""

    reached: bool  # the call had as many bytecodes
    interrupted: bool  # it raised KeyboardInterrupt
    where: str  # the bytecode at which SIGINT came
    value: Any = None


class Interrupter:
    """Counts the bytecodes of this thread's frames in some files, and raises SIGINT at one of them."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = tuple(f"{folder}/" for folder in folders)
        self.left = 0
        self._where = ""

    def run(self, operation: Callable[[], Any], at: int) -> Outcome:
        """Call ``operation`` and interrupt it before its ``at``-th watched bytecode, counted from 1."""
        self.left, self._where = at, ""
        value, interrupted = None, False
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            value = operation()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        return Outcome(not self.left, interrupted, self._where, value)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        if not self.left or not frame.f_code.co_filename.startswith(self._folders) or _is_finalizing(frame):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and self.left:
            self.left -= 1
            if not self.left:
                path = Path(frame.f_code.co_filename)
                self._where = f"{path.name}:{frame.f_lineno} in {frame.f_code.co_name}"
                signal.raise_signal(signal.SIGINT)
        return self._step


def _is_finalizing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in _FINALIZERS:
            return True
        frame = frame.f_back
    return False
