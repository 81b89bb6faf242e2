"""A worker that runs the task that it waits for by itself, when no other process can be had.

Called by:  worker.zygote, in the forked child.
Imports:    worker.{executor,values}, runtime.inlining, wire.
Never:      runs a task that its own wait does not depend on (``core.inlining`` says why), or says to the
            owner of the task that waits that it goes on: it takes no other task meanwhile.

The task runs on top of the one that waits, in the same thread: with a context, a recursion limit and results
of its own. What ends the process ends both.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from types import FrameType

from nbray.core.references import Entry
from nbray.core.tasks import Task, TaskSpec
from nbray.model.errors import RayWorkerError
from nbray.runtime.context import TaskContext
from nbray.runtime.inlining import OwnTasks
from nbray.runtime.links import definition_of
from nbray.runtime.process import Inner, Process
from nbray.runtime.refs import ObjectRef
from nbray.runtime.task_errors import serialize_system_error
from nbray.wire.base import Message, Value
from nbray.wire.cancel_messages import CancelTask
from nbray.wire.inline_messages import InlineDeclined, RunInline
from nbray.wire.messages import Blocked, TaskCall, Unblocked
from nbray.worker.executor import Executor
from nbray.worker.owner_links import Known, OwnerLink
from nbray.worker.values import Values

#: So many tasks stand on one stack at most; beyond, another process is started. A level takes 20 frames,
#: which lie on the C stack before Python 3.11 (10 KB of 8 MB) and not since (1 KB).
_LEVELS_MAX = 500 if sys.version_info >= (3, 11) else 200


class _ExitedError(BaseException):
    """A task that runs on top of another one called ``sys.exit``."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class NestingExecutor(Executor):
    """An executor with a stack of tasks."""

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._own = OwnTasks(process.submitter, process.objects)
        self._home = OwnerLink()  # the owner is this process
        self._stack: list[Task] = []
        self._frames_of_one = 0  # the recursion limit of a task alone
        self._values = _ValuesHere(process, self._home, self._contain)
        process.submitter.cancelling.interrupt_here = self._interrupt_here

    def begin(self, listener: socket.socket) -> None:
        """See ``Executor.begin``."""
        super().begin(listener)
        self._home.owner_id = self._process.process_id

    # --- messages (lock held) --------------------------------------------------------------------

    def on_daemon_message(self, message: Message) -> None:
        if type(message) is RunInline:
            self._on_run_inline(message)
        else:
            super().on_daemon_message(message)

    def _on_run_inline(self, message: RunInline) -> None:
        """No process will come for our lease: take what the main thread waits for out of its queue."""
        wait = self._process.gets.waiting
        link = self._running
        task = None
        if wait is not None and wait.errand is None and link is not None and len(self._stack) < _LEVELS_MAX:
            task = self._own.take(wait, message.lease_id)
        if wait is None or task is None or link is None:
            self._process.tell_daemon(InlineDeclined(message.lease_id))
            return
        self._process.tell_daemon(Unblocked(link.lease_id))
        wait.errand = partial(self._run_inline, task)
        wait.give_up = partial(self._own.put_back, task)
        wait.waiter.complete()

    def _interrupt_here(self, task: Task) -> None:
        """A task of ours is cancelled that no worker has."""
        self._interrupts.cancel(CancelTask(task.task_id, task.attempt, False), self._loop.flush)

    # --- the main thread -----------------------------------------------------------------------------

    def _run_inline(self, task: Task) -> None:
        """Run it, while the task below waits for it. The guard is open: both may be interrupted."""
        process, interrupts = self._process, self._interrupts
        below = (process.context, self._waits.set_aside(), process.recorder.set_aside())
        threads, limit = self._limit.threads, sys.getrecursionlimit()
        if not self._stack:
            self._frames_of_one = limit
        interrupted = interrupts.set_aside()
        self._end_lines()
        self._stack.append(task)
        sys.setrecursionlimit(self._frames_of_one + _frames_below())
        try:
            with self._loop.lock:
                known = self._known_here(task.spec)
                call = self._own.call(task)
            self._run_on_top(task, call, known)
        finally:
            sys.setrecursionlimit(limit)
            self._stack.pop()
            process.context, waits, begun = below
            self._waits.take_up(waits)
            process.recorder.take_up(begun)
            if self._limit.threads != threads:
                self._limit.set(threads)
            with self._loop.lock:
                if self._running is not None:
                    process.tell_daemon(Blocked(self._running.lease_id))
        interrupts.take_up(interrupted)

    def _run_on_top(self, task: Task, call: TaskCall, known: Known) -> None:
        process = self._process
        process.context = TaskContext(
            process.job_id, call.task_id, call.attempt, known.name, known.place, count(1)
        )
        if known.threads != self._limit.threads:
            self._limit.set(known.threads)
        borrowed: list[Entry] = []
        process.recorder.begin(call.task_id, known)
        try:
            results, failed, _ = self._attempt(self._home, call, known, borrowed)
        except _ExitedError as exc:
            results, failed = _exited(known, exc.code)
        except Exception as exc:  # noqa: BLE001  # no stack left, say: who waits must hear of it
            results, failed, _ = self._failure(self._home, call, known, exc)
        if self._loop.closing:  # a process that the task forked came back here: it is no worker
            os._exit(int(failed))
        self._end_lines()
        state = "failed" if failed else "finished"
        if self._asked:
            state = self._interrupts.ended(call, state)
        process.recorder.end(state)
        with self._loop.guard, self._loop.lock:
            process.objects.drain()
            process.objects.release_arguments([entry.object_id for entry in borrowed])
            self._own.answered(task, results, failed)

    def _known_here(self, spec: TaskSpec) -> Known:
        known = self._home.known.get(spec.spec_id)
        if known is None:
            self._imports.define(self._process.submitter.exports.messages[spec.function_id])
            known = self._home.known[spec.spec_id] = Known(definition_of(spec))
        return known

    def _end_lines(self) -> None:
        for stream in self._streams:
            if stream.is_used:
                stream.end_of_task()

    # --- what is otherwise on top of another task --------------------------------------------------------

    def _contain(self, refs: list[list[ObjectRef]]) -> None:
        """The results of the task on top hold these."""
        with self._loop.guard, self._loop.lock:
            self._own.contain(self._stack[-1], refs)

    def _leave(self, exc: SystemExit) -> None:
        if self._stack:
            raise _ExitedError(exc.code if isinstance(exc.code, int) else int(exc.code is not None))
        super()._leave(exc)

    def _on_blocking(self, blocking: bool) -> None:
        link = self._running
        if not self._stack or link is None:
            super()._on_blocking(blocking)
            return
        with self._loop.lock:
            self._process.tell_daemon(Blocked(link.lease_id) if blocking else Unblocked(link.lease_id))


class _ValuesHere(Values):
    """Of tasks whose owner is this process: the results are where they belong."""

    def __init__(
        self, process: Process, home: OwnerLink, contain: Callable[[list[list[ObjectRef]]], None]
    ) -> None:
        super().__init__(process)
        self._home = home
        self._contain = contain

    def parcel(self, link: OwnerLink, call: TaskCall, refs: list[list[ObjectRef]]) -> Inner:
        if link is not self._home:
            return super().parcel(link, call, refs)
        if any(refs):
            self._contain(refs)
        return ()


def _exited(known: Known, code: int) -> tuple[list[Value], bool]:
    error = RayWorkerError(task_name=known.name, pid=os.getpid(), exit_code=code & 0xFF)
    return [serialize_system_error(error)] * known.num_returns, True


def _frames_below() -> int:
    number = 0
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  (its only name)
    while frame is not None:
        number, frame = number + 1, frame.f_back
    return number
