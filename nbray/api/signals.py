"""SIGTERM ends a driver like ``sys.exit``: what is to be done at exit is done.

Called by:  api.session.
Imports:    runtime.guard.
Never:      replaces a handler of the program's own.

Without it the operating system ends the process at once. The session would not outlive that (its daemon
watches the driver), but the program's own ``atexit`` and ``finally`` would be skipped.

A forked child is to die of SIGTERM as ever. Python forgets signals that arrive before its hooks have run
in the child, so SIGTERM is blocked across a fork.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from nbray.runtime.guard import InterruptGuard, TerminatedExit

#: What shells report for a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM

_guard: InterruptGuard | None = None


class _Masks(threading.local):
    """The signals that each forking thread had blocked before."""

    before_fork: set[int | signal.Signals] | None = None


_masks = _Masks()


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


def _block() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        _masks.before_fork = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _unblock() -> None:
    if _masks.before_fork is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before_fork)
        _masks.before_fork = None


def _unblock_in_child() -> None:
    restore()
    _unblock()


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    if _guard is None or not _guard.defers_exit(_leave):
        _leave()


def _leave() -> None:
    restore()  # where SystemExit is caught, as IPython does in a cell, the next SIGTERM ends the process
    raise TerminatedExit(EXIT_CODE)


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_unblock_in_child)
