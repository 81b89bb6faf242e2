"""What this process runs and waits for, as plain facts: its part of an answer to ``nbray.why``.

Called by:  runtime.process (answers the daemon), runtime.explaining.
Imports:    core.{references,tasks}, wire.waiting_messages.
Never:      reads a value, or says more of an object than who waits for it needs.

All functions but ``in_short``: lock held.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nbray.core.actor_calls import Creation, Route, RouteState
from nbray.core.leases import LeaseState
from nbray.core.references import Away, Entry
from nbray.core.tasks import Task, TaskState
from nbray.model import ids
from nbray.model.ids import TASK_ID_BYTES
from nbray.runtime.describing import state_of
from nbray.runtime.waiting import AllOf
from nbray.wire.memory_messages import PENDING
from nbray.wire.waiting_messages import (
    CALL,
    CONSTRUCTOR,
    HELD_BACK,
    PUSHED,
    QUEUED,
    TASK,
    WAITING,
    DescribeWaits,
    ObjectFacts,
    Pair,
    RunningFacts,
    TaskFacts,
    WaitFacts,
    WaitsDescribed,
)

if TYPE_CHECKING:
    from nbray.runtime.process import Process

#: Objects that one process tells of at a time, and things that one task waits for.
OBJECTS_MAX = 2_000
NEEDS_MAX = 8
_STACK_MAX = 8
_OWN_ROOM = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_WORKER_ROOM = os.path.join(_OWN_ROOM, "worker")
_STATES = {TaskState.WAITING: WAITING, TaskState.QUEUED: QUEUED, TaskState.PUSHED: PUSHED}

_IN_SHORT = {
    TaskState.WAITING: "waits for its arguments",
    TaskState.QUEUED: "is queued and has no worker yet",
    TaskState.PUSHED: "was sent to a worker and is not done",
    TaskState.CANCELLING: "is being cancelled",
    TaskState.DONE: "is done, and its result is on its way",
    TaskState.FAILED: "has failed",
    TaskState.CANCELLED: "was cancelled",
}


def in_short(process: Process, entry: Entry) -> str:
    """What an object that is not ready waits for, for the text of a timeout."""
    task = process.submitter.tasks.tasks.get(entry.object_id[:TASK_ID_BYTES])
    if task is None:
        return "Its owner has not produced it yet. nbray.why(ref) says more."
    return f"Task {task.name} {_IN_SHORT[task.state]}. nbray.why(ref) says more."


def answer(process: Process, message: DescribeWaits) -> None:
    """Somebody asked."""
    facts = describe(process, message.object_ids, message.with_stacks)
    process.tell_daemon(WaitsDescribed(message.number, facts))


def describe(process: Process, object_ids: Iterable[bytes], with_stacks: bool) -> WaitFacts:
    """What runs here, and what is known here of these objects and of what they wait for."""
    running = _running(process, with_stacks)
    objects: dict[bytes, ObjectFacts] = {}
    tasks: dict[bytes, TaskFacts] = {}
    places = _Places(process)
    asked = list(object_ids)
    for facts in running:
        asked += [object_id for object_id, _owner in facts.awaited]
    while asked and len(objects) < OBJECTS_MAX:
        object_id = asked.pop()
        if object_id in objects:
            continue
        entry = process.objects.table.entries.get(object_id)
        task = process.submitter.tasks.tasks.get(object_id[:TASK_ID_BYTES])
        if entry is None and task is None:
            continue
        objects[object_id] = _object(object_id, entry, task)
        if task is not None and task.task_id not in tasks:
            known = tasks[task.task_id] = _task(process, task, places)
            asked += [missing for missing, _owner in known.missing]
            asked += [ids.result_id(each, 0) for each in (known.behind, known.actor_id) if each]
    role = "worker" if process.address.endpoint else "driver"
    heads = [
        (getattr(lease.host, "process_id", b""), lease.inflight[0].name)
        for lease in process.submitter.pool.by_id.values()
        if lease.inflight
    ]
    for route in process.actors.routes.values():
        if route.inflight:
            oldest = next(iter(route.inflight.values()))
            heads.append((getattr(route.host.link, "process_id", b""), oldest.name))
    return WaitFacts(
        process.process_id, os.getpid(), role, running, list(objects.values()), list(tasks.values()), heads
    )


def _object(object_id: bytes, entry: Entry | None, task: Task | None) -> ObjectFacts:
    """A result whose references are all gone has no entry, but its task may still be waited for."""
    state = PENDING if entry is None else state_of(entry)
    owner = entry.owner if entry is not None and entry.owner is not None else b""
    return ObjectFacts(object_id, owner, state, b"" if task is None else task.task_id)


class _Places:
    """Where pushed tasks, and calls, are: looked up once, and only if somebody asks."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._known: dict[bytes, tuple[bytes, int]] | None = None
        self._calls: dict[bytes, dict[bytes, tuple[int, bytes]]] = {}  # by actor

    def of_call(self, route: Route, task: Task) -> tuple[int, bytes]:
        """How many calls of this process come before it, and one of these that it waits for."""
        known = self._calls.get(route.actor_id)
        if known is None:
            known = self._calls[route.actor_id] = _order(route)
        return known.get(task.task_id, (0, b""))

    def of(self, task: Task) -> tuple[bytes, int]:
        """The worker's process ID, and how many run before it there."""
        if self._known is None:
            self._known = {
                each.task_id: (getattr(lease.host, "process_id", b""), ahead)
                for lease in self._process.submitter.pool.by_id.values()
                if lease.state is not LeaseState.REQUESTED
                for ahead, each in enumerate(lease.inflight)
            }
        return self._known.get(task.task_id, (b"", 0))


