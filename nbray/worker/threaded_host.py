"""An actor with several threads: each runs one call at a time.

Called by:  worker.concurrent.
Imports:    threading; runtime.waiting, worker.concurrent.
Never:      starts a thread before there is a call that no other one has time for.

The main thread is one of them, and runs the constructor. A thread without a call waits as a task does that
waits for a value: one of them reads the sockets, and may find its own next call. No order is promised.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from functools import partial
from typing import NoReturn

from nbray.runtime.overlapping import enter
from nbray.runtime.waiting import Waiter
from nbray.worker.concurrent import EXITED, LEAVE_S, CallHost, Hands, Running


class ThreadedHost(CallHost):
    """``max_concurrency`` threads at most."""

    def __init__(self, hands: Hands) -> None:
        super().__init__(hands)
        self._loop = self.process.loop
        self._most = hands.actor.spec.max_concurrency
        self._threads = 1
        self._coming = 0  # threads that were told of a call, or started for one, and have not looked yet
        self._idle: deque[Waiter] = deque()  # who waits for longest is first: it reads the sockets
        self._last: Waiter | None = None  # an actor that is leaving waits here for its last call
        self._settling.over = self._look_whether_over
        self._settling.may_linger = lambda: hands.waiting() > 0

    def run_forever(self) -> NoReturn:
        self._work(was_called=True)

    def _work(self, was_called: bool) -> NoReturn:
        """What each thread does."""
        while True:
            running = self._next(was_called)
            was_called = False
            self.begin(running)
            self._run(running)
            enter(self._own)

    # --- calls come ----------------------------------------------------------------------------------

    def complete(self) -> None:
        unserved = self.hands.waiting() - self._coming
        while unserved > 0 and self._idle:
            self._idle.popleft().complete()
            self._coming += 1
            unserved -= 1
        more = min(unserved, self._most - self._threads)
        if more > 0:
            self._threads += more
            self._coming += more
            self._loop.later.append(partial(self._start, more))

    def _start(self, number: int) -> None:
        for _ in range(number):
            threading.Thread(target=self._work, args=(True,), name="nbray-call", daemon=True).start()

    def _next(self, was_called: bool) -> Running:
        """Wait for a call."""
        loop = self._loop
        waiter: Waiter | None = None
        with loop.guard:
            while True:
                with loop.lock:
                    if waiter is not None and not waiter.done:
                        self._idle.remove(waiter)
                    elif waiter is not None or was_called:
                        self._coming -= 1
                    running = self.take()
                    if running is not None:
                        return running
                    waiter = Waiter(spins=not self.running)
                    self._idle.append(waiter)
                    loop.flush()
                if not loop.wait(waiter):
                    loop.guard.deliver()  # to nobody

    # --- one call ------------------------------------------------------------------------------------

    def _run(self, running: Running) -> None:
        assert running.link is not None and running.call is not None and running.known is not None
        try:
            outcome = self.hands.attempt(running.link, running.call, running.known, running.borrowed)
        except SystemExit:
            self.drop(running)
            self._leave_when_done()
        self.settle([self.end(running, outcome)])
        if self.hands.actor.is_leaving:
            if self._last is None:
                self._leave_when_done()
            with self._loop.lock:
                self._look_whether_over()

    # --- the end -------------------------------------------------------------------------------------

    def _leave_when_done(self) -> NoReturn:
        """What else this actor was sent is for the other threads."""
        self.start_leaving(EXITED)
        loop = self._loop
        deadline_s = time.monotonic() + LEAVE_S
        waiter = Waiter()
        with loop.lock:
            if not self.has_nothing_to_do():
                self._last = waiter
                self.complete()
        if self._last is not None:
            with loop.guard:
                while not loop.wait(waiter, deadline_s) and loop.guard.deliver():
                    pass
        self.leave()

    def _look_whether_over(self) -> None:
        """Lock held."""
        if self._last is not None and self.has_nothing_to_do():
            self._last.complete()
