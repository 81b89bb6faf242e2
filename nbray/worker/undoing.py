"""What a task changes of its process is changed back when it is over, for the tasks that come after it.

Called by:  worker.executor, in worker processes only.
Imports:    the standard library.
Never:      costs a task anything that changes nothing; sees changes that C code makes by itself.

Changed back are the working directory, the umask, environment variables, signal handlers and timers, limits
(``resource.setrlimit``, ``sys.setrecursionlimit``), the garbage collector's switch, and what stands at
``sys.stdout`` and ``sys.stderr``. So the functions that change these are wrapped, and note what was there
before. Kept is what makes a process warm: modules, ``sys.path``, warning filters, the state of ``random``.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

Undo = Callable[[], object]
#: Of these ``faulthandler`` writes where Python was.
_FATAL = frozenset({signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL})


class Undoing:
    """Notes of one worker: what to do when its task is over."""

    def __init__(self) -> None:
        self.notes: dict[object, Undo] = {}  # by what was changed; the first change counts
        self.is_spoiled = False  # something could not be changed back
        self._is_undoing = False

    def install(self) -> None:
        """From now on, note changes."""
        chdir, setsignal, setitimer = os.chdir, signal.signal, signal.setitimer
        umask, enable = os.umask, gc.enable
        setrecursionlimit, setrlimit = sys.setrecursionlimit, resource.setrlimit

        def of_cwd(*_: Any) -> tuple[object, Undo]:
            before = os.getcwd()
            return "cwd", lambda: chdir(before)

        def of_umask(*_: Any) -> tuple[object, Undo]:
            before = umask(0o077)  # there is no other way to ask; other threads may make files meanwhile
            umask(before)
            return "umask", lambda: umask(before)

        def of_variable(name: Any, *_: Any) -> tuple[object, Undo]:
            key = os.fsencode(name)
            before = os.environb.get(key)
            return ("env", key), lambda: _set_variable(key, before)

        def of_signal(number: int, *_: Any) -> tuple[object, Undo]:
            before = signal.getsignal(number)
            return ("signal", int(number)), lambda: _set_handler(setsignal, number, before)

        def of_timer(which: int, *_: Any) -> tuple[object, Undo]:
            return ("timer", int(which)), lambda: setitimer(which, 0)

        def of_limit(which: int, *_: Any) -> tuple[object, Undo]:
            before = resource.getrlimit(which)
            return ("limit", which), lambda: setrlimit(which, before)

        def of_depth(*_: Any) -> tuple[object, Undo]:
            before = sys.getrecursionlimit()
            return "recursion", lambda: setrecursionlimit(before)

        for module, name, prepare in (
            (os, "chdir", of_cwd),
            (os, "fchdir", of_cwd),
            (os, "umask", of_umask),
            (os, "putenv", of_variable),
            (os, "unsetenv", of_variable),
            (signal, "signal", of_signal),
            (signal, "setitimer", of_timer),
            (signal, "alarm", lambda *_: of_timer(signal.ITIMER_REAL)),
            (resource, "setrlimit", of_limit),
            (sys, "setrecursionlimit", of_depth),
            (gc, "disable", lambda *_: ("gc", enable)),
        ):
            setattr(module, name, self._noting(module, name, prepare))

    def _noting(
        self, module: ModuleType, name: str, prepare: Callable[..., tuple[object, Undo]]
    ) -> Callable[..., Any]:
        original = getattr(module, name)

        @functools.wraps(original)
        def changing(*args: Any, **kwargs: Any) -> Any:
            if not self._is_undoing:
                self._note(prepare, args, kwargs)
            return original(*args, **kwargs)

        # Where pickle looks for it. Built-in functions name the C module behind.
        changing.__module__, changing.__qualname__ = module.__name__, name
        supporting: set[Callable[..., Any]] = os.supports_fd
        if original in supporting:
            supporting.add(changing)
        return changing

    def _note(self, prepare: Callable[..., tuple[object, Undo]], args: Any, kwargs: Any) -> None:
        try:
            key, undo = prepare(*args, *kwargs.values())
        except Exception:  # noqa: BLE001  (wrong arguments: the function itself will say so)
            return
        self.notes.setdefault(key, undo)

    def forget(self) -> None:
        """What was noted until now was no task's doing."""
        self.notes.clear()

    def undo(self) -> None:
        """Change back what was noted."""
        self._is_undoing = True
        try:
            notes, self.notes = self.notes, {}
            for undo in notes.values():
                try:
                    undo()
                except Exception:  # noqa: BLE001  (a hard limit, a folder that is gone)
                    self.is_spoiled = True
        finally:
            self._is_undoing = False


def _set_variable(key: bytes, before: bytes | None) -> None:
    if before is None:
        os.environb.pop(key, None)
    else:
        os.environb[key] = before


def _set_handler(setsignal: Callable[..., Any], number: int, before: Any) -> None:
    if before is not None:  # else it was not Python's
        setsignal(number, before)
    if number in _FATAL and faulthandler.is_enabled():  # its handler has been replaced
        faulthandler.disable()
        faulthandler.enable(file=2, all_threads=True)
