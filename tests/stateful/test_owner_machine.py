"""An owner's tasks, leases and references against a world that answers late, never, or dies.

Called by:  pytest, tests.stateful.test_owner_mutations.
Imports:    nbray.core.{tasks,leases,references}, nbray.runtime.submitter (their host), tests.support.
Never:      opens a socket or waits: the world and its time are ``tests.support.owner_world``.

Letters in comments name the invariants: SC8 one state and one place per task, LE1 one end per lease,
LE3 answers count for the current attempt only, RC references are held exactly as long as they must.

The moves are not rules of their own: Hypothesis leaves rules out at random, and without any of
half of these the world stands still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, cast

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nbray.core.leases import Lease, LeaseState
from nbray.core.tasks import Task, TaskState
from nbray.model import ids
from nbray.model.resources import UNIT, Shape
from nbray.runtime.links import Link
from nbray.runtime.refs import ObjectRef
from nbray.wire.messages import (
    LeaseGranted,
    TaskAnswer,
    TasksDone,
)
from nbray.wire.waiting_messages import BY_MEMORY
from tests.support.owner_world import Wire, Worker, World

CPUS = 2
ONE_CPU: Shape = (("CPU", UNIT),)
SHAPES: list[Shape] = [ONE_CPU, ONE_CPU, ONE_CPU, ONE_CPU, (("CPU", 2 * UNIT),), ()]
RETRIES = [0, 1, 2, 3, 3, -1]  # tasks without retries are never pushed ahead
#: After one slow task nothing is pushed ahead for a while, so most are short.
EXECUTION_US = [10] * 8 + [2_000, 100_000]
PASSED_S = [0.001, 0.01, 0.03, 0.2, 2.5]
TASKS_MAX = 60

picks = st.integers(0, 1000)


class OwnerMachine(RuleBasedStateMachine):
    """Each move takes two numbers to choose with; ``possible`` says which moves make sense now."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(CPUS * UNIT)
        self.refs: list[ObjectRef] = []
        self.promised: list[bytes] = []  # objects that no task makes, still to come
        self.made = 0

    @initialize(warm=st.booleans())
    def begin(self, warm: bool) -> None:
        """An owner that has seen its tasks to be short pushes several ahead."""
        if warm:
            self.warm_up()

    def warm_up(self) -> None:
        self.submit_some(ONE_CPU, [], 3, 1, 2)
        for _ in range(3):
            self.turn(work=True)

    @rule(move=picks, a=picks, b=picks)
    def move(self, move: int, a: int, b: int) -> None:
        some = self.possible()
        chosen = some[move % len(some)]
        note(f"{chosen.__name__}({a}, {b})")
        chosen(a, b)

    def walk(self, random: Random, moves: int) -> None:
        """The same without Hypothesis: far more moves a second, and evenly spread; no shrinking."""
        if random.random() < 0.5:
            self.warm_up()
        for _ in range(moves):
            random.choice(self.possible())(random.randrange(1000), random.randrange(1000))
            self.all_holds()

    def possible(self) -> list[Callable[[int, int], None]]:
        world = self.world
        able = [self.pass_time]
        if self.made < TASKS_MAX:
            able += [self.submit, self.submit, self.promise]
        if self.promised:
            able += [self.keep_promise]
        if self.refs:
            able += [self.drop]
        if self.world.own or self.queued():
            able += [self.run_one_here]
        if self.made:
            able += [self.cancel, self.cancel_what_is_pushed]
        if world.grantable():
            able += [self.grant, self.grant]
        if set(world.serving) - world.asked_back:
            able += [self.ask_back, self.leave_between_two_tasks, self.ask_not_to_linger]
        if world.from_daemon:
            able += [self.read_daemon, self.read_daemon]
        if world.readable():
            able += [self.read_worker, self.read_worker]
        return able + self.possible_of_workers()

    def possible_of_workers(self) -> list[Callable[[int, int], None]]:
        able: list[Callable[[int, int], None]] = []
        if self.connected():
            able += [self.kill, self.answer_again] if self.world.answers else [self.kill]
        if self.retried():
            able += [self.answer_late]
        if self.world.submitter.relief._kept:
            able += [self.ease]
        if self.unread():
            able += [self.receive, self.receive]
        if self.startable():
            able += [self.start, self.work_through]
        if self.running():
            able += [self.finish, self.finish, self.block]
        if self.blocked():
            able += [self.go_on, self.go_on]
        if self.made:
            able += [self.all_is_well, self.all_is_well]
        return able

    # --- the user ------------------------------------------------------------------------------------

    def submit(self, a: int, b: int) -> None:
        holds = [self.refs[pick % len(self.refs)]._id for pick in (a, b)[: a % 4] if self.refs]
        self.submit_some(SHAPES[b % len(SHAPES)], holds, RETRIES[a % len(RETRIES)], b % 3, 1 + a % 4)

    def submit_some(
        self, shape: Shape, holds: list[bytes], max_retries: int, num_returns: int, count: int
    ) -> None:
        for _ in range(count):
            self.refs += self.world.submit(self.made, shape, list(holds), max_retries, num_returns)
            self.made += 1

    def promise(self, a: int, b: int) -> None:
        object_id = ids.put_id(b"s" * 12, self.made)
        self.made += 1
        self.promised.append(object_id)
        self.refs.append(self.world.objects.own(object_id))

    def keep_promise(self, a: int, b: int) -> None:
        object_id = self.promised.pop(a % len(self.promised))
        self.world.objects.deliver(object_id, b"promised", b % 3 == 1)
        self.world.after_batch()

    def drop(self, a: int, b: int) -> None:
        del self.refs[a % len(self.refs)]
        if b % 2:
            self.world.objects.drain()

    def cancel(self, a: int, b: int) -> None:
        """Of all that were made, over or not; of the last ones more often."""
        number = self.made - 1 - a % (self.made if b % 2 else min(4, self.made))
        if a % 7 == 6:
            for each in range(self.made):
                self.world.cancel(ids.task_id(b"s" * 12, each), force=b % 4 == 3)
        self.world.cancel(ids.task_id(b"s" * 12, number), force=b % 4 == 3)

    def cancel_what_is_pushed(self, a: int, b: int) -> None:
        """One that runs, or waits behind one that does; often its worker does not listen for a while."""
        pushed = [task for lease in self.leases() for task in lease.inflight]
        if pushed:
            self.world.cancel(pushed[a % len(pushed)].task_id, force=b % 2 == 1)
            self.world.pass_time([0.001, 0.3, 1.1][b % 3])

    def queued(self) -> list[Task]:
        return [t for t in self.world.submitter.tasks.tasks.values() if t.state is TaskState.QUEUED]

    def run_one_here(self, a: int, b: int) -> None:
        """Its owner runs it itself, as one that is blocked may have to; or did not come to it."""
        world = self.world
        if not world.own or (self.queued() and a % 2):
            some = self.queued()
            world.take_out(some[a % len(some)], b)
        elif b % 4 == 3:
            world.put_back(world.own[a % len(world.own)])
        else:
            world.answer_here(world.own[a % len(world.own)], failed=b % 4 == 2)

    # --- the daemon ----------------------------------------------------------------------------------

    def grant(self, a: int, b: int) -> None:
        some = self.world.grantable()
        if b % 8 == 7:
            self.world.refuse(some[a % len(some)])
        else:
            self.world.grant(some[a % len(some)])

    def ask_back(self, a: int, b: int) -> None:
        some = [lease for lease in self.world.serving if lease not in self.world.asked_back]
        self.world.ask_back(some[a % len(some)])
        while b % 2 and self.world.from_daemon:
            self.world.read_daemon()

    def ask_not_to_linger(self, a: int, b: int) -> None:
        some = [lease for lease in self.world.serving if lease not in self.world.asked_back]
        self.world.ask_not_to_linger(some[a % len(some)])

    def leave_between_two_tasks(self, a: int, b: int) -> None:
        """The rarest of moments: none runs, and the rest has not begun."""
        self.ask_back(a, 1)
        for worker in self.running():
            self.finish_one(worker, 10, failed=False)
            while worker.wire is not None and worker.wire.to_worker:
                worker.receive()

    def kill(self, a: int, b: int) -> None:
        alive = [worker for worker in self.world.workers if worker.alive]
        self.world.kill(alive[a % len(alive)], BY_MEMORY if b % 3 == 2 else "")

    def ease(self, a: int, b: int) -> None:
        """There is memory again; or so the daemon says."""
        self.world.submitter.relief.eased()

    # --- workers -------------------------------------------------------------------------------------

    def connected(self) -> list[Worker]:
        return [w for w in self.world.workers if w.alive and w.wire is not None and not w.wire.closed]

    def unread(self) -> list[Worker]:
        return [w for w in self.connected() if cast("Wire", w.wire).to_worker]

    def startable(self) -> list[Worker]:
        return [w for w in self.connected() if w.inbox and w.running is None]

    def running(self) -> list[Worker]:
        return [w for w in self.connected() if w.running is not None and not w.blocked]

    def blocked(self) -> list[Worker]:
        return [w for w in self.connected() if w.blocked]

    def retried(self) -> list[tuple[Task, Worker]]:
        leases = [(worker, self.world.lease_of(worker)) for worker in self.connected()]
        return [(t, worker) for worker, lease in leases if lease for t in lease.inflight if t.attempt]

    def receive(self, a: int, b: int) -> None:
        worker = self.unread()[a % len(self.unread())]
        wire = cast("Wire", worker.wire)
        for _ in range(min(1 + b % 8, len(wire.to_worker))):
            worker.receive()

    def start(self, a: int, b: int) -> None:
        self.world.start(self.startable()[a % len(self.startable())])

    def finish(self, a: int, b: int) -> None:
        worker = self.running()[a % len(self.running())]
        self.finish_one(worker, EXECUTION_US[b % len(EXECUTION_US)], failed=a % 5 == 4)

    def finish_one(self, worker: Worker, execution_us: int, *, failed: bool) -> None:
        self.world.finish(worker, execution_us, failed)

    def work_through(self, a: int, b: int) -> None:
        """A worker runs all that it has."""
        worker = self.startable()[a % len(self.startable())]
        while worker.inbox:
            self.world.start(worker)
            self.finish_one(worker, EXECUTION_US[b % len(EXECUTION_US)], failed=False)

    def block(self, a: int, b: int) -> None:
        worker = self.running()[a % len(self.running())]
        worker.block()
        if b % 2:
            self.world.read_worker(cast("Wire", worker.wire), 100)

    def go_on(self, a: int, b: int) -> None:
        self.blocked()[a % len(self.blocked())].go_on()

    def answer_again(self, a: int, b: int) -> None:
        """A repeated answer, from whichever worker."""
        worker = self.connected()[b % len(self.connected())]
        worker.say(TasksDone([self.world.answers[a % len(self.world.answers)]]))

    def answer_late(self, a: int, b: int) -> None:
        """An answer of an attempt that was given up."""
        task, worker = self.retried()[a % len(self.retried())]
        results: list[Any] = [b"too late"] * task.num_returns
        worker.say(TasksDone([TaskAnswer(task.task_id, task.attempt - 1, False, results, 10, 0)]))

    # --- the owner -----------------------------------------------------------------------------------

    def read_daemon(self, a: int, b: int) -> None:
        self.world.read_daemon()

    def read_worker(self, a: int, b: int) -> None:
        some = self.world.readable()
        self.world.read_worker(some[a % len(some)], [1, 1, 2, 100][b % 4])

    def pass_time(self, a: int, b: int) -> None:
        self.world.pass_time(PASSED_S[a % len(PASSED_S)])

    def all_is_well(self, a: int, b: int) -> None:
        """Deep states need a world that works most of the time."""
        self.turn(work=a % 3 == 2)

    # --- what always holds ---------------------------------------------------------------------------

    @invariant()
    def all_holds(self) -> None:
        self.each_task_is_in_one_place()
        self.pool_agrees_with_itself()
        self.owner_and_daemon_agree_on_leases()
        self.no_worker_idles_while_tasks_wait()
        self.queued_tasks_wait_for_something_that_comes()
        self.what_nobody_uses_is_looked_at_again()
        self.entries_are_held_exactly()
        self.answers_are_those_of_the_last_attempt()

    def leases(self) -> list[Lease]:
        return list(self.world.submitter.pool.by_id.values())

    def each_task_is_in_one_place(self) -> None:  # SC8
        pool, tasks = self.world.submitter.pool, self.world.submitter.tasks.tasks
        for shape in pool.shapes.values():
            gone = [task for task in shape.queue if task.state is TaskState.CANCELLED]
            assert len(gone) == shape.gone
            assert not shape.queue or shape.queue[0] not in gone
        queued = Counter(
            t.task_id
            for s in pool.shapes.values()
            for t in s.queue
            if t.shape == s.shape and t.state is not TaskState.CANCELLED
        )
        pushed = Counter(task.task_id for lease in self.leases() for task in lease.inflight)
        pushed.update(task.task_id for task in self.world.own)
        expected = {
            TaskState.WAITING: (0, 0), TaskState.QUEUED: (1, 0), TaskState.PUSHED: (0, 1),
            TaskState.CANCELLING: (0, 1),
        }  # fmt: skip
        for task in tasks.values():
            places = (queued[task.task_id], pushed[task.task_id])
            assert places == expected[task.state], f"{task.name} is {task.state} and {places}"
        assert set(queued) | set(pushed) <= set(tasks), "over, but still there"

    def pool_agrees_with_itself(self) -> None:
        pool = self.world.submitter.pool
        listed = {x for shape in pool.shapes.values() for x in [*shape.leases, *shape.requests]}
        assert listed == set(pool.by_id)
        for lease in self.leases():
            requested = lease.state is LeaseState.REQUESTED
            assert (lease.lease_id in pool.shapes[lease.shape].requests) is requested
            assert not (requested and lease.inflight)
            dead = isinstance(lease.host, Link) and lease.host.channel is None
            assert not dead or lease.state is LeaseState.CLOSING, "open without a connection"
            assert lease.inflight or dead or lease.state is not LeaseState.CLOSING, "empty, but kept"

    def owner_and_daemon_agree_on_leases(self) -> None:  # LE1
        known = set(self.world.submitter.pool.by_id)
        coming = {m.lease_id for m in self.world.from_daemon if isinstance(m, LeaseGranted)}
        assert set(self.world.waiting) <= known, "nobody will cancel these"
        assert set(self.world.serving) <= known | coming, "nobody will return these"

    def no_worker_idles_while_tasks_wait(self) -> None:
        for lease_id in self.world.told_not_to_idle & set(self.world.submitter.pool.by_id):
            lease = self.world.submitter.pool.by_id[lease_id]
            assert lease.inflight or lease.state is not LeaseState.OPEN, "others wait for it, and it idles"
        for shape in self.world.submitter.pool.shapes.values():
            idle = [x for x in shape.leases.values() if x.state is LeaseState.OPEN and not x.inflight]
            assert not (shape.queue and idle)

    def queued_tasks_wait_for_something_that_comes(self) -> None:
        dying = self.world.submitter._dying
        for shape in self.world.submitter.pool.shapes.values():
            busy = [x for x in shape.leases.values() if x.inflight or x.lease_id in dying]
            assert not shape.queue or shape.requests or busy, "nothing will ever run these"

    def what_nobody_uses_is_looked_at_again(self) -> None:
        armed = self.world.loop.deadline_s is not None
        for shape in self.world.submitter.pool.shapes.values():
            idle = [x for x in shape.leases.values() if not x.inflight]
            unused = [] if shape.queue else [*idle, *shape.requests.values()]
            assert armed or not unused, "kept for ever, unless something else happens"

    def entries_are_held_exactly(self) -> None:  # RC1-RC3, of one process
        table, home = self.world.objects.table, self.world.objects.home
        handles = Counter(ref._id for ref in self.refs) + Counter(home.dropped)
        arguments = Counter(o for task in self.world.submitter.tasks.tasks.values() for o in task.holds)
        assert set(table.entries) == set(handles) | set(arguments)
        for object_id, entry in table.entries.items():
            assert entry.handles == handles[object_id]
            assert entry.arguments == arguments[object_id]
            assert entry.views == 0

    def answers_are_those_of_the_last_attempt(self) -> None:  # LE3
        for entry in self.world.objects.table.entries.values():
            started = self.world.started.get(entry.object_id[: ids.TASK_ID_BYTES])
            if started and isinstance(entry.value, bytes) and entry.value.startswith(b"answer"):
                assert entry.value == b"answer of attempt %d" % started[-1]
            assert entry.value != b"too late"

    # --- the end -------------------------------------------------------------------------------------

    def turn(self, *, work: bool) -> None:
        """One turn of a fair world: all that can be is granted, arrives and starts. ``work``: and ends."""
        world = self.world
        for lease_id in list(world.waiting):
            if lease_id in world.grantable():
                world.grant(lease_id)
        while world.from_daemon:
            world.read_daemon()
        for worker in self.connected():
            while cast("Wire", worker.wire).to_worker:
                worker.receive()
            if worker.blocked and work:
                worker.go_on()
            while worker.inbox or worker.running:
                if worker.running is None:
                    world.start(worker)
                if not work:
                    break
                self.finish_one(worker, 10, failed=False)
        for wire in world.readable():
            world.read_worker(wire, 100)
        world.submitter.relief.eased()
        world.pass_time(0.03)

    def teardown(self) -> None:
        """From now on the world is fair: all tasks end, and then nothing is left anywhere."""
        world = self.world
        try:
            while self.promised:
                self.keep_promise(0, 0)
            while world.own:
                world.answer_here(world.own[0], failed=False)
            for _ in range(20 + self.made):
                self.turn(work=True)
                if not (len(world.submitter.tasks) or world.waiting or world.serving or world.readable()):
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


def walks(count: int) -> None:
    """Random walks with seeds 0, 1, ...; says which one failed."""
    for seed in range(count):
        machine = OwnerMachine()
        try:
            machine.walk(Random(seed), moves=60)
        except BaseException as exc:
            machine.world.close()
            exc.args = (f"seed {seed}: {exc}",)
            raise
        machine.teardown()


@pytest.mark.stateful
def test_owner_keeps_all_promises_on_random_walks() -> None:
    walks(300)


# Without Phase.explain: it traces every line of the runs that fail, for minutes.
OwnerMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
)
TestOwner = pytest.mark.stateful(OwnerMachine.TestCase)