def _task(process: Process, task: Task, places: _Places) -> TaskFacts:
    state = HELD_BACK if task in process.submitter.relief else _STATES[task.state]
    missing: list[Pair] = []
    if task.state is TaskState.WAITING:
        entries = process.objects.table.entries
        for object_id in task.dependencies:
            entry = entries[object_id]
            if entry.value is None or type(entry.value) is Away:
                missing.append((object_id, process.objects.owner_of(entry)))
                if len(missing) == NEEDS_MAX:
                    break
    process_id, ahead = places.of(task) if task.state is TaskState.PUSHED else (b"", 0)
    kind, actor_id, behind = TASK, b"", b""
    pooled = task.spec.pooled
    if type(pooled) is Creation:
        kind, actor_id = CONSTRUCTOR, task.task_id
    elif type(pooled) is Route:
        kind, actor_id = CALL, pooled.actor_id
        ahead, behind = places.of_call(pooled, task)
        if task.state is TaskState.PUSHED:
            process_id = getattr(pooled.host.link, "process_id", b"")
    return TaskFacts(
        task.task_id, kind, task.name, state, task.attempt + 1, max(0, task.max_retries + 1),
        dict(task.shape), missing, max(task.missing, len(missing)) if state == WAITING else 0,
        process_id, ahead, task.task_id in process.submitter.recomputing.lineage,
        actor_id, behind,
    )  # fmt: skip


def _order(route: Route) -> dict[bytes, tuple[int, bytes]]:
    """Of each call that is not over: how many come before it, and one of these that it waits for."""
    order: dict[bytes, tuple[int, bytes]] = {}
    for call in route.inflight.values():
        order[call.task_id] = (len(order), b"")
    oldest = next(iter(order), b"") if route.state is RouteState.OPEN else b""
    unready = b""
    for call in route.queue:
        if call.state not in (TaskState.WAITING, TaskState.QUEUED):
            continue
        order[call.task_id] = (len(order), unready or oldest)
        if call.state is TaskState.WAITING and not unready:
            unready = call.task_id
    return order


# --- what runs ------------------------------------------------------------------------------------------


def _running(process: Process, with_stacks: bool) -> list[RunningFacts]:
    if process.overlapping is not None:
        return [
            RunningFacts(call.task_id, call.name, call.attempt + 1, age_s, False, [], 0, 0, [])
            for call, age_s in process.overlapping()
        ]
    name = process.running()
    if not name:
        return []
    awaited, enough = _awaited(process)
    began_ns = process.recorder.began_ns()
    age_s = max(0.0, (time.time_ns() - began_ns) / 1e9) if began_ns else 0.0
    context = process.context
    return [
        RunningFacts(
            context.task_id, name, context.attempt + 1, age_s, bool(awaited),
            [(entry.object_id, process.objects.owner_of(entry)) for entry in awaited[:NEEDS_MAX]],
            len(awaited), enough, _stack() if with_stacks else [],
        )
    ]  # fmt: skip


def _awaited(process: Process) -> tuple[list[Entry], int]:
    """What the running task waits for, and how many of these let it go on."""
    wait = process.gets.waiting
    if wait is not None:
        waiter, entries = wait.waiter, wait.entries
        if isinstance(waiter, AllOf):
            missing = waiter.missing()
            return missing, len(missing)
        return [e for e in entries if e.value is None or type(e.value) is Away], max(1, waiter.remaining)
    if not getattr(process.gets.on_blocking, "is_waiting", False):
        return [], 0
    # Awaits of an event loop: any of them may be what lets the task go on.
    return [entry for entry in process.objects.table.entries.values() if entry.waiters], 1


def _stack() -> list[str]:
    """Where the thread that runs tasks is, in user code, the innermost frame last."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001  # its documented use
    lines: list[str] = []
    while frame is not None and len(lines) < _STACK_MAX:
        code = frame.f_code
        if not code.co_filename.startswith(_OWN_ROOM):
            lines.append(f"{code.co_name} at {_file_name(code.co_filename)}:{frame.f_lineno}")
        elif code.co_filename.startswith(_WORKER_ROOM):
            break  # what lies below is not the user's
        frame = frame.f_back
    return lines[::-1]


def _file_name(path: str) -> str:
    """In short; a notebook's cell is no file, and its driver knows it by its whole name."""
    return os.path.basename(path) if os.path.exists(path) else path
