"""Work for a set of actors: each is given the next piece when it is done with the last.

Called by:  users, as ``nbray.util.ActorPool``.
Imports:    nbray.api.
Never:      makes or ends an actor; has two calls under way on one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbray.api.actors import is_dead
from nbray.api.objects import get, wait
from nbray.model.actor_errors import RayActorError
from nbray.model.errors import RayTimeoutError
from nbray.runtime.refs import ObjectRef

#: Calls a method of an actor with a value: ``lambda actor, value: actor.work.remote(value)``.
Work = Callable[[Any, Any], ObjectRef]
#: ``map`` is so many values ahead of who takes the results, for each actor.
_AHEAD = 2


class ActorPool:
    """Actors that share work. One call is under way on each; what is submitted beyond that waits here.

    Results come in the order of submission (``get_next``, ``map``), or as they are ready
    (``get_next_unordered``, ``map_unordered``). An actor that died is given nothing more.

    Args:
        actors: their handles.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle = deque(actors)
        self._size = len(self._idle)
        self._waiting: deque[tuple[int, Work, Any]] = deque()
        self._running: dict[int, tuple[ObjectRef, Any]] = {}  # by number; with the actor
        self._done: dict[int, ObjectRef | BaseException] = {}  # results that were not taken
        self._submitted = 0
        self._next = 0  # the first whose result was not taken, as long as they are taken in order
        self._is_unordered = False

    # --- one by one ------------------------------------------------------------------------------

    def submit(self, fn: Work, value: Any) -> None:
        """Have an actor work: now if one is idle, else when one is and the pool is asked for a result.

        Args:
            fn: called with an actor and ``value``; returns the reference of its call.
            value: for ``fn``.

        Raises:
            ValueError: the pool has no actors.
            TypeError: ``fn`` returned something else than one reference.
        """
        if not self._size:
            raise ValueError("This pool has no actors, so nobody would do the work.")
        self._collect(0)
        number, self._submitted = self._submitted, self._submitted + 1
        self._waiting.append((number, fn, value))
        self._hand_out()
        failed = self._done.get(number)
        if isinstance(failed, BaseException):  # by ``fn`` itself, just now: it never was submitted
            del self._done[number]
            self._submitted = number
            raise failed

    def has_next(self) -> bool:
        """Whether there are results that were not taken, ready or not."""
        return bool(self._done or self._running or self._waiting)

    def get_next(self, timeout: float | None = None) -> Any:
        """The next result in the order of submission.

        Args:
            timeout: seconds to wait at most.

        Raises:
            StopIteration: all were taken.
            RayTimeoutError: it was not ready in time; ask again. It is a TimeoutError.
            ValueError: results were taken without order, and there are others left.
            Exception: what the call raised; the result is taken by that.
        """
        self._require_more()
        if self._is_unordered:
            raise ValueError(
                "get_next() cannot follow get_next_unordered() while there are results left, since nobody "
                "knows which one is next: take these by get_next_unordered(), too."
            )
        number = self._next
        self._await(lambda: number in self._done, timeout)
        self._next += 1
        return self._take(number)

    def get_next_unordered(self, timeout: float | None = None) -> Any:
        """Any result that is ready; waits for one if none is.

        Args:
            timeout: seconds to wait at most.

        Raises:
            StopIteration: all were taken.
            RayTimeoutError: none was ready in time; ask again. It is a TimeoutError.
            Exception: what the call raised; the result is taken by that.
        """
        self._require_more()
        self._await(lambda: bool(self._done), timeout)
        self._is_unordered = True
        return self._take(next(iter(self._done)))

    # --- many ------------------------------------------------------------------------------------

    def map(self, fn: Work, values: Iterable[Any]) -> Iterator[Any]:
        """The results for all values, in their order.

        Nothing is done before the first one is asked for, and values are read as they are needed. Results
        that were left from before are dropped.

        Args:
            fn: called with an actor and a value; returns the reference of its call.
            values: any number of them, also without end.
        """
        return self._map(fn, values, self.get_next)

    def map_unordered(self, fn: Work, values: Iterable[Any]) -> Iterator[Any]:
        """The results for all values as they are ready; otherwise like ``map``."""
        return self._map(fn, values, self.get_next_unordered)

    def _map(self, fn: Work, values: Iterable[Any], take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            with contextlib.suppress(Exception):  # nobody wants them any more, nor their errors
                self.get_next_unordered()
        coming = iter(values)
        is_over = False
        while True:
            while not is_over and len(self._done) + len(self._running) + len(self._waiting) < (
                _AHEAD * max(1, self._size)
            ):
                try:
                    value = next(coming)
                except StopIteration:
                    is_over = True
                else:
                    self.submit(fn, value)
            if not self.has_next():
                return
            yield take()

    # --- inside ----------------------------------------------------------------------------------

    def _require_more(self) -> None:
        if not self.has_next():
            raise StopIteration("All results of this pool were taken.")

    def _take(self, number: int) -> Any:
        result = self._done.pop(number)
        if not self.has_next():  # from here on there is an order again
            self._is_unordered, self._next = False, self._submitted
        if isinstance(result, BaseException):
            raise result
        return get(result)

    def _await(self, condition: Callable[[], bool], timeout_s: float | None) -> None:
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._collect(0)
        while not condition():
            if not self._running:  # nobody is left to do what waits
                number, _fn, _value = self._waiting.popleft()
                self._done[number] = RayActorError(why="All actors of its pool have died.")
            elif not self._collect(None if deadline_s is None else max(0.0, deadline_s - time.monotonic())):
                raise RayTimeoutError(timeout_s=timeout_s or 0.0, why="The actors of the pool are at work.")

    def _collect(self, timeout_s: float | None) -> bool:
        """Take in what is done, and give who did it something new. False: nothing was done in time."""
        if not self._running:
            return False
        refs = list(dict.fromkeys(ref for ref, _actor in self._running.values()))
        done = set(wait(refs, timeout=timeout_s)[0])
        if done and len(refs) > 1:  # more may be
            done |= set(wait(refs, num_returns=len(refs), timeout=0)[0])
        for number, (ref, actor) in list(self._running.items()):
            if ref in done:
                del self._running[number]
                self._done[number] = ref
                self._idle.append(actor)
        self._hand_out()
        return bool(done)

    def _hand_out(self) -> None:
        """Give what waits to who is idle."""
        while self._waiting and self._idle:
            actor = self._idle.popleft()
            if is_dead(actor):
                continue
            number, fn, value = self._waiting.popleft()
            try:
                self._running[number] = _call(fn, actor, value), actor
            except Exception as exc:  # noqa: BLE001  # whatever user code raises is the result
                self._done[number] = exc
                self._idle.appendleft(actor)


def _call(fn: Work, actor: Any, value: Any) -> ObjectRef:
    ref = fn(actor, value)
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            "The function of a pool returns the reference of one call, as lambda actor, value: "
            f"actor.method.remote(value) does; this one returned {type(ref).__name__}."
        )
    return ref
