"""Runs tasks in the worker's main thread and answers their owners.

Called by:  worker.zygote, in the forked child.
Imports:    nbray.runtime; worker.{actor,cancelling,leaving,lingering,output,threads,tidying,undoing,values},
            and if need be worker.concurrent.
Never:      runs two tasks at once by itself, or answers a task whose argument views are not yet safe.
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
from typing import TYPE_CHECKING, Any, NoReturn

from nbray.core.references import Entry
from nbray.model.errors import ObjectStoreFullError, RayConnectionError, SerializationError
from nbray.runtime.blocking import BlockingCount
from nbray.runtime.call_limit import CallLimit
from nbray.runtime.context import TaskContext
from nbray.runtime.functions import Imports
from nbray.runtime.process import Process
from nbray.runtime.pushed_errors import TASK
from nbray.runtime.refs import ObjectRef
from nbray.runtime.serialization import deserialize, pack_small
from nbray.runtime.task_errors import serialize_error, serialize_system_error, text_of
from nbray.runtime.waiting import Waiter
from nbray.transport.sockets import check_peer, tuned
from nbray.wire import messages
from nbray.wire.actor_messages import StartActor
from nbray.wire.base import Message, Value
from nbray.wire.cancel_messages import CancelTask
from nbray.wire.codec import encode
from nbray.wire.messages import DefineTask, RunTasks, TaskAnswer, TaskCall, TasksDone
from nbray.worker.actor import CONSTRUCTION, Actor
from nbray.worker.cancelling import Interrupts, with_a_frame
from nbray.worker.job import enter_job
from nbray.worker.leaving import Departure
from nbray.worker.lines import Lines
from nbray.worker.lingering import OWN_THREADS, Lingering, count_threads
from nbray.worker.output import TaskStream
from nbray.worker.own_error import OwnError
from nbray.worker.owner_links import Known, OwnerLink
from nbray.worker.threads import ThreadLimit
from nbray.worker.tidying import Tidying
from nbray.worker.undoing import Undoing
from nbray.worker.values import Outcome, Values

if TYPE_CHECKING:
    from nbray.worker.concurrent import CallHost

_clock_ns = time.perf_counter_ns
logger = logging.getLogger("nbray")
#: Answers of tasks shorter than this may wait for the next one's, to leave together.
_BATCH_TASK_US = 200
_BATCH_NS = 500_000
#: So many leave together at most: an owner pushes twice as many ahead (``core.leases``).
_BATCH_MAX = 64
#: A result that is larger than this leaves at once.
_BULKY_BYTES = 4096


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
        self._idle: Waiter | CallHost | None = None
        self._running: OwnerLink | None = None
        self._blocked = False
        self._unsent_since_ns = 0
        self._following: tuple[OwnerLink, TaskCall] | None = None  # taken out of the inbox, runs next
        self._limit = ThreadLimit()
        self._undoing = Undoing()
        self._undoing.install()
        self._lingering = Lingering()
        self._is_used_up = False
        self._tidying = Tidying(process)
        self._interrupts = Interrupts(self._loop.guard, Executor._attempt.__code__)
        self._asked = self._interrupts.asked
        self._values = Values(process)
        process.objects.says_at_once = False  # but when a task is over
        self._known: Known | None = None  # of the task that runs, or ran last
        process.recorder.is_last_attempt = self._is_last_attempt
        process.running = lambda: process.context.name if self._running is not None else ""
        self._lines = Lines(process)
        self._log_reported = 0
        self._streams = (
            TaskStream("stdout", 1, self._lines.print),
            TaskStream("stderr", 2, self._lines.print),
        )
        self._waits = process.gets.on_blocking = BlockingCount(self._on_blocking)

    def begin(self, listener: socket.socket) -> None:
        """This is the process in which it runs; ``listener`` is where owners connect."""
        self._interrupts.install()
        self._loop.add_acceptor(listener, self._on_owner)
        self._undoing.forget()  # what was changed until now was no task's doing

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
        elif type(message) is messages.DefineFunction:
            self._imports.define(message)
        elif type(message) is messages.OwnerHello:
            link.lease_id = message.lease_id
            link.owner_id = message.owner.process_id
            if self._actor is not None and self._actor.checkpoints is not None:
                self._actor.checkpoints.greet(link)
        elif type(message) is messages.TakeBack:
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
        if type(message) is messages.JobContext:
            enter_job(self._process, message)
            self._undoing.forget()
        elif type(message) is messages.Leaving:
            if self._actor is not None:
                self._queue(self._actor_link, self._actor.departure())
                return
            self._departure.on_dismissed()
            if self._idle is not None:
                self._idle.complete()
        elif type(message) is messages.DefineFunction:
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

    def _hand_back(self, link: OwnerLink, calls: list[TaskCall]) -> None:
        if link.channel is not None:
            tasks = [(call.task_id, call.attempt) for call in calls]
            self._loop.send(link.channel, encode(messages.HandBack(link.lease_id, tasks)), now=True)

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
            if self._actor is not None and self._actor.overlaps:
                self._overlap(link, call)
            self._execute(link, call)
            if guard.seen is not interrupts.handler:
                interrupts.restore()
            if self._is_used_up:
                self._depart(link)
            if self._actor is not None and self._actor.minds_calls:
                self._actor.after_call(link, call)
            following = self._following
            link, call = self._wait_for_work(link) if following is None else following

    def _overlap(self, link: OwnerLink, construction: TaskCall) -> NoReturn:
        """This actor runs several calls at once: from now on its host takes them."""
        from nbray.worker.concurrent import Hands, host_of  # here: not every worker needs asyncio

        assert self._actor is not None
        hands = Hands(
            self._process, self._actor, self._tidying, self._take, lambda: len(self._inbox), self._load,
            self._values.arguments, self._attempt, self._outcome, self._failure, self._answer_nobody,
            self._lines.send,
        )  # fmt: skip
        self._process.gets.on_blocking = None  # nobody needs to know
        host = host_of(hands)
        with self._loop.lock:
            self._inbox.appendleft((link, construction))
            self._idle = host
        host.run_forever()

    def _take(self) -> tuple[OwnerLink, TaskCall] | None:
        """The next call, if there is one. Lock held."""
        return self._inbox.popleft() if self._inbox else None

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
        outcome = self._attempt(link, call, known, borrowed)
        state = "failed" if outcome[1] else "finished"
        if self._asked:
            state = self._interrupts.ended(call, state)
        execution_us = (_clock_ns() - started_ns) // 1000
        if self._loop.closing:  # a process that the task forked came back here: it is no worker
            os._exit(int(outcome[1]))
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
        self._answer(link, call, outcome, execution_us)

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
                args, kwargs = self._values.arguments(link, call, borrowed)
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
                return [cancelled] * known.num_returns, True, ()
            return self._failure(link, call, known, exc)
        return self._outcome(link, call, known, value)

    def _outcome(self, link: OwnerLink, call: TaskCall, known: Known, value: Any) -> Outcome:
        """What the function returned, as results."""
        try:
            if known.num_returns == 1 and not call.seal_results:
                small = pack_small(value)
                if small is not None:
                    return [small], False, ()
            return self._values.results(link, call, known, value)
        except (SerializationError, ObjectStoreFullError) as exc:
            # Ours, not the user's: they stand for themselves.
            self._process.pushed.push_now(TASK, f"task {known.name} failed (pid {os.getpid()})\n{exc}")
            return [serialize_system_error(exc)] * known.num_returns, True, ()
        except BaseException as exc:  # noqa: BLE001  # whatever user code raises is the task's result
            return self._failure(link, call, known, exc)

    def _load(self, known: Known) -> Callable[..., Any]:
        if self._actor is None:
            return with_a_frame(self._imports.load(known.function_id))
        return self._actor.method(known.name.rpartition(".")[2])

    def _failure(self, link: OwnerLink, call: TaskCall, known: Known, exc: BaseException) -> Outcome:
        if isinstance(exc, OwnError):
            self._process.pushed.push_now(TASK, f"task {known.name} failed (pid {os.getpid()})\n{exc.error}")
            return [serialize_system_error(exc.error)], True, ()
        refs: list[ObjectRef] = []
        error = serialize_error(exc, task_name=known.name, pid=os.getpid(), refs=refs)
        inner = self._values.parcel(link, call, [refs] * known.num_returns) if refs else ()
        self._process.pushed.push_now(TASK, text_of(error))
        return [error] * known.num_returns, True, inner

    def _release(self, borrowed: list[Entry]) -> None:
        """Let go of the task's arguments. What is kept of them is known to the daemon before the owner,
        who holds them until it has our answer, lets go: references as holds, bytes under a view as pins.
        """
        self._tidying.let_go(borrowed)
        with self._loop.lock:
            kept, must_ask = self._tidying.keep(borrowed)
        if must_ask:
            self._process.pin(list(kept))
            with self._loop.lock:
                self._process.objects.note_pinned(list(kept.values()))

    def _answer(self, link: OwnerLink, call: TaskCall, outcome: Outcome, execution_us: int) -> None:
        """Answer, at once or with the next ones, and take the next task if there is one."""
        results, failed, inner = outcome
        log_sequence = 0
        if self._log_reported != self._lines.sequence:
            log_sequence = self._log_reported = self._lines.sequence
        answer = TaskAnswer(call.task_id, call.attempt, failed, results, execution_us, log_sequence, inner)
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
        if self._actor is not None and self._actor.overlaps:  # its host waits for other calls
            return
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
                kind = messages.LeasePaused if blocking else messages.LeaseResumed
                self._loop.send(link.channel, encode(kind(link.lease_id)), now=True)
            self._process.tell_daemon(
                messages.Blocked(link.lease_id) if blocking else messages.Unblocked(link.lease_id)
            )
