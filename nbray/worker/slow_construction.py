"""Constructors that take long: people are told where they are, again and again.

Called by:  worker.actor.
Imports:    runtime.process, wire.
Never:      ends one: it may be loading a model. Calls of the actor wait, and look as if nothing happened.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback

from nbray.runtime.process import Process
from nbray.wire.messages import LogLines

#: After so long people are told, and whenever twice as much has passed.
NOTICE_S = 10.0
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_FRAMES_SHOWN = 8


class SlowConstruction:
    """Watches the constructor of one actor from the thread that reads the sockets.

    Args:
        process: the worker's runtime.
        actor: what people call it.
    """

    def __init__(self, process: Process, actor: str) -> None:
        self._process = process
        self._actor = actor
        self._thread = threading.get_ident()
        self._began_s: float | None = None
        self._notice_s = NOTICE_S

    def begin(self) -> None:
        """The constructor runs, in this thread."""
        self._thread = threading.get_ident()
        with self._process.loop.lock:
            self._began_s = time.monotonic()
            self._process.loop.arm(self._began_s + self._notice_s)

    def end(self) -> None:
        """It is done."""
        self._began_s = None

    def housekeeping(self, now_s: float) -> None:
        """Tell people, if it is time. Lock held."""
        began_s = self._began_s
        if began_s is None:
            return
        if now_s >= began_s + self._notice_s:
            self._tell(now_s - began_s)
            self._notice_s *= 2
        self._process.loop.arm(began_s + self._notice_s)

    def _tell(self, age_s: float) -> None:
        head = (
            f"nbray: the constructor of {self._actor} has been running for {age_s:.0f} s "
            f"(pid {os.getpid()}); its calls wait for it. It is here:"
        )
        lines = [head, *where(self._thread)]
        process = self._process
        process.tell_daemon(LogLines(process.process_id, os.getpid(), "nbray", "stderr", 0, "", lines))


def where(thread: int) -> list[str]:
    """The innermost lines of user code that a thread is in, as a traceback shows them."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # as public as it gets
    if frame is None:
        return []
    stack = [line for line in traceback.extract_stack(frame) if not line.filename.startswith(_OURS)]
    return "".join(traceback.format_list(stack[-_FRAMES_SHOWN:])).splitlines()
