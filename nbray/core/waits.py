"""Who waits for whom: what all processes said, put together, and what can never end by itself.

Called by:  core.wait_chain; node.watching (cycles), runtime.explaining (``nbray.why``).
Imports:    nbray.model, wire.{memory_messages,waiting_messages} as plain facts.
Never:      asks anybody, reads a clock; calls something stuck of which it does not know enough.

A task that waits for an argument needs that argument's task; one that waits in ``get`` needs as many objects
as it asked for; one that waits for a lease needs somebody to give back what it lacks. What needs nothing is
*live*, and so is what has enough live to wait for. The rest is stuck, whatever happens: it waits for itself,
or for what the node does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbray.core.actor_record import ActorState
from nbray.model.ids import TASK_ID_BYTES, result_id
from nbray.model.resources import CPU
from nbray.wire.memory_messages import PENDING
from nbray.wire.waiting_messages import (
    CALL,
    PUSHED,
    QUEUED,
    WAITING,
    LeaseFacts,
    LifeFacts,
    ObjectFacts,
    QueueFacts,
    RunningFacts,
    TaskFacts,
    WaitFacts,
    WaitsReport,
    WorkerFacts,
)

#: Why one task waits for another.
BY_GET, BY_ARGUMENT, BY_RESOURCES, BY_TURN = "get", "argument", "resources", "turn"
#: A call waits for its actor, which is a node of this graph, too, under its constructor's task's ID, its own.
BY_ACTOR = "actor"


_SEEKING = (ActorState.PENDING.value, ActorState.RESTARTING.value)


class Cause(NamedTuple):
    """A task waits for another one, or for nobody known (``task_id`` empty), because of this.

    ``object_id``: what it needs of it, with the ways ``get`` and ``argument``.
    """

    way: str
    task_id: bytes
    object_id: bytes = b""


class Run(NamedTuple):
    """A task that runs, and where."""

    process_id: bytes
    pid: int
    facts: RunningFacts


class Known:
    """What was said so far. Add answers until ``unknown`` is empty, or nobody knows more."""

    def __init__(self) -> None:
        self.objects: dict[bytes, ObjectFacts] = {}
        self.tasks: dict[bytes, TaskFacts] = {}
        self.runs: dict[bytes, Run] = {}  # by task
        self.runs_of: dict[bytes, list[Run]] = {}  # by process
        self.workers: dict[bytes, WorkerFacts] = {}
        self.pids: dict[bytes, int] = {}
        self.heads: dict[bytes, str] = {}  # what should run in a process, as its owner knows
        self.queues: list[QueueFacts] = []
        self.leases: list[LeaseFacts] = []
        self.total: dict[str, int] = {}
        self.paused = ""
        self.stored: dict[bytes, str] = {}  # state of objects in the store
        self.actors: dict[bytes, LifeFacts] = {}

    # --- what was said -------------------------------------------------------------------------------

    def add_report(self, report: WaitsReport) -> None:
        """An answer of the daemon, with those of all processes."""
        self.total, self.queues, self.leases = report.total, report.queues, report.leases
        self.paused = report.paused
        self.actors = {actor.actor_id: actor for actor in report.actors}
        self.stored.update(report.stored)
        self.workers = {worker.process_id: worker for worker in report.workers}
        self.pids.update((worker.process_id, worker.pid) for worker in report.workers)
        for facts in report.processes:
            self.add(facts)

    def add(self, facts: WaitFacts) -> None:
        """What one process said. Owners know best."""
        self.pids[facts.process_id] = facts.pid
        self.heads.update(facts.heads)
        for run in self.runs_of.get(facts.process_id, ()):
            self.runs.pop(run.facts.task_id, None)
        runs = [Run(facts.process_id, facts.pid, running) for running in facts.running]
        self.runs_of[facts.process_id] = runs
        self.runs.update((run.facts.task_id, run) for run in runs)
        for known in facts.objects:
            if not known.owner_id:
                self.objects[known.object_id] = known
            elif known.state != PENDING:  # a borrower that has it knows as much
                self.objects.setdefault(known.object_id, known)
        self.tasks.update((task.task_id, task) for task in facts.tasks)

    def needed(self) -> Iterable[bytes]:
        """All objects that somebody waits for, as far as is known."""
        for runs in self.runs_of.values():
            for run in runs:
                yield from (object_id for object_id, _owner in run.facts.awaited)
        for task in self.tasks.values():
            if task.state == WAITING:
                yield from (object_id for object_id, _owner in task.missing)
            actor = self.actors.get(task.actor_id) if task.kind == CALL else None
            if actor is not None and not actor.declared:
                yield result_id(actor.actor_id, 0)  # its owner knows what its constructor waits for

    def unknown(self) -> list[bytes]:
        """Those of which no owner has said anything yet."""
        return [object_id for object_id in dict.fromkeys(self.needed()) if object_id not in self.objects]

    # --- questions -----------------------------------------------------------------------------------

    def task_of(self, object_id: bytes) -> TaskFacts | None:
        """The unfinished task that makes an object."""
        facts = self.objects.get(object_id)
        return self.tasks.get(facts.task_id if facts is not None else object_id[:TASK_ID_BYTES])

    def queue_of(self, task: TaskFacts | LifeFacts) -> QueueFacts | None:
        """The lease requests that stand for a queued task, or an actor without a process.

        None if it waits for a worker that it has.
        """
        return next((queue for queue in self.queues if queue.shape == task.shape), None)

    def seeks_process(self, actor_id: bytes) -> LifeFacts | None:
        """The actor, if it waits for a process."""
        actor = self.actors.get(actor_id)
        return actor if actor is not None and actor.declared and actor.state in _SEEKING else None

    def holders(self, queue: QueueFacts) -> list[LeaseFacts]:
        """Who has what a queue lacks. Who waits has lent its CPUs."""
        return [
            lease
            for lease in self.leases
            if any(name in lease.shape and not (lease.blocked and name == CPU) for name in queue.lacking)
        ]

    def causes(self, task_id: bytes) -> list[Cause]:
        """What a task waits for; empty if it runs, or if nobody knows."""
        run = self.runs.get(task_id)
        if run is not None:
            return [self._needs(BY_GET, object_id) for object_id, _owner in run.facts.awaited]
        actor = self.seeks_process(task_id)
        if actor is not None:
            return self._lacks(self.queue_of(actor))
        task = self.tasks.get(task_id)
        if task is None:
            return []
        if task.state == WAITING:
            causes = [self._needs(BY_ARGUMENT, object_id) for object_id, _owner in task.missing]
            return [*causes, Cause(BY_TURN, task.behind)] if task.behind else causes
        if task.kind == CALL:
            return self._of_call(task)
        if task.state == PUSHED:
            runs = self.runs_of.get(task.process_id, ()) if task.ahead else ()
            return [Cause(BY_TURN, run.facts.task_id) for run in runs]
        return self._lacks(self.queue_of(task) if task.state == QUEUED else None)

    def _of_call(self, task: TaskFacts) -> list[Cause]:
        if task.state == PUSHED:
            return [Cause(BY_TURN, run.facts.task_id) for run in self.runs_of.get(task.process_id, ())]
        if task.behind:
            return [Cause(BY_TURN, task.behind)]
        return [Cause(BY_ACTOR, task.actor_id)]

    def _lacks(self, queue: QueueFacts | None) -> list[Cause]:
        if queue is None:
            return []
        runs_of = (self.runs_of.get(lease.process_id, ()) for lease in self.holders(queue))
        return [Cause(BY_RESOURCES, run.facts.task_id) for runs in runs_of for run in runs]

    def _needs(self, way: str, object_id: bytes) -> Cause:
        task = self.task_of(object_id)
        return Cause(way, b"" if task is None else task.task_id, object_id)

    # --- what is stuck -------------------------------------------------------------------------------

    def stuck(self) -> set[bytes]:
        """Tasks that cannot end by themselves, as far as is known."""
        stuck = {*self.tasks, *self.runs, *self.actors}
        waiting_for: dict[bytes, list[bytes]] = {}
        for task_id in stuck:
            for cause in self.causes(task_id):
                waiting_for.setdefault(cause.task_id, []).append(task_id)
        # Who becomes live may let those go on that wait for it, and nobody else: long chains are quick.
        look = list(stuck)
        while look:
            task_id = look.pop()
            if task_id in stuck and self._is_live(task_id, stuck):
                stuck.remove(task_id)
                look += waiting_for.get(task_id, ())
        return stuck

    def _is_live(self, task_id: bytes, stuck: set[bytes]) -> bool:
        run = self.runs.get(task_id)
        if run is not None:
            return self._goes_on(run.facts, stuck)
        actor = self.seeks_process(task_id)
        if actor is not None:
            return self._comes_free(actor, stuck)
        task = self.tasks.get(task_id)
        if task is None or (task.behind and task.behind in stuck):
            return task is None  # an actor that is up
        if task.state == WAITING:
            return all(self._will_be(object_id, stuck) for object_id, _owner in task.missing)
        if task.kind == CALL:
            return not any(cause.task_id in stuck for cause in self._of_call(task))
        if task.state == QUEUED:
            return self._comes_free(task, stuck)
        if task.state == PUSHED and task.ahead:
            return not any(run.facts.task_id in stuck for run in self.runs_of.get(task.process_id, ()))
        return True  # it is about to run, or its worker did not answer

    def _goes_on(self, run: RunningFacts, stuck: set[bytes]) -> bool:
        if not run.blocked or not run.awaited:
            return True
        coming = sum(self._will_be(object_id, stuck) for object_id, _owner in run.awaited)
        return coming + run.awaited_count - len(run.awaited) >= run.enough

    def _will_be(self, object_id: bytes, stuck: set[bytes]) -> bool:
        facts = self.objects.get(object_id)
        if facts is None or facts.state != PENDING:
            return True
        return facts.task_id not in stuck

    def _comes_free(self, task: TaskFacts | LifeFacts, stuck: set[bytes]) -> bool:
        if isinstance(task, LifeFacts) and task.infeasible:
            return False
        queue = self.queue_of(task)
        if queue is None or not queue.lacking:
            return True
        if not queue.feasible:
            return False
        holders = self.holders(queue)
        return not holders or any(self._gives_back(lease, stuck) for lease in holders)

    def _gives_back(self, lease: LeaseFacts, stuck: set[bytes]) -> bool:
        if lease.lasting:
            return False
        runs = self.runs_of.get(lease.process_id, ())
        return not runs or any(run.facts.task_id not in stuck for run in runs)

    def cycle(self, stuck: set[bytes] | None = None) -> list[tuple[bytes, Cause]]:
        """Tasks that wait for each other: each with why it waits for the next, the last for the first.

        Empty if there are none. Of several cycles the one with the least ID in it.
        """
        if stuck is None:
            stuck = self.stuck()
        seen: set[bytes] = set()  # from here on no cycle was found
        for task_id in sorted(stuck):
            found = self._cycle_from(task_id, stuck, seen)
            if found:
                return found
        return []

    def _cycle_from(self, start: bytes, stuck: set[bytes], seen: set[bytes]) -> list[tuple[bytes, Cause]]:
        path = [start] if start not in seen else []
        taken: dict[bytes, Cause] = {}
        while path:
            task_id = path[-1]
            ways = (c for c in self.causes(task_id) if c.task_id in stuck and c.task_id not in seen)
            cause = next(ways, None)
            if cause is None:  # a dead end: one step back
                seen.add(path.pop())
                continue
            taken[task_id] = cause
            if cause.task_id in taken:
                ring = [(each, taken[each]) for each in path[path.index(cause.task_id) :]]
                first = ring.index(min(ring))
                return ring[first:] + ring[:first]
            path.append(cause.task_id)
        return []

    def name_of(self, task_id: bytes) -> str:
        """What people call a task."""
        run, task, actor = self.runs.get(task_id), self.tasks.get(task_id), self.actors.get(task_id)
        if run is None and actor is not None:
            return f"Actor {actor.class_name}"
        return run.facts.name if run is not None else task.name if task is not None else "a task"
