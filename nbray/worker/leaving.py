"""A worker that takes no more tasks and ends in good order.

Called by:  worker.executor, when a function reached its ``max_calls``, when a task left what cannot be
            undone, and when the daemon wants it to go.
Imports:    runtime.{process,waiting}, wire.
Never:      ends while a task may be on its way here, or one that was submitted here is not done.

It tells the daemon before it answers its last task, so that its lease is asked back for; what it is
sent until then it hands back. The daemon dismisses it when nobody holds a lease on it any more.
"""

from __future__ import annotations

import os
import time
from typing import NoReturn

from nbray.runtime.process import Process
from nbray.runtime.waiting import Waiter
from nbray.wire.messages import Leaving

#: How often a worker that has nothing else to do looks whether its children are done. There is no event
#: for it: the loop would have to tell on every answer, and hardly any process ever asks.
_LOOK_S = 0.02


class Departure:
    """The way out of one worker."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.dismissed = Waiter()  # nobody holds a lease on this worker any more

    def announce(self) -> None:
        """Before the last answer is sent."""
        with self._process.loop.lock:
            self._process.tell_daemon(Leaving())

    def on_dismissed(self) -> None:
        """The daemon let this worker go, or wants it to. Lock held."""
        self.dismissed.complete()

    def go(self) -> NoReturn:
        """Wait for the children and for the daemon, then end."""
        process = self._process
        loop = process.loop
        with loop.guard:
            while not loop.wait(self.dismissed):
                loop.guard.deliver()
            # Their leases too: workers of an owner that ends with leases end with it.
            while process.submitter.has_work() or process.submitter.pool.by_id:
                loop.wait(Waiter(), time.monotonic() + _LOOK_S)
                loop.guard.deliver()
            with loop.lock:
                process.recorder.ship()
                loop.flush()
        os._exit(0)
