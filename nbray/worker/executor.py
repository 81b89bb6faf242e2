"""Runs tasks in the worker's main thread and answers their owners.

Called by:  worker.zygote, in the forked child.
Imports:    nbray.runtime, worker.output.
Never:      runs two tasks at once, or answers a task whose argument views are not yet safe.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from functools import partial
from typing import Any

from nbray.core.references import Entry
from nbray.model import ids
from nbray.model.errors import ObjectStoreFullError, RayConnectionError, SerializationError
from nbray.model.limits import INLINE_MAX_BYTES
from nbray.runtime.call_limit import CallLimit
from nbray.runtime.context import TaskContext
from nbray.runtime.functions import Imports
from nbray.runtime.loop import Waiter
from nbray.runtime.process import Argument, Process
from nbray.runtime.serialization import Serialized, deserialize, serialize
from nbray.runtime.task_errors import serialize_error, serialize_system_error
from nbray.transport.channel import Channel
from nbray.transport.sockets import check_peer, tuned
from nbray.wire.codec import encode
from nbray.wire.messages import (
    Blocked,
    DefineFunction,
    Descriptor,
    HandBack,
    JobContext,
    LeasePaused,
    LeaseResumed,
    Leaving,
    LogLines,
    Message,
    OwnerHello,
    RunTask,
    TakeBack,
    TaskDone,
    Unblocked,
    Value,
)
from nbray.worker.leaving import Departure
from nbray.worker.output import TaskStream

_clock_ns = time.perf_counter_ns
logger = logging.getLogger("nbray")
#: Answers of tasks shorter than this may wait for the next one's, to leave together.
_BATCH_TASK_US = 200
_BATCH_NS = 500_000


class OwnerLink:
    """A connection from an owner that leased this worker."""

    __slots__ = ("channel", "lease_id", "owner_id")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.lease_id = b""
        self.owner_id = b""


class Executor:
    """The worker's side of leases: a queue of pushed tasks and the one that runs."""

    def __init__(self, process: Process, listener: socket.socket) -> None:
        self._process = process
        self._loop = process.loop
        self._imports = Imports()
        self._departure = Departure(process)
        self._inbox: deque[tuple[OwnerLink, RunTask]] = deque()
        self._idle: Waiter | None = None
        self._running: tuple[OwnerLink, RunTask] | None = None
        self._blocked = False
        self._unsent_since_ns = 0
        self._log_sequence = 0
        self._log_reported = 0
        self._streams = (TaskStream("stdout", 1, self._emit), TaskStream("stderr", 2, self._emit))
        process.on_blocking = self._on_blocking
        self._loop.add_acceptor(listener, self._on_owner)

    # --- messages (lock held) --------------------------------------------------------------------

    def _on_owner(self, sock: socket.socket) -> None:
        try:
            check_peer(sock)
        except RayConnectionError as exc:
            sock.close()
            logger.warning("%s", exc)
            return
        link = OwnerLink()
        link.channel = self._loop.add(
            tuned(sock), "owner", partial(self._on_owner_message, link), partial(self._on_owner_closed, link)
        )

    def _on_owner_message(self, link: OwnerLink, message: Message) -> None:
        if type(message) is RunTask:
            if self._blocked:
                self._hand_back(link, [message])
                return
            self._inbox.append((link, message))
            if self._idle is not None:
                self._idle.complete()
        elif type(message) is DefineFunction:
            self._imports.define(message)
        elif type(message) is OwnerHello:
            link.lease_id = message.lease_id
            link.owner_id = message.owner.process_id
        elif type(message) is TakeBack:
            self._give_up(link, message.count)

    def _on_owner_closed(self, link: OwnerLink) -> None:
        """Nobody wants these any more. The running task goes on until the daemon ends this process."""
        link.channel = None
        self._inbox = deque(item for item in self._inbox if item[0] is not link)

    def on_daemon_message(self, message: Message) -> None:
        if type(message) is JobContext:
            self._enter_job(message)
        elif type(message) is Leaving:
            self._departure.on_dismissed()
        else:
            self._process.on_daemon_message(message)

    def _enter_job(self, message: JobContext) -> None:
        """See modules where the driver saw them."""
        self._process.job_id = self._process.submitter.job_id = message.job_id
        os.umask(message.umask)
        known = set(sys.path)
        sys.path[:0] = [path for path in message.sys_path if path not in known]
        try:
            os.chdir(message.cwd)
        except OSError as exc:
            self._process.loop.later.append(
                partial(logger.warning, "cannot enter the driver's folder: %s", exc)
            )

    def _hand_back(self, link: OwnerLink, messages: list[RunTask]) -> None:
        if link.channel is not None:
            tasks = [(message.task_id, message.attempt) for message in messages]
            self._loop.send(link.channel, encode(HandBack(link.lease_id, tasks)), now=True)

    def _give_up(self, link: OwnerLink, count: int) -> None:
        """Hand back the newest unstarted tasks of an owner, at most ``count``."""
        mine = [item for item in self._inbox if item[0] is link]
        given = {message.task_id for _link, message in mine[len(mine) - min(count, len(mine)) :]}
        self._inbox = deque(item for item in self._inbox if item[1].task_id not in given)
        # An empty answer too: it says that the request was dealt with.
        self._hand_back(link, [m for _link, m in mine if m.task_id in given])

    # --- the main thread -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        sys.stdout, sys.stderr = self._streams
        while True:
            link, message = self._next()
            self._execute(link, message)
            if CallLimit.reached:
                self._running = (link, message)
                self._on_blocking(True)  # hand back what waits here, and be sent nothing more
                self._departure.go()

    def _next(self) -> tuple[OwnerLink, RunTask]:
        loop = self._loop
        with loop.guard:
            while True:
                waiter = Waiter()
                with loop.lock:
                    if self._inbox:
                        self._idle = None
                        return self._inbox.popleft()
                    self._idle = waiter
                    loop.flush_dirty()
                loop.wait(waiter)

    def _execute(self, link: OwnerLink, message: RunTask) -> None:
        process = self._process
        process.context = TaskContext(
            process.job_id, message.task_id, message.attempt, message.depth + 1, message.name, message.cell
        )
        self._running = (link, message)
        borrowed: list[Entry] = []
        with self._loop.lock:
            process.recorder.task(message.task_id, "running", message.name, message.cell)
        started_ns = _clock_ns()
        results, failed = self._attempt(link, message, borrowed)
        execution_us = (_clock_ns() - started_ns) // 1000
        if self._loop.closing:  # a process that the task forked came back here: it is no worker
            os._exit(int(failed))
        for stream in self._streams:
            stream.end_of_task()
        if borrowed:
            self._release(borrowed)
        with self._loop.lock:
            process.recorder.task(
                message.task_id, "failed" if failed else "finished", message.name, message.cell
            )
        self._running = None
        if CallLimit.reached:
            self._departure.announce()
        self._answer(link, message, results, failed, execution_us)

    def _attempt(self, link: OwnerLink, message: RunTask, borrowed: list[Entry]) -> tuple[list[Value], bool]:
        """Run the user's function; its frames and values are gone when this returns."""
        try:
            function = self._imports.load(message.function_id)
            args, kwargs = self._arguments(link, message, borrowed)
            value = function(*args, **kwargs)
            del args, kwargs
        except SystemExit as exc:
            self._leave(exc)
            raise
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            return self._failure(message, exc)
        try:
            return self._results(link, message, value), False
        except (SerializationError, ObjectStoreFullError) as exc:
            # Ours, not the user's: they stand for themselves.
            return [serialize_system_error(exc)] * message.num_returns, True
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            return self._failure(message, exc)

    @staticmethod
    def _failure(message: RunTask, exc: BaseException) -> tuple[list[Value], bool]:
        error = serialize_error(exc, task_name=message.name, pid=os.getpid(), node="local")
        return [error] * message.num_returns, True

    def _arguments(
        self, link: OwnerLink, message: RunTask, borrowed: list[Entry]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._value(link, message.args, borrowed)
        if message.dependencies:
            values = [self._value(link, value, borrowed) for value in message.dependencies]
            args = tuple(values[a.index] if type(a) is Argument else a for a in args)
            kwargs = {k: values[a.index] if type(a) is Argument else a for k, a in kwargs.items()}
        return args, kwargs

    def _value(self, link: OwnerLink, value: Value, borrowed: list[Entry]) -> Any:
        if type(value) is bytes:
            return deserialize(value)
        assert type(value) is Descriptor
        objects = self._process.objects
        with self._loop.lock:
            entry = objects.table.borrow_argument(value.object_id, link.owner_id)
            if entry.value is None:
                objects.deliver(value.object_id, value, False)
        borrowed.append(entry)
        return objects.load(entry)

    def _results(self, link: OwnerLink, message: RunTask, value: Any) -> list[Value]:
        count = message.num_returns
        if count == 1:
            return [self._pack(link, message, 0, serialize(value, root="result"))]
        if count == 0:
            return []
        if not isinstance(value, (tuple, list)) or len(value) != count:
            got = f"{len(value)} values" if isinstance(value, (tuple, list)) else type(value).__name__
            raise ValueError(
                f"Task {message.name} was declared with num_returns={count} but returned {got}. "
                f"Return a tuple of {count} values, or change num_returns."
            )
        # All are pickled before the first is stored: a failure leaves nothing in the store.
        packed = [serialize(item, root=f"result[{index}]") for index, item in enumerate(value)]
        return [self._pack(link, message, index, item) for index, item in enumerate(packed)]

    def _pack(self, link: OwnerLink, message: RunTask, index: int, packed: Serialized) -> Value:
        if packed.size_bytes <= INLINE_MAX_BYTES and not message.seal_results:
            return packed.to_bytes()
        return self._process.store_result(ids.result_id(message.task_id, index), link.owner_id, packed)

    def _release(self, borrowed: list[Entry]) -> None:
        """Let go of the task's arguments; pin those of which a view lives on, before the owner frees them."""
        objects = self._process.objects
        with self._loop.lock:
            objects.drain()
            objects.release_arguments([entry.object_id for entry in borrowed])
            known = objects.table.entries
            # By ID: one that was given twice is pinned once, since it is unpinned once.
            kept = {e.object_id: e for e in borrowed if not e.pinned and e.object_id in known}
        if kept:
            self._process.pin(list(kept))
            with self._loop.lock:
                objects.note_pinned(list(kept.values()))

    def _answer(
        self, link: OwnerLink, message: RunTask, results: list[Value], failed: bool, execution_us: int
    ) -> None:
        log_sequence = 0
        if self._log_reported != self._log_sequence:
            log_sequence = self._log_reported = self._log_sequence
        frame = encode(
            TaskDone(message.task_id, message.attempt, failed, results, execution_us, log_sequence)
        )
        with self._loop.guard, self._loop.lock:
            if link.channel is None:
                return
            now_ns = _clock_ns()
            if not link.channel.outgoing:
                self._unsent_since_ns = now_ns
            now = (
                not self._inbox or execution_us > _BATCH_TASK_US or now_ns - self._unsent_since_ns > _BATCH_NS
            )
            self._loop.send(link.channel, frame, now=now)

    def _leave(self, exc: SystemExit) -> None:
        """``sys.exit`` in a task ends the worker with that code; its owner gets a typed error."""
        for stream in self._streams:
            stream.end_of_task()
        with self._loop.lock:
            self._loop.flush_dirty()
        code = exc.code if isinstance(exc.code, int) else (0 if exc.code is None else 1)
        os._exit(code & 0xFF)

    # --- blocking ------------------------------------------------------------------------------------

    def _on_blocking(self, blocking: bool) -> None:
        """The running task waits (or goes on): its CPU is free for others, its queue must not wait."""
        running = self._running
        if running is None:
            return
        link = running[0]
        with self._loop.lock:
            self._blocked = blocking
            if blocking:
                while self._inbox:
                    other, _message = self._inbox[0]
                    same = [m for x, m in self._inbox if x is other]
                    self._inbox = deque(item for item in self._inbox if item[0] is not other)
                    self._hand_back(other, same)
            if link.channel is not None:
                kind = LeasePaused if blocking else LeaseResumed
                self._loop.send(link.channel, encode(kind(link.lease_id)), now=True)
            self._process.tell_daemon(Blocked(link.lease_id) if blocking else Unblocked(link.lease_id))

    # --- output --------------------------------------------------------------------------------------

    def _emit(self, stream: str, lines: list[str]) -> None:
        context = self._process.context
        with self._loop.lock:
            self._log_sequence += 1
            self._process.tell_daemon(
                LogLines(
                    self._process.process_id,
                    os.getpid(),
                    context.name,
                    stream,
                    self._log_sequence,
                    context.cell,
                    lines,
                )
            )
