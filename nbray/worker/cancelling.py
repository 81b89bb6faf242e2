"""KeyboardInterrupt in one attempt's user code, and nowhere else.

Called by:  worker.executor, which says which attempt's code runs; worker.zygote's child through it.
Imports:    signal; nbray.{core,model,runtime.loop}, wire.
Never:      interrupts our own code, or an attempt that nobody cancelled.

What is to be cancelled is told by a message; the signal only says that it is time to look. The thread that
reads the message signals the main thread, whose handler raises if the attempt whose code runs is one that was
named. A signal from outside finds nothing named, as a rule: then the message may lie unread, since the code
holds the GIL, and the handler gives it up for a moment.

Between ``armed = call`` and ``armed = None`` in the executor lies nothing but the call of the user's
function. The handler does not raise in that frame itself, but in those above it: so there is no moment at
which what the function returned or raised could be lost, or at which an interrupt could strike the code that
deals with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import wraps
from types import CodeType, FrameType, FunctionType
from typing import Any

from nbray.model.errors import RayCancellationError
from nbray.runtime.guard import InterruptGuard
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.cancel_messages import CancelTask
from nbray.wire.messages import TaskCall

#: How long the handler waits for the message, in steps.
_LOOKS, _LOOK_S = 50, 0.002


class CancelledBeforeItBeganError(BaseException):
    """Raised in place of the call of the user's function."""


class Interrupts:
    """The cancels of the tasks of one worker. Made in its main thread.

    Args:
        frame_below: the code that calls the user's function.

    ``armed``: the attempt whose code runs now. ``asked``: attempts that are to end; it may hold some that
    ended before. ``handler``: SIGINT's, as it should be.
    """

    def __init__(self, guard: InterruptGuard, frame_below: CodeType) -> None:
        self.armed: TaskCall | None = None
        self.asked: set[tuple[bytes, int]] = set()
        self._raised_in: TaskCall | None = None
        self._guard = guard
        self._frame_below = frame_below
        self._main = threading.main_thread().ident
        self._pid = 0
        self.handler: Any = None

    def install(self) -> None:
        """This is the process whose tasks may be cancelled."""
        self._pid = os.getpid()
        signal.signal(signal.SIGINT, self._on_signal)
        with self._guard:  # puts its handler on top
            self.handler = self._guard.seen

    def cancel(self, message: CancelTask, flush: Callable[[], None]) -> None:
        """An attempt that is not in the inbox is to end. Lock held, in any thread."""
        self.asked.add((message.task_id, message.attempt))
        if self._is_named(self.armed):
            if message.force:
                flush()  # the answers of tasks before it
                os.kill(os.getpid(), signal.SIGKILL)
            assert self._main is not None
            with contextlib.suppress(OSError):
                signal.pthread_kill(self._main, signal.SIGINT)

    def check(self, call: TaskCall) -> None:
        """The attempt is about to begin.

        Raises:
            CancelledBeforeItBeganError: it is to end.
        """
        if self._is_named(call):
            self._raised_in = call
            raise CancelledBeforeItBeganError

    def ended(self, call: TaskCall, state: str) -> str:
        """The attempt is over; called if ``asked`` is not empty. Returns what became of it."""
        self.asked.discard((call.task_id, call.attempt))
        cancelled = self._raised_in is call and state == "failed"
        self._raised_in = None
        return "cancelled" if cancelled else state

    def set_aside(self) -> tuple[TaskCall | None, TaskCall | None]:
        """Another task runs on top of the one whose code runs; returns what ``take_up`` needs."""
        aside = self.armed, self._raised_in
        self.armed = self._raised_in = None
        return aside

    def take_up(self, aside: tuple[TaskCall | None, TaskCall | None]) -> None:
        """That one is over.

        Raises:
            KeyboardInterrupt: meanwhile the one below was cancelled.
        """
        self.armed, self._raised_in = call, raised_in = aside
        if self._is_named(call) and raised_in is not call:
            self._raised_in = call
            raise KeyboardInterrupt

    def outcome(self, call: TaskCall, name: str) -> bytes | None:
        """The error of an attempt that raised, if it did so since it was cancelled."""
        if self._raised_in is not call:
            return None
        return serialize_system_error(RayCancellationError(call.task_id.hex(), task_name=name))

    def restore(self) -> None:
        """A task that is over has left a handler of its own; the guard has seen it since."""
        signal.signal(signal.SIGINT, self.handler)

    def _is_named(self, call: TaskCall | None) -> bool:
        return call is not None and (call.task_id, call.attempt) in self.asked

    def _on_signal(self, _signum: int, frame: FrameType | None) -> None:
        """SIGINT, in the main thread, when the guard lets it through."""
        call = self.armed
        if call is None or (frame is not None and frame.f_code is self._frame_below):
            return
        if os.getpid() != self._pid:  # a process that the task forked: interrupts mean nothing there
            return
        if not self.asked:
            for _ in range(_LOOKS):
                time.sleep(_LOOK_S)  # gives up the GIL: the message may be read now
                if self.asked:
                    break
        if self._is_named(call) and self._raised_in is not call:
            self._raised_in = call
            raise KeyboardInterrupt


def with_a_frame(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a Python frame of its own: an interrupt is not raised in ours."""
    if isinstance(function, FunctionType):
        return function

    @wraps(function, assigned=(), updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call
