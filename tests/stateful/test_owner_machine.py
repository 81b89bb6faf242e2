"""An owner's tasks, leases and references against a world that answers late, never, or dies.

Called by:  pytest.
Imports:    nbray.core.{tasks,leases,references}, nbray.runtime.submitter (their host), tests.support.
Never:      opens a socket or waits: the world and its time are ``tests.support.owner_world``.

Letters in comments name the invariants: SC8 one state and one place per task, LE1 one end per lease,
LE3 answers count for the current attempt only, RC references are held exactly as long as they must.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nbray.core.leases import Lease, LeaseState
from nbray.core.tasks import Task, TaskState
from nbray.model import ids
from nbray.model.resources import UNIT, Shape
from nbray.runtime.refs import ObjectRef
from nbray.runtime.submitter import Link
from nbray.wire.messages import LeaseGranted, TaskDone
from tests.support.owner_world import Wire, Worker, World

CPUS = 2
SHAPES: list[Shape] = [(("CPU", UNIT),), (("CPU", 2 * UNIT),), ()]
TASKS_MAX = 40

picks = st.integers(0, 1000)
execution_times_us = st.sampled_from([10, 10, 2_000, 100_000])


class OwnerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(CPUS * UNIT)
        self.refs: list[ObjectRef] = []
        self.promised: list[bytes] = []  # objects that no task makes, still to come
        self.made = 0
        self.returns: dict[bytes, int] = {}
        self.submitted: dict[bytes, Task] = {}

    # --- the user ------------------------------------------------------------------------------------

    @precondition(lambda self: self.made < TASKS_MAX)
    @rule(
        shape=st.sampled_from([*SHAPES[:1], *SHAPES]),
        arguments=st.lists(picks, max_size=2),
        max_retries=st.sampled_from([0, 0, 1, 2, -1]),
        num_returns=st.integers(0, 2),
        count=st.integers(1, 4),
    )
    def submit(
        self, shape: Shape, arguments: list[int], max_retries: int, num_returns: int, count: int
    ) -> None:
        holds = [self.refs[pick % len(self.refs)]._id for pick in arguments if self.refs]
        for _ in range(count):
            number = self.made
            self.made += 1
            task_id = ids.task_id(b"s" * 12, number)
            self.returns[task_id] = num_returns
            self.refs += self.world.submit(number, shape, list(holds), max_retries, num_returns)
            task = self.world.submitter.tasks.tasks.get(task_id)
            if task is not None:
                self.submitted[task_id] = task

    @precondition(lambda self: self.made < TASKS_MAX)
    @rule()
    def promise(self) -> None:
        object_id = ids.put_id(b"s" * 12, self.made)
        self.made += 1
        self.promised.append(object_id)
        self.refs.append(self.world.objects.own(object_id))

    @precondition(lambda self: self.promised)
    @rule(pick=picks, failed=st.sampled_from([False, False, True]))
    def keep_promise(self, pick: int, failed: bool) -> None:
        object_id = self.promised.pop(pick % len(self.promised))
        self.world.objects.deliver(object_id, b"promised", failed)
        self.world._after_batch()

    @precondition(lambda self: self.refs)
    @rule(pick=picks, soon=st.booleans())
    def drop(self, pick: int, soon: bool) -> None:
        del self.refs[pick % len(self.refs)]
        if soon:
            self.world.objects.drain()

    # --- the daemon ----------------------------------------------------------------------------------

    @precondition(lambda self: self.world.grantable())
    @rule(pick=picks)
    def grant(self, pick: int) -> None:
        some = self.world.grantable()
        self.world.grant(some[pick % len(some)])

    @precondition(lambda self: set(self.world.serving) - self.world.asked_back)
    @rule(pick=picks, at_once=st.booleans())
    def ask_back(self, pick: int, at_once: bool) -> None:
        some = [lease for lease in self.world.serving if lease not in self.world.asked_back]
        self.world.ask_back(some[pick % len(some)])
        while at_once and self.world.from_daemon:
            self.world.read_daemon()

    @precondition(lambda self: self.world.waiting)
    @rule(pick=picks, really=st.sampled_from([False, False, False, True]))
    def refuse(self, pick: int, really: bool) -> None:
        if really:
            self.world.refuse(list(self.world.waiting)[pick % len(self.world.waiting)])

    @precondition(lambda self: any(worker.alive for worker in self.world.workers))
    @rule(pick=picks)
    def kill(self, pick: int) -> None:
        alive = [worker for worker in self.world.workers if worker.alive]
        self.world.kill(alive[pick % len(alive)])

    # --- workers -------------------------------------------------------------------------------------

    def able(self, what: str) -> list[Worker]:
        alive = [w for w in self.world.workers if w.alive and w.wire is not None and not w.wire.closed]
        return {
            "receive": [w for w in alive if cast(Wire, w.wire).to_worker],
            "start": [w for w in alive if w.inbox and w.running is None],
            "finish": [w for w in alive if w.running is not None and not w.blocked],
            "go on": [w for w in alive if w.blocked],
            "any": alive,
        }[what]

    @precondition(lambda self: self.able("receive"))
    @rule(pick=picks, count=st.integers(1, 8))
    def receive(self, pick: int, count: int) -> None:
        some = self.able("receive")
        worker = some[pick % len(some)]
        for _ in range(min(count, len(cast(Wire, worker.wire).to_worker))):
            worker.receive()

    @precondition(lambda self: self.able("start"))
    @rule(pick=picks)
    def start(self, pick: int) -> None:
        some = self.able("start")
        self.world.start(some[pick % len(some)])

    @precondition(lambda self: self.able("finish"))
    @rule(pick=picks, execution_us=execution_times_us, failed=st.sampled_from([False] * 4 + [True]))
    def finish(self, pick: int, execution_us: int, failed: bool) -> None:
        some = self.able("finish")
        self.finish_one(some[pick % len(some)], execution_us, failed)

    def finish_one(self, worker: Worker, execution_us: int, failed: bool) -> None:
        assert worker.running is not None
        self.world.finish(worker, self.returns[worker.running.task_id], execution_us, failed)

    @precondition(lambda self: self.able("start") or self.able("finish"))
    @rule(pick=picks, execution_us=execution_times_us)
    def work_through(self, pick: int, execution_us: int) -> None:
        """A worker runs all that it has."""
        some = self.able("start") or self.able("finish")
        worker = some[pick % len(some)]
        while not worker.blocked and (worker.running or worker.inbox):
            if worker.running is None:
                self.world.start(worker)
            self.finish_one(worker, execution_us, False)

    @precondition(lambda self: self.able("finish"))
    @rule(pick=picks)
    def block(self, pick: int) -> None:
        some = self.able("finish")
        some[pick % len(some)].block()

    @precondition(lambda self: self.able("go on"))
    @rule(pick=picks)
    def go_on(self, pick: int) -> None:
        some = self.able("go on")
        some[pick % len(some)].go_on()

    @precondition(lambda self: self.world.answers and self.able("any"))
    @rule(pick=picks, through=picks)
    def answer_again(self, pick: int, through: int) -> None:
        """A repeated answer, from whichever worker."""
        some = self.able("any")
        some[through % len(some)].say(self.world.answers[pick % len(self.world.answers)])

    @precondition(lambda self: self.world.retries and self.able("any"))
    @rule(pick=picks, through=picks)
    def answer_late(self, pick: int, through: int) -> None:
        """An answer of an attempt that was given up."""
        task_id = list(self.world.retries)[pick % len(self.world.retries)]
        attempt = self.submitted[task_id].attempt - 1
        results: list[Any] = [b"too late"] * self.returns[task_id]
        some = self.able("any")
        some[through % len(some)].say(TaskDone(task_id, attempt, False, results, 10, 0))

    # --- the owner -----------------------------------------------------------------------------------

    @precondition(lambda self: self.world.from_daemon)
    @rule()
    def read_daemon(self) -> None:
        self.world.read_daemon()

    @precondition(lambda self: self.world.readable())
    @rule(pick=picks, count=st.integers(1, 8))
    def read_worker(self, pick: int, count: int) -> None:
        some = self.world.readable()
        self.world.read_worker(some[pick % len(some)], count)

    @rule(passed_s=st.sampled_from([0.001, 0.01, 0.03, 0.2, 2.5]))
    def pass_time(self, passed_s: float) -> None:
        self.world.pass_time(passed_s)

    @precondition(lambda self: self.made)
    @rule(work=st.sampled_from([False, False, True]))
    def all_is_well_for_a_moment(self, work: bool) -> None:
        """Deep states need a world that works most of the time."""
        self.turn(work)

    # --- what always holds ---------------------------------------------------------------------------

    def leases(self) -> list[Lease]:
        return list(self.world.submitter.pool.by_id.values())

    @invariant()
    def each_task_is_in_one_place(self) -> None:  # SC8
        pool = self.world.submitter.pool
        queued = Counter(task.task_id for shape in pool.shapes.values() for task in shape.queue)
        pushed = Counter(task.task_id for lease in self.leases() for task in lease.inflight)
        for task in self.world.submitter.tasks.tasks.values():
            places = (queued[task.task_id], pushed[task.task_id])
            expected = {TaskState.WAITING: (0, 0), TaskState.QUEUED: (1, 0), TaskState.PUSHED: (0, 1)}
            assert places == expected[task.state], f"{task.name} is {task.state} and {places}"
            assert task.state is not TaskState.QUEUED or task in pool.shapes[task.shape].queue
        assert set(queued) | set(pushed) <= set(self.world.submitter.tasks.tasks), "over, but still there"

    @invariant()
    def pool_agrees_with_itself(self) -> None:
        pool = self.world.submitter.pool
        listed = {x.lease_id for s in pool.shapes.values() for x in [*s.leases.values(), *s.requests.values()]}
        assert listed == set(pool.by_id)
        for lease in self.leases():
            requested = lease.state is LeaseState.REQUESTED
            assert (lease.lease_id in pool.shapes[lease.shape].requests) is requested
            assert not (requested and lease.inflight)
            dead = isinstance(lease.host, Link) and lease.host.channel is None
            assert not dead or lease.state is LeaseState.CLOSING, "open without a connection"
            assert requested or lease.inflight or dead or lease.state is not LeaseState.CLOSING, "kept"

    @invariant()
    def owner_and_daemon_agree_on_leases(self) -> None:  # LE1
        known = set(self.world.submitter.pool.by_id)
        coming = {m.lease_id for m in self.world.from_daemon if isinstance(m, LeaseGranted)}
        assert set(self.world.waiting) <= known, "nobody will cancel these"
        assert set(self.world.serving) <= known | coming, "nobody will return these"

    @invariant()
    def no_worker_idles_while_tasks_wait(self) -> None:
        for shape in self.world.submitter.pool.shapes.values():
            idle = [x for x in shape.leases.values() if x.state is LeaseState.OPEN and not x.inflight]
            assert not (shape.queue and idle)

    @invariant()
    def queued_tasks_wait_for_something_that_comes(self) -> None:
        dying = self.world.submitter._dying
        for shape in self.world.submitter.pool.shapes.values():
            busy = [x for x in shape.leases.values() if x.inflight or x.lease_id in dying]
            assert not shape.queue or shape.requests or busy, "nothing will ever run these"

    @invariant()
    def what_nobody_uses_is_looked_at_again(self) -> None:
        armed = self.world.loop.deadline_s is not None
        for shape in self.world.submitter.pool.shapes.values():
            idle = [x for x in shape.leases.values() if not x.inflight]
            unused = [] if shape.queue else [*idle, *shape.requests.values()]
            assert armed or not unused, "kept for ever, unless something else happens"

    @invariant()
    def entries_are_held_exactly(self) -> None:  # RC1-RC3, of one process
        table, home = self.world.objects.table, self.world.objects.home
        handles = Counter(ref._id for ref in self.refs) + Counter(home.dropped)
        arguments = Counter(o for task in self.world.submitter.tasks.tasks.values() for o in task.holds)
        assert set(table.entries) == set(handles) | set(arguments)
        for object_id, entry in table.entries.items():
            assert entry.handles == handles[object_id]
            assert entry.arguments == arguments[object_id]
            assert entry.views == 0

    @invariant()
    def answers_are_those_of_the_last_attempt(self) -> None:  # LE3
        for entry in self.world.objects.table.entries.values():
            started = self.world.started.get(entry.object_id[: ids.TASK_ID_BYTES])
            if started and isinstance(entry.value, bytes) and entry.value.startswith(b"answer"):
                assert entry.value == b"answer of attempt %d" % started[-1]
            assert entry.value != b"too late"

    # --- the end -------------------------------------------------------------------------------------

    def turn(self, work: bool) -> None:
        """One turn of a fair world: all that can be is granted, arrives and runs, or ends too."""
        world = self.world
        for lease_id in list(world.waiting):
            if lease_id in world.grantable():
                world.grant(lease_id)
        while world.from_daemon:
            world.read_daemon()
        for worker in world.workers:
            while worker.alive and worker.wire is not None and worker.wire.to_worker:
                worker.receive()
            if worker.blocked and work:
                worker.go_on()
            while worker.alive and (worker.running or worker.inbox):
                if worker.running is None:
                    world.start(worker)
                if not work:
                    break
                self.finish_one(worker, 10, False)
        for wire in world.readable():
            world.read_worker(wire, 100)
        world.pass_time(0.03)

    def teardown(self) -> None:
        """From now on the world is fair: all tasks end, and then nothing is left anywhere."""
        world = self.world
        try:
            while self.promised:
                self.keep_promise(0, failed=False)
            for _ in range(40 + 5 * self.made):
                self.turn(work=True)
                tasks = len(world.submitter.tasks)
                if not (tasks or world.waiting or world.serving or world.from_daemon or world.readable()):
                    break
            assert not world.submitter.tasks.tasks, "these never end"
            assert not world.waiting, "requests that nobody needs any more"
            assert not world.serving, "leases that nobody gives back"
            assert not world.submitter.pool.by_id
            assert all(world.objects.table.entries[ref._id].value is not None for ref in self.refs)
            self.refs.clear()
            world.objects.drain()
            assert not world.objects.table.entries
        finally:
            world.close()


OwnerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink]
)
TestOwner = pytest.mark.stateful(OwnerMachine.TestCase)
