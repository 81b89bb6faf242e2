"""Keeping Ctrl-C out of the middle of things.

Called by:  runtime (every operation that changes shared state in the main thread).
Imports:    the standard library.
Never:      swallows an interrupt: one that arrives inside is raised on the way out.

Python raises KeyboardInterrupt between any two bytecodes of the main thread. Between ``send`` and
the line that notes how much was sent, that would tear a frame. So while the guard is entered, SIGINT
only sets a flag and wakes the poll; the previous handler runs when the guard is left.

The handler is put in place on entry whenever somebody else's is there (IPython installs its own
for every cell); asking costs 50 ns, installing 300 ns.
"""

from __future__ import annotations

# The C module: ``signal.getsignal`` wraps its result in an enum, which takes 1.5 us a call.
import _signal  # type: ignore[import-not-found]  # it has no stub
import functools
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

_getsignal = _signal.getsignal
_get_ident = threading.get_ident
_SIGINT = int(signal.SIGINT)


Handler = Callable[[int, FrameType | None], Any]


class TerminatedExit(SystemExit):
    """SIGTERM came, whatever code ran. It ends the process, as KeyboardInterrupt would: it is no error of a
    value that was just pickled, nor of a task that ran in this process.
    """


class OfAsyncio:
    """Stands for the handler of an ``asyncio.run`` on which ours was put.

    It would be taken away at the end of that run if it were still in place. So it is held weakly: the run
    holds it, and with it its main task, whose error may hold half of the program.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = weakref.ref(handler)

    def handler(self) -> Handler:
        """That one, or Python's own when the run is over."""
        return self._handler() or signal.default_int_handler

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self.handler()(signum, frame)

    @staticmethod
    def is_one(handler: Handler) -> bool:
        """Whether ``asyncio.run`` made it."""
        return isinstance(handler, functools.partial) and handler.func.__module__ == "asyncio.runners"


class DeferringHandler:
    """SIGINT's handler while a session runs. It remembers what it was put on top of.

    One per installation: code that swaps handlers and swaps them back (debuggers do) brings back an
    earlier one of ours, and with it the handler that was the user's at that time.
    """

    __slots__ = ("guard", "previous")

    def __init__(self, guard: InterruptGuard, previous: Handler) -> None:
        self.guard = guard
        self.previous: Handler = OfAsyncio(previous) if OfAsyncio.is_one(previous) else previous

    def what_to_give_back(self) -> Handler:
        """The handler that was there before ours."""
        return self.previous.handler() if isinstance(self.previous, OfAsyncio) else self.previous

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if not self.guard.defers():
            self.previous(signum, frame)


class InterruptGuard:
    """A re-entrant context manager; does nothing outside the main thread.

    Args:
        wake: called from the signal handler; may only do what is safe anywhere (an eventfd write).
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.pending = False
        self._wake = wake
        self._depth = 0
        self._main = threading.main_thread().ident
        self._handler: DeferringHandler | None = None
        self.seen: object = None  # the handler that was there when this was looked at last

    def __enter__(self) -> None:
        if _get_ident() == self._main:
            if _getsignal(_SIGINT) is not self.seen:
                self._install()
            # Last: from here on the handler defers. An interrupt before it raises, with nothing held.
            self._depth += 1

    def __exit__(self, *exc: object) -> None:
        if _get_ident() == self._main:
            self._depth -= 1
            if self.pending and not self._depth:
                self.deliver()

    def open(self) -> int:
        """User code runs inside, in the main thread. Returns what ``close`` needs."""
        depth, self._depth = self._depth, 0
        return depth

    def close(self, depth: int) -> None:
        """It is over."""
        self._depth = depth

    def deliver(self) -> bool:
        """Run the user's handler now for an interrupt that came inside; the caller can bear that it raises.

        True if there was one and the handler returned: then the user wants the work to go on.
        """
        if not self.pending or _get_ident() != self._main or self._handler is None:
            return False
        self.pending = False
        self._handler.previous(_SIGINT, sys._getframe(1))  # noqa: SLF001  (its only name)
        return True

    def defers(self) -> bool:
        """An interrupt came: keep it for later if somebody is inside. Called in the signal handler."""
        self.pending = bool(self._depth)  # outside: the same one, if it was about to be delivered on exit
        if self.pending:
            self._wake()
        return self.pending

    def defers_exit(self, leave: Callable[[], Any]) -> bool:
        """The process is to end: if somebody is inside, ``leave`` runs on the way out.

        Called in a signal handler.
        """
        handler = self._handler
        if handler is None or not self.defers():
            return False
        before = handler.previous

        def once(*_: object) -> None:
            handler.previous = before  # somebody may catch what ``leave`` raises, and live on
            leave()

        handler.previous = once
        return True

    def _install(self) -> None:
        current = _getsignal(_SIGINT)
        if isinstance(current, DeferringHandler) and current.guard is self:
            self._handler = current
        elif not callable(current):  # ignored or default action: theirs to decide
            pass
        elif self._depth:  # put in place inside the guard: left alone until it is entered anew
            return
        else:
            self._handler = current = DeferringHandler(self, current)
            _signal.signal(_SIGINT, current)
        self.seen = current

    def abandon(self) -> None:
        """In a forked child: interrupts are its own affair, whatever the parent was in the middle of."""
        self._main = None
        self._depth = 0
        self.pending = False
        current = _getsignal(_SIGINT)
        if isinstance(current, DeferringHandler) and current.guard is self:
            _signal.signal(_SIGINT, current.what_to_give_back())

    def remove(self) -> None:
        """Give the handler back, at shutdown."""
        current = _getsignal(_SIGINT)
        if _get_ident() == self._main and isinstance(current, DeferringHandler) and current.guard is self:
            _signal.signal(_SIGINT, current.what_to_give_back())
