"""Calls that overlap: what each of them has for itself, and how they begin and end.

Called by:  worker.executor, when its actor runs several calls at once; worker.{async_host,threaded_host}.
Imports:    nbray.runtime, wire, worker.{actor,output,owner_links,settling,tidying}.
Never:      decides on which thread a call runs: a host does.

A call has a context (its children's IDs, its name in logs), lines that it has not finished, borrowed
arguments. The context is found by a context variable, which threads and asyncio tasks have each their own of.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, NoReturn

from nbray.core.references import Entry
from nbray.runtime.context import TaskContext, new_context
from nbray.runtime.overlapping import enter, entered, let_overlap
from nbray.runtime.process import Process
from nbray.wire.base import Value
from nbray.wire.messages import TaskAnswer, TaskCall
from nbray.worker.actor import CONSTRUCTION, Actor
from nbray.worker.output import TaskStream
from nbray.worker.owner_links import Known, OwnerLink
from nbray.worker.settling import Settled, Settling
from nbray.worker.tidying import Tidying
from nbray.worker.values import Outcome

_clock_ns = time.perf_counter_ns
#: An actor that ends by its own will waits so long for the calls that it had; its daemon waits twice as long.
LEAVE_S = 5.0
EXITED = "It ended by exit_actor() or sys.exit()."


class Hands(NamedTuple):
    """What hosts use of the executor."""

    process: Process
    actor: Actor
    tidying: Tidying
    take: Callable[[], tuple[OwnerLink, TaskCall] | None]  # the next call; lock held
    waiting: Callable[[], int]  # how many there are
    load: Callable[[Known], Callable[..., Any]]
    arguments: Callable[[OwnerLink, TaskCall, list[Entry]], tuple[tuple[Any, ...], dict[str, Any]]]
    attempt: Callable[[OwnerLink, TaskCall, Known, list[Entry]], Outcome]
    outcome: Callable[[OwnerLink, TaskCall, Known, Any], Outcome]
    failure: Callable[[OwnerLink, TaskCall, Known, BaseException], Outcome]
    answer_nobody: Callable[[TaskCall, list[Value], bool], None]  # lock held
    emit: Callable[[TaskContext, str, list[str]], int]


class Running:
    """One call that runs, or what a host does outside of calls."""

    __slots__ = (
        "_emit", "borrowed", "call", "context", "known", "link", "log_sequence", "started_ns", "streams",
        "task",
    )  # fmt: skip

    def __init__(
        self,
        context: TaskContext,
        emit: Callable[[TaskContext, str, list[str]], int],
        link: OwnerLink | None = None,
        call: TaskCall | None = None,
        known: Known | None = None,
    ) -> None:
        self._emit = emit
        self.context = context
        self.link = link
        self.call = call
        self.known = known
        self.borrowed: list[Entry] = []
        self.log_sequence = 0  # of the last lines that it printed
        self.started_ns = _clock_ns()
        self.streams: dict[str, TaskStream] | None = None  # made when it prints
        self.task: Any = None  # the host's: what of asyncio runs it

    def stream(self, name: str, fd: int) -> TaskStream:
        """Where its prints go."""
        if self.streams is None:
            self.streams = {}
        found = self.streams.get(name)
        if found is None:
            found = self.streams[name] = TaskStream(name, fd, self._print)
        return found

    def _print(self, stream: str, lines: list[str]) -> None:
        self.log_sequence = self._emit(self.context, stream, lines)

    def end_streams(self) -> None:
        """A last line without an end is a line."""
        if self.streams is not None:
            for stream in list(self.streams.values()):
                stream.end_of_task()


class DividedStream(TaskStream):
    """Stands in for ``sys.stdout`` where calls overlap: their lines do not mix."""

    def __init__(self, name: str, fd: int, of_process: Running) -> None:
        super().__init__(name, fd, lambda _stream, _lines: None)
        self._key = name
        self._of_process = of_process

    def write(self, text: str) -> int:
        running = entered() or self._of_process
        assert isinstance(running, Running)
        return running.stream(self._key, self._fd).write(text)


class CallHost:
    """Begins and ends calls. Subclasses run them: ``complete`` is called, lock held, when some have come."""

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.process = hands.process
        self.running: dict[bytes, Running] = {}
        self.leaves_after = -1  # when this actor is leaving: so many more calls of those that it was sent
        spec = hands.actor.spec
        process = hands.process
        # No call has this context: its attempt is none of the process's own (0).
        own = new_context(process.job_id, process.process_id, 1, spec.class_name, process.context.place)
        let_overlap(process, own)
        process.running = self._what_runs
        process.overlapping = self._all_that_run
        self._own = Running(own, hands.emit)
        self._settling = Settling(process, hands.tidying, self._answer)
        sys.stdout, sys.stderr = (
            DividedStream("stdout", 1, self._own), DividedStream("stderr", 2, self._own),
        )  # fmt: skip

    def run_forever(self) -> NoReturn:
        """In the main thread."""
        raise NotImplementedError

    def complete(self) -> None:
        """Calls have come. Lock held, in any thread."""
        raise NotImplementedError

    def _what_runs(self) -> str:
        names = [running.context.name for running in list(self.running.values())]
        if len(names) < 2:
            return names[0] if names else ""
        return f"{names[0]} and {len(names) - 1} more"

    def _all_that_run(self) -> list[tuple[TaskContext, float]]:
        now_ns = _clock_ns()
        running = [one for one in list(self.running.values()) if one.call is not None]
        return [(one.context, (now_ns - one.started_ns) / 1e9) for one in running]

    # --- one call ----------------------------------------------------------------------------------

    def take(self) -> Running | None:
        """Begin with the next call; lock held. None if there is none, or this actor is leaving."""
        if not self.leaves_after:
            return None
        item = self.hands.take()
        if item is None:
            return None
        self.leaves_after -= self.leaves_after > 0
        link, call = item
        known = link.known[call.spec_id]
        context = TaskContext(
            self.process.job_id, call.task_id, call.attempt, known.name, known.place, count(1)
        )
        running = self.running[call.task_id] = Running(context, self.hands.emit, link, call, known)
        return running

    def begin(self, running: Running) -> None:
        """It runs in this thread, or context of asyncio, from now on."""
        enter(running)
        assert running.known is not None
        self.process.recorder.begin_call(running.context.task_id, running.known)

    def end(self, running: Running, outcome: Outcome) -> Settled:
        """It has run; ``settle`` what this returns."""
        results, failed, inner = outcome
        if self.process.loop.closing:  # a process that the call forked came back here: it is no worker
            os._exit(int(failed))
        running.end_streams()
        assert running.call is not None and running.link is not None
        self.process.recorder.end_call(running.context.task_id, "failed" if failed else "finished")
        answer = TaskAnswer(
            running.call.task_id, running.call.attempt, failed, results,
            (_clock_ns() - running.started_ns) // 1000, running.log_sequence, inner,
        )  # fmt: skip
        borrowed, running.borrowed = running.borrowed, []
        return Settled(running.link, running.call, answer, borrowed)

    def settle(self, settled: list[Settled]) -> None:
        """These are over: answer when what they keep is safe."""
        self._settling.settle(settled)
        for one in settled:
            del self.running[one.call.task_id]
        if self.hands.actor.is_leaving:  # by ``__ray_terminate__``
            self.start_leaving("")

    def drop(self, running: Running) -> None:
        """It is over, and is not answered: the end of the actor is its answer."""
        running.end_streams()
        del self.running[running.context.task_id]

    def _answer(self, settled: Settled) -> None:
        """The owner of a call is gone; or it is the actor's own call. Lock held."""
        self.hands.answer_nobody(settled.call, settled.answer.results, settled.answer.failed)

    # --- the end -----------------------------------------------------------------------------------

    def start_leaving(self, why: str) -> bool:
        """The actor ends by its own will: what it was sent until now is finished, nothing else begun.

        False: it is doing so already.
        """
        with self.process.loop.guard, self.process.loop.lock:
            if self.leaves_after >= 0:
                return False
            self.leaves_after = self.hands.waiting()
        self.hands.actor.announce(why)
        return True

    def has_nothing_to_do(self) -> bool:
        """Whether an actor that is leaving may go now."""
        return self.leaves_after == 0 and not self.running and not self._settling.is_busy

    def leave(self) -> NoReturn:
        """End this process."""
        self._own.end_streams()
        self.hands.actor.leave()


def is_construction(running: Running) -> bool:
    """Whether it is the actor's own constructor."""
    return (
        running.link is not None
        and running.link.channel is None
        and running.call is not None
        and (running.call.spec_id == CONSTRUCTION)
    )


def host_of(hands: Hands) -> CallHost:
    """The host that an actor asks for. Called in the main thread."""
    if hands.actor.spec.is_async:
        from nbray.worker.async_host import AsyncHost

        return AsyncHost(hands)
    from nbray.worker.threaded_host import ThreadedHost

    return ThreadedHost(hands)
