"""``get`` and ``wait``: which values are there, and waiting for those that are not.

Called by:  runtime.process, whose part this is.
Imports:    core.references, runtime.{loop,objects,refs,waiting}.
Never:      sends by itself, or deserializes with the loop's lock held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nbray.core.references import Away, Entry
from nbray.model.errors import NbrayError, RayTimeoutError
from nbray.runtime.blocking import Wait
from nbray.runtime.log_order import LogOrder
from nbray.runtime.loop import Loop
from nbray.runtime.objects import Objects
from nbray.runtime.refs import ObjectRef
from nbray.runtime.waiting import AllOf, Waiter

_monotonic = time.monotonic
#: Who waits for no more than so many results may expect them within microseconds.
_FEW = 2


class Host(Protocol):
    """Whose part this is."""

    failure: NbrayError | None  # why the session is lost, if it is


class Gets:
    """What waits for values in this process.

    Args:
        check: raises if the session is lost, or the reference is another session's.
        why: says what an object that is not ready waits for.
        pin: pins objects at the daemon; when it returns all is there that the daemon said before.
    """

    def __init__(
        self,
        host: Host,
        loop: Loop,
        objects: Objects,
        logs: LogOrder,
        check: Callable[[ObjectRef], None],
        why: Callable[[Entry], str],
        pin: Callable[[list[bytes]], object],
    ) -> None:
        self.on_blocking: Callable[[bool], None] | None = None  # set by workers: a task (un)blocks
        self.waiting: Wait | None = None  # of the running task, in a worker
        self._host = host
        self._loop = loop
        self._objects = objects
        self._home = objects.home
        self._logs = logs
        self._check = check
        self._why = why
        self._pin = pin
        self._main = threading.main_thread().ident

    def get_one(self, ref: ObjectRef, timeout_s: float | None) -> Any:
        """The value of one reference; see ``nbray.get``."""
        if ref._home is not self._home or self._host.failure is not None:
            self._check(ref)
        entry = ref._entry
        if entry.value is None:
            self._wait([entry], Waiter(spins=True), _deadline(timeout_s))
            if entry.value is None:
                self._check(ref)
                raise self._late(entry, timeout_s)
            if self._host.failure is not None:
                self._check(ref)
        self._logs.settle()
        if self._objects.away:
            return self._load_away([entry], [ref], timeout_s)[0]
        return self._objects.load(entry)

    def get(self, refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        """Values of all references, in order; see ``nbray.get``."""
        entries = self._entries(refs)
        pending = [entry for entry in entries if entry.value is None]
        if pending and not any(entry.failed for entry in entries):  # else it is clear what comes of it
            self._wait_for_all(pending, _deadline(timeout_s))
            if self._host.failure is not None:
                self._check(refs[0])
        self._logs.settle()
        late: Entry | None = None
        load = self._objects.load
        for entry in entries:
            if entry.failed:
                load(entry)
            if entry.value is None and late is None:
                late = entry
        if late is not None:
            raise self._late(late, timeout_s)
        if self._objects.away:
            return self._load_away(entries, refs, timeout_s)
        return [load(entry) for entry in entries]

    def _load_away(
        self, entries: list[Entry], refs: Sequence[ObjectRef], timeout_s: float | None
    ) -> list[Any]:
        """Values of which some lie on the disk: all are asked for at once, and read as they come."""
        deadline_s = _deadline(timeout_s)
        self._objects.fetch(entries)
        values = []
        for entry, ref in zip(entries, refs, strict=True):
            if type(entry.value) is Away:
                self._wait([entry], Waiter(spins=True), deadline_s)
                self._check(ref)
                if type(entry.value) is Away and deadline_s is not None and _monotonic() >= deadline_s:
                    raise self._late(entry, timeout_s)
            values.append(self._objects.load(entry))
        return values

    def wait(
        self, refs: Sequence[ObjectRef], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """Split distinct references into ready ones (at most ``num_returns``) and the rest.

        What lies on the disk is ready, and stays there. What is lost is not, and is made again.

        Raises:
            ValueError: a reference is there twice.
        """
        entries = self._entries(refs)
        if len(set(entries)) != len(entries):
            raise ValueError("nbray.wait() takes distinct references; the list holds one twice.")
        if self._objects.away and self._objects.ask_if_lost(entries):
            self._pin([])  # a question: what is lost is known when it is answered
        ready = _ready(entries, num_returns)
        if len(ready) < num_returns:
            pending = [entry for entry in entries if entry.value is None]
            missing = num_returns - (len(entries) - len(pending))
            if missing > 0:
                self._wait(pending, Waiter(missing, spins=True), _deadline(timeout_s))
                if self._host.failure is not None:
                    self._check(refs[0])
            ready = _ready(entries, num_returns)
        self._logs.settle()
        return _split(refs, ready)

    def entry(self, ref: ObjectRef) -> Entry:
        """What this process knows of a reference's object, for waits of another kind.

        Raises:
            NbrayError: as ``get`` does for a lost session and a reference that is not of this one.
        """
        self._check(ref)
        return ref._entry

    def is_in_main_thread(self) -> bool:
        """Whether it is the thread that runs a worker's tasks."""
        return threading.get_ident() == self._main

    # --- waiting ---------------------------------------------------------------------------------

    def _entries(self, refs: Sequence[ObjectRef]) -> list[Entry]:
        if self._host.failure is not None or {ref._home for ref in refs} - {self._home}:
            for ref in refs:
                self._check(ref)
        return [ref._entry for ref in refs]

    def _late(self, entry: Entry, timeout_s: float | None) -> RayTimeoutError:
        return RayTimeoutError(object_id=entry.object_id, timeout_s=timeout_s or 0.0, why=self._why(entry))

    def _wait_for_all(self, pending: list[Entry], deadline_s: float | None) -> None:
        """Wait until all are there, or one of them is an error.

        The waiter stands at the last one only, which as a rule is the last to come: thousands need not be
        told of it. Errors are told to all who wait for many.
        """
        lock, watchers = self._loop.lock, self._objects.watchers
        with self._loop.guard:
            with lock:
                waiter = AllOf(pending, spins=len(pending) <= _FEW)
                self._objects.ask(pending)
                watchers.append(waiter)
            try:
                while True:
                    with lock:
                        entry = waiter.next_missing()
                    if entry is None or not self._wait([entry], waiter, deadline_s):
                        return
            finally:
                with lock:
                    watchers.remove(waiter)

    def _wait(self, pending: list[Entry], waiter: Waiter, deadline_s: float | None) -> bool:
        """Wait until ``waiter`` is done; Ctrl-C is raised on the way out. False if it ended otherwise."""
        loop, objects, on_blocking = self._loop, self._objects, self.on_blocking
        with loop.guard:
            with loop.lock:
                still = [entry for entry in pending if entry.value is None or type(entry.value) is Away]
                waiter.remaining -= len(pending) - len(still)
                if waiter.done or waiter.remaining <= 0:
                    return True
                objects.await_entries(still, waiter)
            is_task = on_blocking is not None and threading.get_ident() == self._main
            wait = None
            if is_task and (deadline_s is None or deadline_s > _monotonic()):
                wait = self.waiting = Wait(still, waiter)
                on_blocking(True)  # type: ignore[misc]  # is_task says that it is there
            try:
                while True:
                    if loop.wait(waiter, deadline_s):
                        if wait is None or wait.errand is None:
                            break
                        self._run_errand(wait)
                    elif not loop.guard.deliver():  # a handler of the user's own lets the wait go on
                        break
            finally:
                if wait is not None:
                    self._end_wait(wait)
                    on_blocking(False)  # type: ignore[misc]
                if not waiter.done:
                    with loop.lock:
                        objects.forget_waiter(still, waiter)
        return waiter.done and not loop.closing

    def _run_errand(self, wait: Wait) -> None:
        """Something that this thread has to do while it waits, outside of the guard."""
        loop = self._loop
        with loop.lock:
            errand, wait.errand = wait.errand, None
            self.waiting = None
        depth = loop.guard.open()
        try:
            if errand is not None:
                errand()
        finally:
            loop.guard.close(depth)
            with loop.lock:
                self.waiting = wait
                wait.waiter.recheck()

    def _end_wait(self, wait: Wait) -> None:
        with self._loop.lock:
            self.waiting = None
            if wait.errand is not None:
                wait.waiter.recheck()
                assert wait.give_up is not None
                wait.give_up()


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else _monotonic() + timeout_s


def _ready(entries: list[Entry], at_most: int) -> list[int]:
    """Positions of the first ones that are there."""
    found = []
    for index, entry in enumerate(entries):
        if entry.value is not None:
            found.append(index)
            if len(found) == at_most:
                break
    return found


def _split(refs: Sequence[ObjectRef], ready: list[int]) -> tuple[list[ObjectRef], list[ObjectRef]]:
    rest = list(refs)
    chosen = [rest[index] for index in ready]
    if len(ready) == 1:
        del rest[ready[0]]
    elif ready:
        taken = set(ready)
        rest = [ref for index, ref in enumerate(rest) if index not in taken]
    return chosen, rest
