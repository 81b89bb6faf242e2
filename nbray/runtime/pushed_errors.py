"""Errors that people should hear of, whether or not anybody gets a result: ``push(kind, message)``.

Called by:  worker.executor, runtime.{submitter,process,functions,...}; whoever has something to tell.
Imports:    core.pushed_errors, runtime.{code_names,current,loop,reading}, wire.
Never:      fails, waits, or needs to know whether the loop's lock is held.

A push goes to the node's daemon, which keeps it for ``nbray.errors()`` and tells the driver. There most
kinds are shown at once. Not so ``task``: as a rule the program gets the result, and sees the error there.
So these are shown when they are five seconds old, and only if the program raised none since it failed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import partial
from typing import Protocol

from nbray.core.pushed_errors import shortened
from nbray.runtime.code_names import named
from nbray.runtime.current import current_or_none
from nbray.runtime.loop import Loop
from nbray.runtime.reading import Reading
from nbray.wire.base import Message
from nbray.wire.error_messages import ErrorPushed, ErrorRow, PushError

logger = logging.getLogger("nbray")

TASK = "task"
#: So long the program has to get the result.
GRACE_S = 5.0
#: An error is often raised a moment before it comes here by its longer way.
_BEFORE_S = 1.0
_WAITING_MAX = 1000
_LAST_LINES = "\nLast lines on its stderr:\n"
#: So many task errors are shown within ``GRACE_S``; the others are counted.
_SHOWN_MAX = 3


def push(kind: str, message: str, *, told: bool = False) -> None:
    """Tell people of an error: from any thread, with or without the loop's lock, in drivers and workers.

    Args:
        kind: one of the classic types, such as ``"worker_died"`` or ``"checkpoint"``.
        message: sentences; what happened and, if there is something to do, what.
        told: the program has said so already; it is kept, and not shown again.

    Without a session it does nothing.
    """
    process = current_or_none()
    if process is not None:
        process.pushed.push(kind, message, told=told)


class Host(Protocol):
    """Whose part this is."""

    job_id: bytes

    def tell_soon(self, message: Message) -> None: ...

    def tell_daemon(self, message: Message) -> None: ...


class PushedErrors:
    """One process's.

    Args:
        reading: knows when somebody last got the error of a task.
        shows: whether what the daemon tells of errors is logged here.
    """

    def __init__(self, host: Host, loop: Loop, reading: Reading, *, shows: bool) -> None:
        self._host = host
        self._loop = loop
        self._reading = reading
        self._shows = shows
        self.outbox: deque[PushError] = deque(maxlen=_WAITING_MAX)
        self._waiting: deque[tuple[float, ErrorRow, int]] = deque(maxlen=_WAITING_MAX)
        self._shown = 0  # until then
        self._unsaid = 0
        self._until_s: float | None = None

    def push(self, kind: str, message: str, *, told: bool = False) -> None:
        """See ``push`` of this module."""
        # Of both deque and eventfd one is atomic and the other harmless: no lock is needed.
        self.outbox.append(self._made(kind, message, told))
        self._loop.wake()

    def push_now(self, kind: str, message: str) -> None:
        """The same; it and all before it have left before this returns. Without the lock."""
        with self._loop.guard, self._loop.lock:
            self.drain()  # this process may be about to be ended
            self._host.tell_daemon(self._made(kind, message))

    def _made(self, kind: str, message: str, told: bool = False) -> PushError:
        text = shortened(message).encode("utf-8", "backslashreplace").decode()
        return PushError(kind, text, self._host.job_id, told)

    def drain(self) -> None:
        """Send what was pushed. Lock held."""
        while self.outbox:
            self._host.tell_soon(self.outbox.popleft())

    # --- in the driver ---------------------------------------------------------------------------

    def arrived(self, message: ErrorPushed) -> None:
        """One of this job's errors. Lock held."""
        if not self._shows:
            return
        if message.row.kind == TASK:
            now_s = time.monotonic()
            self._waiting.append((now_s, message.row, message.left_out))
            self._loop.arm(now_s + GRACE_S)
        else:
            self._loop.later.append(partial(_show, message.row.message, message.left_out))

    def housekeeping(self, now_s: float) -> None:
        """Show the task errors that are old enough, if nobody raised one. Lock held."""
        waiting = self._waiting
        while waiting and waiting[0][0] + GRACE_S <= now_s:
            arrived_s, row, left_out = waiting.popleft()
            if self._reading.raised_s < arrived_s - _BEFORE_S:
                self._show_some(row, left_out, now_s)
        if self._until_s is not None and now_s >= self._until_s:
            self._loop.later.append(partial(_show_more, self._unsaid))
            self._shown, self._unsaid, self._until_s = 0, 0, None
        for at_s in (self._until_s, waiting[0][0] + GRACE_S if waiting else None):
            if at_s is not None:
                self._loop.arm(at_s)

    def _show_some(self, row: ErrorRow, left_out: int, now_s: float) -> None:
        if self._until_s is None:
            self._until_s = now_s + GRACE_S
        if self._shown < _SHOWN_MAX:
            self._shown += 1
            self._loop.later.append(partial(_show_task, row.message))
        else:
            self._unsaid += 1
        self._unsaid += left_out


def _show(message: str, left_out: int) -> None:
    # What a crash wrote was shown when it was written, and is in the error that get() raises.
    head, cut, _ = message.partition(_LAST_LINES)
    logger.warning("%s", f"{head} nbray.errors() has the last lines on its stderr." if cut else named(head))
    _show_more(left_out)


def _show_task(message: str) -> None:
    logger.error("A task failed, and nobody has got its result since:\n%s", named(message))


def _show_more(count: int) -> None:
    if count:
        logger.warning("%d more errors like that were pushed; nbray.errors() lists the last ones.", count)
