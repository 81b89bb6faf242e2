"""``await ref`` and ``ref.as_future()``: waiting in an event loop, without blocking it.

Called by:  runtime.refs, when a reference is first awaited.
Imports:    asyncio; runtime.{current,process,refs,waiting}.
Never:      is imported by ``import nbray``; locks when the collector finalizes a coroutine.

Whichever thread delivers the value posts it to the event loop with ``call_soon_threadsafe``, once for
all values that arrive together. The value is read in the loop's own thread, so that errors and user
code run where they would after ``get``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from nbray.core.references import Entry
from nbray.runtime.current import current
from nbray.runtime.process import Process
from nbray.runtime.refs import ObjectRef
from nbray.runtime.waiting import Waiter


class Mailbox:
    """The way from any thread into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # the table of mailboxes must not keep a loop alive
        self._arrived: deque[Awaited] = deque()
        self._is_called = False

    def post(self, awaited: Awaited) -> None:
        """Lock of the runtime held."""
        self._arrived.append(awaited)
        if not self._is_called:
            self._is_called = True  # first: the loop may open the box before this thread goes on
            if not self.call(self._open):
                self._is_called = False
                self._arrived.clear()

    def call(self, function: Callable[[], None]) -> bool:
        """Have the loop call this soon; takes no lock. False: it was closed, and nobody waits there."""
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(function)
                return True
        except RuntimeError:
            pass
        return False

    def _open(self) -> None:
        self._is_called = False  # first: what arrives from now on calls again
        with contextlib.suppress(IndexError):
            while True:
                self._arrived.popleft().resolve()


_mailboxes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = weakref.WeakKeyDictionary()
_mailboxes_lock = threading.Lock()


def _mailbox(loop: asyncio.AbstractEventLoop) -> Mailbox:
    with _mailboxes_lock:
        found = _mailboxes.get(loop)
        if found is None:
            found = _mailboxes[loop] = Mailbox(loop)
    return found


class Awaited(Waiter):
    """One await of one reference. For ``runtime.objects`` it is a waiter; nobody sleeps on it.

    It holds the reference: ``await f.remote()`` keeps no other.
    """

    __slots__ = ("_blocks", "_entry", "_mailbox", "_process", "_ref", "_stands_in_line", "future")

    def __init__(self, process: Process, ref: ObjectRef, entry: Entry) -> None:
        super().__init__()
        self._process = process
        self._ref: ObjectRef | None = ref
        self._entry = entry
        self._stands_in_line = False
        loop = asyncio.get_running_loop()
        self._mailbox = _mailbox(loop)
        self.future: asyncio.Future[Any] = loop.create_future()
        self._blocks = process.gets.on_blocking is not None and process.gets.is_in_main_thread()

    def begin(self) -> None:
        """Stand in line for the value."""
        process = self._process
        try:
            with process.loop.guard:
                with process.loop.lock:
                    if self._entry.value is not None:
                        self.complete()
                    else:
                        self._stands_in_line = True
                        process.loop.awaits += 1
                        process.objects.await_entries([self._entry], self)
                        process.loop.flush()
                if self._blocks and process.gets.on_blocking is not None:
                    process.gets.on_blocking(True)
        except BaseException:  # Ctrl-C, on the way out of the guard
            self.forget()
            raise

    def complete(self) -> None:
        """Lock held."""
        self.done = True
        self._leave_line()
        self._mailbox.post(self)

    def _leave_line(self) -> None:
        if self._stands_in_line:
            self._stands_in_line = False
            self._process.loop.awaits -= 1

    def resolve(self) -> None:
        """In the loop's thread: the value is there, or will never be."""
        ref = self._let_go()
        if ref is None or self.future.done():
            return
        try:
            value = self._process.objects.load(self._process.gets.entry(ref))
        except StopIteration as exc:
            # Raised out of ``await`` it would end the coroutine, as if that had returned.
            error = RuntimeError(f"A task raised {type(exc).__name__}, which cannot be raised by an await.")
            error.__cause__ = exc
            self.future.set_exception(error)
        except Exception as exc:  # noqa: BLE001  # as get() would raise it
            # Without this frame, which holds the future, which would hold the error: a cycle.
            self.future.set_exception(exc.with_traceback(None))
        else:
            self.future.set_result(value)

    def forget(self, _future: object = None) -> None:
        """The wait ended early, or is over."""
        if self._let_go() is None or self.done:
            return
        with self._process.loop.guard, self._process.loop.lock:
            self._process.objects.forget_waiter([self._entry], self)
            self._leave_line()

    def forget_later(self) -> None:
        """The coroutine was closed, maybe by the collector and under our own lock: so not here."""
        if not self._mailbox.call(self.forget):
            self._ref = None

    def _let_go(self) -> ObjectRef | None:
        ref, self._ref = self._ref, None
        if ref is not None and self._blocks and self._process.gets.on_blocking is not None:
            self._process.gets.on_blocking(False)
        return ref


def result_of(ref: ObjectRef) -> Generator[Any, None, Any]:
    """What ``await ref`` runs; a value that is there comes without a turn of the loop."""
    process = current()
    entry = process.gets.entry(ref)
    if entry.value is not None:
        return process.objects.load(entry)
    awaited = Awaited(process, ref, entry)
    awaited.begin()
    try:
        return (yield from awaited.future)
    except GeneratorExit:
        awaited.forget_later()
        raise
    except BaseException:
        awaited.forget()
        raise
    finally:
        del awaited  # an error's traceback holds this frame, and the future in it that error


def future_of(ref: ObjectRef) -> asyncio.Future[Any]:
    """See ``ObjectRef.as_future``."""
    process = current()
    entry = process.gets.entry(ref)
    try:
        awaited = Awaited(process, ref, entry)
    except RuntimeError:
        raise RuntimeError(
            "as_future() needs a running event loop: call it inside a coroutine. "
            "Elsewhere nbray.get() waits for the value."
        ) from None
    awaited.begin()
    awaited.future.add_done_callback(awaited.forget)
    return awaited.future
