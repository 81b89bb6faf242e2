"""Runs tasks in the worker's main thread and answers their owners.

Called by:  worker.zygote, in the forked child.
Imports:    nbray.runtime; worker.{actor,cancelling,leaving,lingering,output,threads,tidying,undoing}.
Never:      runs two tasks at once, or answers a task whose argument views are not yet safe.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, NoReturn

from nbray.core.references import Away, Entry
from nbray.core.tasks import parcel_id
from nbray.model import ids
from nbray.model.errors import ObjectStoreFullError, RayConnectionError, SerializationError
from nbray.model.limits import INLINE_MAX_BYTES, INLINE_TOTAL_MAX_BYTES
from nbray.runtime.arguments import fill_in
from nbray.runtime.blocking import BlockingCount
from nbray.runtime.call_limit import CallLimit
from nbray.runtime.context import TaskContext
from nbray.runtime.functions import Imports
from nbray.runtime.process import Inner, Process
from nbray.runtime.pushed_errors import TASK
from nbray.runtime.refs import ObjectRef
from nbray.runtime.results import returned
from nbray.runtime.serialization import Serialized, deserialize, pack_small, serialize
from nbray.runtime.task_errors import serialize_error, serialize_system_error, text_of
from nbray.runtime.waiting import Waiter
from nbray.transport.sockets import check_peer, tuned
from nbray.wire.actor_messages import StartActor
from nbray.wire.base import Descriptor, Message, Value
from nbray.wire.cancel_messages import CancelTask
from nbray.wire.codec import encode
from nbray.wire.messages import (
    Blocked,
    DefineFunction,
    DefineTask,
    HandBack,
    JobContext,
    LeasePaused,
    LeaseResumed,
    Leaving,
    LogLines,
    OwnerHello,
    RunTasks,
    TakeBack,
    TaskAnswer,
    TaskCall,
    TasksDone,
    Unblocked,
)
from nbray.worker.actor import CONSTRUCTION, Actor
from nbray.worker.cancelling import Interrupts, with_a_frame
from nbray.worker.leaving import Departure
from nbray.worker.lingering import OWN_THREADS, Lingering, count_threads
from nbray.worker.output import TaskStream
from nbray.worker.owner_links import Known, OwnerLink
from nbray.worker.threads import ThreadLimit
from nbray.worker.tidying import Tidying
from nbray.worker.undoing import Undoing

_clock_ns = time.perf_counter_ns
logger = logging.getLogger("nbray")
#: Answers of tasks shorter than this may wait for the next one's, to leave together.
_BATCH_TASK_US = 200
_BATCH_NS = 500_000
#: So many leave together at most: an owner pushes twice as many ahead (``core.leases``).
_BATCH_MAX = 64
#: A result that is larger than this leaves at once.
_BULKY_BYTES = 4096


#: The results of a task, and whether they are its error.
Outcome = tuple[list[Value], bool]


class Executor:
    """The worker's side of leases: a queue of pushed tasks and the one that runs."""

    def __init__(self, process: Process) -> None:
        self.process = self._process = process
        self._loop = process.loop
        self._imports = Imports()
        self._departure = Departure(process)
        self._actor: Actor | None = None
        self._actor_link = OwnerLink()
        self._inbox: deque[tuple[OwnerLink, TaskCall]] = deque()
        self._idle: Waiter | None = None
        self._running: OwnerLink | None = None
        self._blocked = False
        self._unsent_since_ns = 0
        self._following: tuple[OwnerLink, TaskCall] | None = None  # taken out of the inbox, runs next
        self._limit = ThreadLimit()
        self._undoing = Undoing()
        self._lingering = Lingering()
        self._is_used_up = False
        self._tidying = Tidying(process)
        self._interrupts = Interrupts(self._loop.guard, Executor._attempt.__code__)
        self._asked = self._interrupts.asked
        self._inner: Inner = ()  # references in the results of the task that ran
        process.objects.says_at_once = False  # but when a task is over
        self._known: Known | None = None  # of the task that runs, or ran last
        process.recorder.is_last_attempt = self._is_last_attempt
        process.running = lambda: process.context.name if self._running is not None else ""
        self._log_sequence = 0
        self._log_reported = 0
        self._streams = (TaskStream("stdout", 1, self._emit), TaskStream("stderr", 2, self._emit))
        self._waits = process.gets.on_blocking = BlockingCount(self._on_blocking)

    def begin(self, listener: socket.socket) -> None:
        """This is the process in which it runs; ``listener`` is where owners connect."""
        self._interrupts.install()
        self._undoing.install()
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
        link.channel.batch = TasksDone

    def _on_owner_message(self, link: OwnerLink, message: Message) -> None:
        if type(message) is RunTasks:
            if self._blocked:
                self._hand_back(link, message.calls)
                return
            self._inbox.extend([(link, call) for call in message.calls])
            if self._idle is not None:
                self._idle.complete()
        elif type(message) is DefineTask:
            link.known[message.spec_id] = self._learned(message)
        elif type(message) is DefineFunction:
            self._imports.define(message)
        elif type(message) is OwnerHello:
            link.lease_id = message.lease_id
            link.owner_id = message.owner.process_id
        elif type(message) is TakeBack:
            self._give_up(link, message.count)
        elif type(message) is CancelTask:
            self._cancel(link, message)

    def _learned(self, message: DefineTask) -> Known:
        known = Known(message)
        if self._actor is not None:  # its callers do not know what it has
            known.threads = self._actor.spec.threads
        return known

    def _on_owner_closed(self, link: OwnerLink) -> None:
        """Nobody wants these any more. The running task goes on until the daemon ends this process."""
        link.channel = None
        self._inbox = deque(item for item in self._inbox if item[0] is not link)

    def on_daemon_message(self, message: Message) -> None:
        if type(message) is JobContext:
            self._enter_job(message)
        elif type(message) is Leaving:
            if self._actor is not None:
                self._queue(self._actor_link, self._actor.departure())
                return
            self._departure.on_dismissed()
            if self._idle is not None:
                self._idle.complete()
        elif type(message) is DefineFunction:
            self._imports.define(message)
        elif type(message) is StartActor:
            self._become(message)
        else:
            self._process.on_daemon_message(message)

    def _become(self, message: StartActor) -> None:
        """This worker is an actor from now on."""
        self._actor = self._process.actor = Actor(self._process, self._imports, message)
        self._actor_link.owner_id = message.spec.owner
        for definition in self._actor.definitions():
            self._actor_link.known[definition.spec_id] = self._learned(definition)
        self._queue(self._actor_link, self._actor.construction())

    def _queue(self, link: OwnerLink, call: TaskCall) -> None:
        self._inbox.append((link, call))
        if self._idle is not None:
            self._idle.complete()

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
        self._undoing.forget()

    def _hand_back(self, link: OwnerLink, calls: list[TaskCall]) -> None:
        if link.channel is not None:
            tasks = [(call.task_id, call.attempt) for call in calls]
            self._loop.send(link.channel, encode(HandBack(link.lease_id, tasks)), now=True)

    def _give_up(self, link: OwnerLink, count: int) -> None:
        """Hand back the newest unstarted tasks of an owner, at most ``count``."""
        mine = [item for item in self._inbox if item[0] is link]
        given = {call.task_id for _link, call in mine[len(mine) - min(count, len(mine)) :]}
        self._inbox = deque(item for item in self._inbox if item[1].task_id not in given)
        # An empty answer too: it says that the request was dealt with.
        self._hand_back(link, [call for _link, call in mine if call.task_id in given])

    def _cancel(self, link: OwnerLink, message: CancelTask) -> None:
        for item in self._inbox:
            if item[1].task_id == message.task_id and item[1].attempt == message.attempt:
                self._inbox.remove(item)
                self._hand_back(link, [item[1]])
                return
        self._interrupts.cancel(message, self._loop.flush)

    # --- the main thread -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        sys.stdout, sys.stderr = self._streams
        guard, interrupts = self._loop.guard, self._interrupts
        link, call = self._wait_for_work(None)
        while True:
            self._execute(link, call)
            if guard.seen is not interrupts.handler:
                interrupts.restore()
            if self._is_used_up:
                self._depart(link)
            if self._actor is not None and self._actor.is_leaving:
                self._actor.leave()
            following = self._following
            link, call = self._wait_for_work(link) if following is None else following

    def _depart(self, link: OwnerLink) -> NoReturn:
        """This worker is used up: hand back what waits here, be sent nothing more, and end."""
        if self._following is not None:
            with self._loop.lock:
                self._inbox.appendleft(self._following)
        self._running = link
        self._on_blocking(True)
        self._departure.go()

    def _wait_for_work(self, last: OwnerLink | None) -> tuple[OwnerLink, TaskCall]:
        tidy_at_s = self._tidying.deadline_s()
        lingering = self._lingering
        while True:
            deadline_s = tidy_at_s
            if self._actor is None and (count_threads() > OWN_THREADS or lingering.since_s is not None):
                lingering.look()
                deadline_s = lingering.sooner(tidy_at_s)
            work = self._next_work(deadline_s)
            if work is not None:
                return work
            if tidy_at_s is not None and time.monotonic() >= tidy_at_s:
                self._tidying.collect()
                tidy_at_s = None  # until the next task there will be nothing new
            if last is not None and lingering.is_too_long():
                self._departure.announce()
                self._depart(last)

    def _next_work(self, deadline_s: float | None) -> tuple[OwnerLink, TaskCall] | None:
        """The next task; None if there was none until then."""
        loop = self._loop
        with loop.guard:
            while True:
                waiter = Waiter(spins=True)
                with loop.lock:
                    if self._inbox:
                        self._idle = None
                        return self._inbox.popleft()
                    self._idle = waiter
                    self._asked.clear()  # nothing runs: they came too late
                    loop.flush()
                if self._departure.dismissed.done:
                    self._departure.go()
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    return None
                loop.wait(waiter, deadline_s)
                if loop.guard.pending:
                    loop.guard.deliver()  # to nobody

    def _execute(self, link: OwnerLink, call: TaskCall) -> None:
        process = self._process
        known = self._known = link.known[call.spec_id]
        process.context = TaskContext(
            process.job_id, call.task_id, call.attempt, known.name, known.place, count(1)
        )
        if known.threads != self._limit.threads:
            self._limit.set(known.threads)
            self._undoing.forget()
        self._running = link
        borrowed: list[Entry] = []
        process.recorder.begin(call.task_id, known)
        started_ns = _clock_ns()
        self._inner = ()
        results, failed = self._attempt(link, call, known, borrowed)
        state = "failed" if failed else "finished"
        if self._asked:
            state = self._interrupts.ended(call, state)
        execution_us = (_clock_ns() - started_ns) // 1000
        if self._loop.closing:  # a process that the task forked came back here: it is no worker
            os._exit(int(failed))
        if self._actor is None:
            self._put_right(execution_us)
        if self._blocked:
            self._waits.end()  # an await that the task left unfinished
        for stream in self._streams:
            if stream.is_used:
                stream.end_of_task()
        table = process.objects.table
        if borrowed or table.fresh or table.unconfirmed:
            self._release(borrowed)
        process.recorder.end(state)
        self._running = None
        if self._is_used_up or CallLimit.reached:
            self._is_used_up = True
            self._departure.announce()
        self._answer(link, call, results, failed, execution_us)

    def _put_right(self, execution_us: int) -> None:
        """Others will run here: what the task changed is changed back. What an actor changes is its own."""
        if self._undoing.notes:
            self._undoing.undo()
        if sys.stdout is not self._streams[0] or sys.stderr is not self._streams[1]:
            sys.stdout, sys.stderr = self._streams
        if execution_us > _BATCH_TASK_US or self._lingering.since_s is not None:
            self._lingering.look()
        linger = self._lingering.since_s is not None and self._lingering.is_too_long()
        self._is_used_up = linger or self._undoing.is_spoiled

    def _is_last_attempt(self) -> bool:
        known, attempt = self._known, self._process.context.attempt
        return known is not None and 0 <= known.max_retries <= attempt

    def _attempt(self, link: OwnerLink, call: TaskCall, known: Known, borrowed: list[Entry]) -> Outcome:
        """Run the user's function; its frames and values are gone when this returns."""
        interrupts = self._interrupts
        try:
            function = known.function
            if function is None:
                function = known.function = self._load(known)
            if type(call.args) is bytes and not call.dependencies:
                args, kwargs = deserialize(call.args)
            else:
                args, kwargs = self._arguments(link, call, borrowed)
            interrupts.armed = call
            if self._asked:
                interrupts.check(call)
            value = function(*args, **kwargs)
            interrupts.armed = None
            del args, kwargs
        except SystemExit as exc:
            interrupts.armed = None
            self._leave(exc)
            raise
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            interrupts.armed = None
            cancelled = interrupts.outcome(call, known.name)
            if cancelled is not None:
                return [cancelled] * known.num_returns, True
            return self._failure(link, call, known, exc)
        try:
            if known.num_returns == 1 and not call.seal_results:
                small = pack_small(value)
                if small is not None:
                    return [small], False
            return self._results(link, call, known, value), False
        except (SerializationError, ObjectStoreFullError) as exc:
            # Ours, not the user's: they stand for themselves.
            self._process.pushed.push_now(TASK, f"task {known.name} failed (pid {os.getpid()})\n{exc}")
            return [serialize_system_error(exc)] * known.num_returns, True
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            return self._failure(link, call, known, exc)

    def _load(self, known: Known) -> Callable[..., Any]:
        if self._actor is None:
            return with_a_frame(self._imports.load(known.function_id))
        return self._actor.method(known.name.rpartition(".")[2])

    def _failure(self, link: OwnerLink, call: TaskCall, known: Known, exc: BaseException) -> Outcome:
        refs: list[ObjectRef] = []
        error = serialize_error(exc, task_name=known.name, pid=os.getpid(), refs=refs)
        if refs:
            self._send_parcel(link, call, [refs] * known.num_returns)
        self._process.pushed.push_now(TASK, text_of(error))
        return [error] * known.num_returns, True

    def _arguments(
        self, link: OwnerLink, call: TaskCall, borrowed: list[Entry]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = self._value(link, call.args, borrowed)
        if call.dependencies:
            values = [self._value(link, value, borrowed) for value in call.dependencies]
            args, kwargs = fill_in(args, kwargs, values)
        return args, kwargs

    def _value(self, link: OwnerLink, value: Value, borrowed: list[Entry]) -> Any:
        if type(value) is bytes:
            return deserialize(value)
        assert type(value) is Descriptor
        objects = self._process.objects
        with self._loop.lock:
            entry = objects.table.borrow_argument(value.object_id, link.owner_id)
            if entry.value is None or type(entry.value) is Away:
                objects.provide(entry, value)
        borrowed.append(entry)
        return objects.load(entry)

    def _results(self, link: OwnerLink, call: TaskCall, known: Known, value: Any) -> list[Value]:
        # All are pickled before the first is stored: a failure leaves nothing in the store.
        packed = [serialize(item, root=root) for root, item in returned(known.name, value, known.num_returns)]
        values, inline_bytes = [], 0
        for index, item in enumerate(packed):
            inline_bytes += item.size_bytes if item.size_bytes <= INLINE_MAX_BYTES else 0
            values.append(self._pack(link, call, index, item, inline_bytes > INLINE_TOTAL_MAX_BYTES))
        self._send_parcel(link, call, [item.refs for item in packed])
        return values

    def _send_parcel(self, link: OwnerLink, call: TaskCall, refs: list[list[ObjectRef]]) -> None:
        """References in the results: nobody may let go of them while they travel."""
        if any(refs):
            name = parcel_id(call.task_id, call.attempt)
            self._inner = self._process.send_parcel(name, link.owner_id, refs)

    def _pack(
        self, link: OwnerLink, call: TaskCall, index: int, packed: Serialized, seal: bool = False
    ) -> Value:
        if packed.size_bytes <= INLINE_MAX_BYTES and not (seal or call.seal_results):
            return packed.to_bytes()
        return self._process.store_result(ids.result_id(call.task_id, index), link.owner_id, packed)

    def _release(self, borrowed: list[Entry]) -> None:
        """Let go of the task's arguments. What is kept of them is known to the daemon before the owner,
        who holds them until it has our answer, lets go: references as holds, bytes under a view as pins.
        """
        objects = self._process.objects
        self._tidying.let_go(borrowed)
        with self._loop.lock:
            known = objects.table.entries
            # By ID: one that was given twice is pinned once, since it is unpinned once.
            kept = {e.object_id: e for e in borrowed if not e.pinned and e.object_id in known}
            objects.say_fresh()
            must_ask = objects.table.unconfirmed or bool(kept)
            objects.table.unconfirmed = False
        if must_ask:
            self._process.pin(list(kept))
            with self._loop.lock:
                objects.note_pinned(list(kept.values()))

    def _answer(
        self, link: OwnerLink, call: TaskCall, results: list[Value], failed: bool, execution_us: int
    ) -> None:
        """Answer, at once or with the next ones, and take the next task if there is one."""
        log_sequence = 0
        if self._log_reported != self._log_sequence:
            log_sequence = self._log_reported = self._log_sequence
        answer = TaskAnswer(
            call.task_id, call.attempt, failed, results, execution_us, log_sequence, self._inner
        )
        with self._loop.guard, self._loop.lock:
            inbox = self._inbox
            self._following = inbox.popleft() if inbox else None
            channel = link.channel
            if channel is None:
                self._answer_nobody(call, results, failed)
                return
            waiting = len(channel.rows)
            if not waiting:
                self._unsent_since_ns = _clock_ns()
            now = (
                self._following is None
                or execution_us > _BATCH_TASK_US
                or waiting >= _BATCH_MAX
                or _clock_ns() - self._unsent_since_ns > _BATCH_NS
                or (bool(results) and (type(results[0]) is not bytes or len(results[0]) > _BULKY_BYTES))
            )
            self._loop.send_rows(channel, [answer], now=now)

    def _answer_nobody(self, call: TaskCall, results: list[Value], failed: bool) -> None:
        """The caller is gone; or it is the actor's own call. Lock held."""
        actor = self._actor
        if actor is not None and call.spec_id == CONSTRUCTION and call.task_id == actor.spec.actor_id:
            actor.constructed(bytes(results[0]) if failed else b"")  # type: ignore[arg-type]  # errors are bytes

    def _leave(self, exc: SystemExit) -> None:
        """``sys.exit`` in a task ends the worker with that code; its owner gets a typed error.

        In an actor it is how the actor ends by its own will.
        """
        for stream in self._streams:
            stream.end_of_task()
        if self._actor is not None:
            self._actor.leave("It ended by exit_actor() or sys.exit().")
        with self._loop.lock:
            self._loop.flush()
        code = exc.code if isinstance(exc.code, int) else (0 if exc.code is None else 1)
        os._exit(code & 0xFF)

    # --- blocking ------------------------------------------------------------------------------------

    def _on_blocking(self, blocking: bool) -> None:
        """The running task waits (or goes on): its CPU is free for others, its queue must not wait."""
        link = self._running
        if link is None or self._actor is not None:  # an actor keeps what it has
            return
        with self._loop.lock:
            self._blocked = blocking
            if blocking:
                while self._inbox:
                    other, _call = self._inbox[0]
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
