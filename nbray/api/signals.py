"""SIGTERM ends a driver like ``sys.exit``: what is to be done at exit is done.

Called by:  api.session.
Imports:    runtime.guard.
Never:      replaces a handler of the program's own.

Without it the operating system ends the process at once. The session would not outlive that (its daemon
watches the driver), but the program's own ``atexit`` and ``finally`` would be skipped.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from nbray.runtime.guard import InterruptGuard

#: What shells report for a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM

_guard: InterruptGuard | None = None


def leave_cleanly(guard: InterruptGuard) -> None:
    """From now on SIGTERM raises SystemExit in the main thread, if it would have ended the process."""
    global _guard
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _on_sigterm)
        _guard = guard


def restore() -> None:
    """The session is over, or this is a forked child: let SIGTERM do what it did before."""
    global _guard
    _guard = None
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    if _guard is None or not _guard.defers_exit(_leave):
        _leave()


def _leave() -> None:
    restore()  # where SystemExit is caught, as IPython does in a cell, the next SIGTERM ends the process
    raise SystemExit(EXIT_CODE)
