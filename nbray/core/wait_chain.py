"""Why an object is not there: the chain of causes from it to something that goes on, or never will.

Called by:  runtime.explaining; node.watching for the words of a cycle.
Imports:    core.waits, nbray.model, wire.
Never:      asks anybody, or shows more than one path: the one that is stuck, if there is one.

A new thing to wait for is one more function that ``_Chain._task`` knows, and one more kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nbray.core.starving import named
from nbray.core.waits import BY_ACTOR, BY_ARGUMENT, BY_GET, BY_RESOURCES, Cause, Known, Run
from nbray.model.ids import short
from nbray.model.resources import describe
from nbray.wire.memory_messages import EVICTED, FAILED, IN_STORE, INLINE, LOST, PENDING, SPILLED
from nbray.wire.waiting_messages import (
    CONSTRUCTOR,
    HELD_BACK,
    PUSHED,
    QUEUED,
    WAITING,
    LifeFacts,
    QueueFacts,
    TaskFacts,
)

#: Kinds of links.
OBJECT, TASK, WORKER, RESOURCES, CYCLE, UNKNOWN = "object", "task", "worker", "resources", "cycle", "unknown"
CALL, ACTOR, MORE = "call", "actor", "more"
#: Of a longer chain the middle is left out.
_FIRST, _LAST = 30, 9
_STOPPED = {"T": "is stopped (SIGSTOP)", "t": "is held by a debugger"}


class Link(NamedTuple):
    """One cause. ``since_s``: for how long, None if nobody knows; ``remedy``: what to do, "" for nothing."""

    kind: str
    id: str
    name: str
    state: str
    text: str
    since_s: float | None = None
    remedy: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012  # never changed


def is_stopped(state: str) -> bool:
    """Whether a process with this letter in /proc does not run until somebody lets it."""
    return state in _STOPPED


def how_stopped(state: str) -> str:
    """``T`` in words."""
    return _STOPPED.get(state, "")


def chain(known: Known, object_id: bytes) -> list[Link]:
    """The links from an object on, the last one being something that runs, is there, or will never be."""
    links = _Chain(known).of(object_id)
    left_out = len(links) - _FIRST - _LAST
    if left_out <= 1:
        return links
    gap = Link(MORE, "", "", "", f"and so on, over {left_out} more causes")
    return [*links[:_FIRST], gap, *links[-_LAST:]]


def cycle_words(known: Known, cycle: Sequence[tuple[bytes, Cause]]) -> str:
    """``a (pid 12) waits in get() for a result of b; b takes a result of a``."""
    return "; ".join(_cause_words(known, task_id, cause) for task_id, cause in cycle)


def _cause_words(known: Known, task_id: bytes, cause: Cause) -> str:
    run = known.runs.get(task_id)
    name, other = known.name_of(task_id), known.name_of(cause.task_id)
    if run is not None:
        name += f" (pid {run.pid})"
    if cause.way == BY_GET:
        return f"{name} waits in get() or wait() for a result of {other}"
    if cause.way == BY_ARGUMENT:
        return f"{name} takes a result of {other} as an argument"
    if cause.way == BY_RESOURCES:
        task = known.tasks.get(task_id)
        queue = known.queue_of(task) if task is not None else None
        lacking = describe({n: a for n, a in queue.shape.items() if n in queue.lacking}) if queue else "that"
        return f"{name} needs {lacking}, which {other} holds"
    if cause.way == BY_ACTOR:
        return f"{name} waits for {other}, which is not up"
    task = known.tasks.get(task_id)
    where = "actor" if task is not None and task.actor_id else "worker"
    return f"{name} stands behind {other} at its {where}"


class _Chain:
    def __init__(self, known: Known) -> None:
        self._known = known
        self._stuck = known.stuck()
        self._links: list[Link] = []
        self._seen: dict[bytes, int] = {}

    def of(self, object_id: bytes) -> list[Link]:
        following: bytes | None = object_id
        while following is not None:
            task_id = self._object(following)
            following = None
            while task_id is not None and following is None:
                task_id, following = self._task(task_id)
        return self._links

    def _add(self, kind: str, identifier: bytes, name: str, state: str, text: str, **more: Any) -> None:
        self._links.append(Link(kind, identifier.hex(), name, state, text, **more))

    def _object(self, object_id: bytes) -> bytes | None:
        """Say what is known of an object; returns the task to look at next."""
        known, name = self._known, short(object_id)
        facts, task = known.objects.get(object_id), known.task_of(object_id)
        if facts is not None and facts.state != PENDING:
            # Its owner does not know whether it lies on the disk.
            state = known.stored.get(object_id, facts.state) if facts.state == IN_STORE else facts.state
            self._add(OBJECT, object_id, name, state, f"object {name} {_THERE.get(state, 'is there')}")
            return None
        if task is not None:
            text = f"object {name} is a result of {_what(task)}, which is not done"
            if task.kind == CONSTRUCTOR:
                text = f"object {name} stands for the actor that {task.name} makes"
            if task.again:
                text = f"object {name} was lost, and task {task.name} makes it again"
            self._add(OBJECT, object_id, name, PENDING, text)
            return task.task_id
        if facts is None:
            self._add(
                UNKNOWN, object_id, name, "unknown",
                f"object {name} is another process's, which says nothing about it",
                remedy="If that lasts its owner may be gone: make the object again.",
            )  # fmt: skip
        else:
            self._add(OBJECT, object_id, name, PENDING, f"object {name} is on its way")
        return None

    def _task(self, task_id: bytes) -> tuple[bytes | None, bytes | None]:
        """Say what a task waits for; returns the task, or the object, to look at next."""
        known = self._known
        at = self._seen.get(task_id)
        if at is not None:
            where = f"of line {at + 1}" if at < _FIRST else "of a line above"
            self._add(
                CYCLE, task_id, known.name_of(task_id), "stuck",
                f"that is the task {where}: these tasks wait for each other and will never end",
                remedy="Stop one of them, or let it return instead of waiting inside.",
            )  # fmt: skip
            return None, None
        self._seen[task_id] = len(self._links)
        run, task = known.runs.get(task_id), known.tasks.get(task_id)
        if run is not None:
            return self._running(run, task)
        if task_id in known.actors or task is None or task.kind == CONSTRUCTOR:
            return self._actor(task_id)
        if task.kind == CALL and task.state != WAITING:
            return self._call(task)
        return {WAITING: self._waiting, QUEUED: self._queued, PUSHED: self._pushed, HELD_BACK: self._held}[
            task.state
        ](task)

    def _next(self, task_id: bytes) -> Cause | None:
        causes = self._known.causes(task_id)
        return next(
            (cause for cause in causes if cause.task_id in self._stuck), causes[0] if causes else None
        )

    def _waiting(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        cause = self._next(task.task_id)
        number = task.missing_count
        of = "an argument that is not there" if number == 1 else f"{number} arguments that are not there"
        then = f", such as {short(cause.object_id)}" if cause and number > 1 else ""
        text = f"{_what(task)} waits for {of}{then}"
        if cause is not None and not cause.object_id:  # others must come first, which are stuck
            return self._call(task)
        self._add(_kind(task), task.task_id, task.name, task.state, text)
        return None, None if cause is None else cause.object_id

    def _queued(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        known, queue = self._known, self._known.queue_of(task)
        needs = describe(task.shape)
        if queue is None or (queue.feasible and not queue.lacking and not known.paused):
            text = f"task {task.name} ({needs}) is queued: the workers that it may have are busy with others"
            self._add(TASK, task.task_id, task.name, task.state, text, facts=self._holders(task, queue))
            return self._busy(task)
        self._add(TASK, task.task_id, task.name, task.state, f"task {task.name} ({needs}) waits for a worker")
        if not queue.feasible:
            self._add(RESOURCES, b"", needs, "infeasible", queue.reason, since_s=queue.age_s)
            return None, None
        self._lacking(task, queue)
        cause = self._next(task.task_id)
        return None if cause is None else cause.task_id, None

    def _busy(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        """It waits at its owner: look at a task of the same shape that runs."""
        for lease in self._known.leases:
            for run in self._known.runs_of.get(lease.process_id, ()) if lease.shape == task.shape else ():
                return run.facts.task_id, None
        return None, None

    def _holders(self, task: TaskFacts | LifeFacts, queue: QueueFacts | None) -> dict[str, Any]:
        """Who has what it needs, for programs."""
        known = self._known
        if queue is not None:
            leases = known.holders(queue)
        else:
            leases = [lease for lease in known.leases if lease.shape == task.shape]
        found: list[dict[str, Any]] = []
        for lease in leases:
            common = {"shape": lease.shape, "blocked": lease.blocked, "lasting": lease.lasting}
            runs = known.runs_of.get(lease.process_id, ())
            for run in runs:
                running_s = run.facts.age_s
                found.append({"task": run.facts.name, "pid": run.pid, "running_s": running_s, **common})
            if lease.lasting and not runs:
                pid = known.pids.get(lease.process_id, 0)
                found.append({"task": lease.name, "pid": pid, "running_s": None, **common})
        return {"holders": found}

    def _pushed(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        known, pid = self._known, self._known.pids.get(task.process_id, 0)
        if self._add_if_stopped(task.process_id, pid, f"task {task.name}"):
            return None, None
        cause = self._next(task.task_id)
        if cause is not None and cause.task_id:
            text = f"task {task.name} waits for its turn behind {task.ahead} at worker pid {pid}"
            self._add(TASK, task.task_id, task.name, task.state, text)
            return cause.task_id, None
        worker = known.workers.get(task.process_id)
        if worker is None:
            text, remedy = f"task {task.name} was sent to a worker, which is not there any more", ""
        else:
            text = f"task {task.name} is at worker pid {pid}, which does not answer (state {worker.state})"
            remedy = "Native code that holds Python's lock computes, or hangs: look at it with top or py-spy."
        self._add(TASK, task.task_id, task.name, task.state, text, remedy=remedy)
        return None, None

    def _call(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        """A call that does not run, and has its arguments."""
        known, what, behind = self._known, _what(task), ""
        if task.ahead:
            behind = f", after {task.ahead} {'call' if task.ahead == 1 else 'calls'} made before it there"
        cause = self._next(task.task_id)
        if task.state != PUSHED:
            actor = known.actors.get(task.actor_id)
            where = f"Actor {actor.class_name}" if actor is not None and not task.behind else "its actor"
            wait = "waits for its turn at" if task.behind else "waits for"
            self._add(CALL, task.task_id, task.name, task.state, f"{what} {wait} {where}{behind}")
            return (task.behind or task.actor_id), None
        pid = known.pids.get(task.process_id, 0)
        if self._add_if_stopped(task.process_id, pid, what, of_actor=True):
            return None, None
        remedy = ""
        if cause is not None:
            text = f"{what} waits for its turn at its actor, pid {pid}{behind}"
        elif task.process_id in known.runs_of:
            text = f"{what} is at its actor, pid {pid}, and about to begin"
        elif task.process_id in known.workers:
            text = f"{what} is at its actor, pid {pid}, which does not answer"
            remedy = "Native code that holds Python's lock computes, or hangs: look at it with top or py-spy."
        else:
            text = f"{what} was sent to its actor, whose process is not there any more"
        self._add(CALL, task.task_id, task.name, task.state, text, remedy=remedy)
        return None if cause is None else cause.task_id, None

    def _actor(self, actor_id: bytes) -> tuple[bytes | None, bytes | None]:
        """An actor whose constructor does not run."""
        known = self._known
        actor, constructor = known.actors.get(actor_id), known.tasks.get(actor_id)
        if actor is None:
            text = "its actor is not known to this node any more: it is dead, or about to be"
            self._add(ACTOR, actor_id, "", "unknown", text)
            return None, None
        name, since_s = f"Actor {actor.class_name}", actor.age_s
        text = f"{name} is {actor.state}"
        cause = self._next(actor_id)
        if not actor.declared:
            waits = constructor is not None and cause is not None
            text += (
                ": its constructor waits for an argument" if waits else ": its owner has yet to declare it"
            )
            self._add(ACTOR, actor_id, name, actor.state, text, since_s=since_s)
            return None, cause.object_id if cause is not None else None
        seeks = known.seeks_process(actor_id)
        if seeks is None:
            pid = known.pids.get(actor.process_id, 0)
            doing = {
                "ALIVE": "up: what waits for it is about to be sent",
                "STARTING": "its constructor has yet to begin, or does not answer",
            }.get(actor.state, "it ends")
            self._add(ACTOR, actor_id, name, actor.state, f"{text} at pid {pid}: {doing}", since_s=since_s)
            return None, None
        queue, needs = known.queue_of(seeks), describe(seeks.shape)
        self._add(ACTOR, actor_id, name, actor.state, f"{text} and waits for a process", since_s=since_s)
        if seeks.infeasible or (queue is not None and not queue.feasible):
            why = seeks.infeasible or (queue.reason if queue is not None else "")
            self._add(RESOURCES, b"", needs, "infeasible", why, since_s=since_s)
        elif queue is not None and queue.lacking:
            self._lacking(seeks, queue)
        elif known.paused:
            self._add(RESOURCES, b"", needs, "busy", known.paused)
        return (None, None) if cause is None else (cause.task_id, None)

    def _lacking(self, task: TaskFacts | LifeFacts, queue: QueueFacts) -> None:
        """Too little is free, and who has it."""
        keepers = [lease.name for lease in self._known.holders(queue) if lease.lasting]
        text, remedy = f"it {queue.reason}", ""
        if keepers and len(keepers) == len(self._known.holders(queue)):
            text += f". {named(keepers)} for life"
            remedy = "Drop the handles of actors that you no longer need, or let them hold less (num_cpus=0)."
        self._add(
            RESOURCES, b"", describe(task.shape), "busy", self._known.paused or text, since_s=queue.age_s,
            remedy=remedy, facts=self._holders(task, queue),
        )  # fmt: skip

    def _held(self, task: TaskFacts) -> tuple[bytes | None, bytes | None]:
        text = f"task {task.name} was ended for want of memory and will run again when there is more"
        self._add(TASK, task.task_id, task.name, task.state, text, remedy="Let fewer tasks run at a time.")
        return None, None

    def _running(self, run: Run, task: TaskFacts | None) -> tuple[bytes | None, bytes | None]:
        facts = run.facts
        of = f", attempt {facts.attempt}" if facts.attempt > 1 else ""
        kind, what = self._kind_of(run, task)
        where = f"worker pid {run.pid}" if kind == TASK else f"its actor, pid {run.pid}"
        text = f"{what} runs on {where}{of}"
        if self._add_if_stopped(run.process_id, run.pid, what, of_actor=kind != TASK):
            return None, None
        more = {"stack": list(facts.stack), "pid": run.pid}
        cause = self._next(facts.task_id) if facts.blocked else None
        if cause is None:
            doing = f", in {facts.stack[-1].strip()}" if facts.stack else ""
            state = "blocked" if facts.blocked else "running"
            self._add(kind, facts.task_id, facts.name, state, text + doing, since_s=facts.age_s, facts=more)
            return None, None
        number = facts.awaited_count
        what = f"object {short(cause.object_id)}" + (f" and {number - 1} more" if number > 1 else "")
        text += f" and waits in get() or wait() for {what}"
        self._add(kind, facts.task_id, facts.name, "blocked", text, since_s=facts.age_s, facts=more)
        return None, cause.object_id

    def _kind_of(self, run: Run, task: TaskFacts | None) -> tuple[str, str]:
        """The kind of what runs, and what people call it."""
        actor = next((a for a in self._known.actors.values() if a.process_id == run.process_id), None)
        if actor is not None and actor.actor_id == run.facts.task_id:
            return ACTOR, f"the constructor of Actor {actor.class_name}"
        kind = CALL if actor is not None or (task is not None and task.kind == CALL) else TASK
        return kind, f"{kind} {run.facts.name}"

    def _add_if_stopped(self, process_id: bytes, pid: int, what: str, of_actor: bool = False) -> bool:
        worker = self._known.workers.get(process_id)
        if worker is None or not is_stopped(worker.state):
            return False
        self._add(
            WORKER, process_id, f"pid {pid}", "stopped",
            f"{what} is at worker pid {pid}, which {how_stopped(worker.state)}: state {worker.state}",
            remedy=f"kill -CONT {pid} lets it go on, " + (
                f"kill -9 {pid} ends the actor, which is restarted if it may be."
                if of_actor else f"kill -9 {pid} lets the task run again elsewhere."
            ),
        )  # fmt: skip
        return True


def _kind(task: TaskFacts) -> str:
    return CALL if task.kind == CALL else TASK


def _what(task: TaskFacts) -> str:
    """``call A.m`` or ``task f``."""
    return f"{_kind(task)} {task.name}"


_THERE = {
    INLINE: "is there: get() returns at once",
    IN_STORE: "is there, in the store: get() returns at once",
    "being written": "is being written to the store",
    SPILLED: "is there, on the disk: get() reads it back",
    FAILED: "is there, as an error: get() raises it",
    EVICTED: "was evicted: get() makes it again, or says why that cannot be",
    LOST: "is lost: get() makes it again, or says why that cannot be",
}
