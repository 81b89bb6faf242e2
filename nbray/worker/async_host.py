"""An asyncio actor: all its methods run on one event loop, which is the worker's main thread.

Called by:  worker.concurrent.
Imports:    asyncio; runtime.overlapping, worker.{concurrent,settling}.
Never:      blocks the event loop by a wait of ours, or ticks while nothing is in flight.

The event loop watches the poll set of the runtime (an epoll is readable when something in it is), so that
its own thread reads the calls, without a hand-over between threads; the I/O thread reads when user code keeps
the event loop for longer than a moment. Calls that end in one turn of the event loop answer together.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from types import CoroutineType
from typing import Any, NoReturn

from nbray.runtime.overlapping import enter, refuse_blocking
from nbray.worker.concurrent import EXITED, LEAVE_S, CallHost, Hands, Running, is_construction
from nbray.worker.settling import Settled
from nbray.worker.values import Outcome

#: Tasks that a leaving actor has left over are cancelled, and have so long to clean up.
_CANCEL_S = 1.0
#: So many calls begin in one turn of the event loop at most, so that the first of many answers leave while
#: the last ones run.
_START_MAX = 128


class AsyncHost(CallHost):
    """Runs at most ``max_concurrency`` calls at once, in the order in which they came."""

    def __init__(self, hands: Hands) -> None:
        super().__init__(hands)
        self._limit = hands.actor.spec.max_concurrency
        self._is_constructed = False
        self._is_reading = False
        self._is_called = False  # the event loop was told that calls have come
        self._is_over = False  # what ends now is not answered any more
        self._ended: list[Settled] = []
        self._settling.over = self._on_settled
        self._events = asyncio.new_event_loop()
        asyncio.set_event_loop(self._events)
        refuse_blocking(self.process, lambda: self._is_constructed)

    def run_forever(self) -> NoReturn:
        events = self._events
        events.add_reader(self.process.loop.epoll.fileno(), self._read)
        events.call_soon(self._start_calls)
        while not (self.has_nothing_to_do() or self._is_over):
            try:
                events.run_forever()
            except SystemExit:  # raised in a task of the user's own, or in a callback
                self._exit()
            except BaseException:  # noqa: BLE001  # asyncio lets these end the loop; here they end their task
                traceback.print_exc()
        self._is_over = True
        self._cancel_tasks()
        self.leave()

    # --- calls come ----------------------------------------------------------------------------------

    def complete(self) -> None:
        if not (self._is_reading or self._is_called):
            self._is_called = True
            self._wake(self._start_calls)

    def _wake(self, callback: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop was closed by the user's code
            self._events.call_soon_threadsafe(callback)

    def _read(self) -> None:
        """Something has arrived."""
        self._is_reading = True  # calls that come in here are begun below
        try:
            self.process.loop.glance()
        finally:
            self._is_reading = False
        self._start_calls()

    def _start_calls(self) -> None:
        self._is_called = False
        begun: list[Running] = []
        with self.process.loop.lock:
            most = min(self._limit - len(self.running), _START_MAX)
            while len(begun) < most:
                running = self.take()
                if running is None:
                    break
                begun.append(running)
        for running in begun:
            self.begin(running)  # the task copies this context
            running.task = self._events.create_task(self._run(running))
        if begun:
            enter(self._own)
        if len(begun) == _START_MAX and not self._is_called:
            self._is_called = True
            self._events.call_soon(self._start_calls)

    # --- one call ------------------------------------------------------------------------------------

    async def _run(self, running: Running) -> None:
        try:
            outcome = await self._attempt(running)
        except SystemExit:
            self.drop(running)
            self._exit()
            return
        finally:
            running.task = None
        if self._is_over:
            return
        if is_construction(running):
            self._is_constructed = not outcome[1]
        self._ended.append(self.end(running, outcome))
        if len(self.running) == 1:  # nothing else runs that could end in this turn
            self._settle()
        elif len(self._ended) == 1:
            self._events.call_soon(self._settle)

    async def _attempt(self, running: Running) -> Outcome:
        """As the executor's; its frames and values are gone when this returns."""
        hands, link, call, known = self.hands, running.link, running.call, running.known
        assert link is not None and call is not None and known is not None
        try:
            function = known.function
            if function is None:
                function = known.function = hands.load(known)
            args, kwargs = hands.arguments(link, call, running.borrowed)
            value = function(*args, **kwargs)
            del args, kwargs
            # Not whatever can be awaited: a reference is a value.
            if type(value) is CoroutineType or asyncio.isfuture(value) or asyncio.iscoroutine(value):
                value = await value
        except SystemExit:
            raise
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the call's result
            return hands.failure(link, call, known, exc)
        return hands.outcome(link, call, known, value)

    def _settle(self) -> None:
        """All calls that ended in the last turn."""
        ended, self._ended = self._ended, []
        self.settle(ended)
        self._start_calls()
        self._stop_if_done()

    # --- the end -------------------------------------------------------------------------------------

    def _exit(self) -> None:
        """``exit_actor()`` was called."""
        self.start_leaving(EXITED)
        self._stop_if_done()

    def start_leaving(self, why: str) -> bool:
        is_first = super().start_leaving(why)
        if is_first:
            self._events.call_later(LEAVE_S, self._give_up)
        return is_first

    def _give_up(self) -> None:
        self._is_over = True
        self._events.stop()

    def _on_settled(self) -> None:
        """Lock held, in any thread."""
        if self.leaves_after >= 0:
            self._wake(self._stop_if_done)

    def _stop_if_done(self) -> None:
        if self.has_nothing_to_do():
            self._events.stop()

    def _cancel_tasks(self) -> None:
        """What the actor's code has left running may clean up."""
        left = [task for task in asyncio.all_tasks(self._events) if not task.done()]
        for task in left:
            task.cancel()
        if left:
            with contextlib.suppress(BaseException):  # whatever they raise, this is the end
                self._events.run_until_complete(asyncio.wait(left, timeout=_CANCEL_S))
