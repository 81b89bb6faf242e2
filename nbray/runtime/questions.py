"""Questions to the daemon that wait for an answer.

Called by:  runtime.process.
Imports:    runtime.loop, wire.
Never:      waits for ever: an answer has a deadline, and a lost daemon ends the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from nbray.model.errors import RayTimeoutError
from nbray.runtime.loop import Loop
from nbray.runtime.waiting import Waiter
from nbray.wire.actor_messages import ActorList, ActorNamed
from nbray.wire.base import Message
from nbray.wire.error_messages import Errors
from nbray.wire.memory_messages import MemoryReport
from nbray.wire.messages import Status
from nbray.wire.object_messages import ObjectsPinned
from nbray.wire.waiting_messages import WaitsReport

_DEADLINE_S = 10.0
Answer = Status | ObjectsPinned | MemoryReport | WaitsReport | Errors | ActorNamed | ActorList
ANSWERS: tuple[type[Message], ...] = (
    Status, ObjectsPinned, MemoryReport, WaitsReport, Errors, ActorNamed, ActorList,
)  # fmt: skip


class Questions:
    """Numbers questions and matches the answers."""

    def __init__(self, loop: Loop, tell_daemon: Callable[[Message], None]) -> None:
        self._loop = loop
        self._tell_daemon = tell_daemon
        self._open: dict[int, tuple[Waiter, list[Message]]] = {}
        self._last_number = 0
        self._is_over = False  # the daemon is gone: nothing is answered any more

    def ask(self, make: Callable[[int], Message]) -> Message | None:
        """Send what ``make`` builds around a number; None if the session was lost meanwhile.

        Raises:
            RayTimeoutError: no answer came within 10 s.
        """
        waiter = Waiter()
        answers: list[Message] = []
        with self._loop.guard:
            with self._loop.lock:
                if self._is_over:
                    return None
                self._last_number += 1
                number = self._last_number
                self._open[number] = (waiter, answers)
                self._tell_daemon(make(number))
            deadline_s = time.monotonic() + _DEADLINE_S
            try:
                while not self._loop.wait(waiter, deadline_s) and self._loop.guard.deliver():
                    pass  # a handler of the user's own that returns lets it go on
            finally:
                with self._loop.lock:
                    self._open.pop(number, None)
        if not answers and not waiter.done:
            raise RayTimeoutError(timeout_s=_DEADLINE_S, why="The node daemon did not answer.")
        return answers[0] if answers else None

    def ask_later(self, make: Callable[[int], Message], told: Waiter) -> bool:
        """Likewise, but ``told`` is completed with the answer, and nobody waits. Lock held.

        False: the session is lost.
        """
        if self._is_over:
            return False
        self._last_number += 1
        self._open[self._last_number] = (told, [])
        self._tell_daemon(make(self._last_number))
        return True

    def answered(self, message: Answer) -> None:
        """Lock held."""
        question = self._open.pop(message.request_id, None)
        if question is not None:
            question[1].append(message)
            question[0].complete()

    def fail_all(self) -> None:
        """No answer will come, now or later. Lock held."""
        self._is_over = True
        for waiter, _answers in self._open.values():
            waiter.complete()
