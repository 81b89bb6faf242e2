"""Actors, their supervisor and callers against processes that die at any point.

Called by:  pytest, tests.stateful.test_actor_mutations.
Imports:    tests.support.actor_world.
Never:      delivers two messages of one connection in another order.

The moves are not rules of their own: Hypothesis leaves rules out at random, and without any of half of
these the world stands still. Those that end something happen only for some numbers: else little would run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nbray.core.actor_record import ActorState
from nbray.core.tasks import TaskState
from nbray.wire.actor_messages import ActorSpec
from tests.support.actor_world import RAISED, Call, Caller, Link, Process, World, spec_of

ACTORS_MAX, CALLS_MAX, CALLERS = 3, 40, 3
RESTARTS = [0, 1, 3, -1, -1]
RETRIES = [0, 0, 1, 2, -1]
NAMES = ["a", "b"]
picks = st.integers(0, 1000)
Move = Callable[[int, int], None]


class ActorMachine(RuleBasedStateMachine):
    """Each move takes two numbers to choose with; ``possible`` says which moves make sense now."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for _ in range(CALLERS):
            self.world.caller()
        self.undeclared: list[ActorSpec] = []
        self.calls = 0

    @rule(move=picks, a=picks, b=picks)
    def move(self, move: int, a: int, b: int) -> None:
        some = self.possible()
        chosen = some[move % len(some)]
        note(f"{chosen.__name__}({a}, {b})")
        chosen(a, b)

    @invariant()
    def holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        while self.undeclared:
            self.declare(0, 0)
        self.world.settle()

    def walk(self, random: Random, moves: int) -> None:
        """The same without Hypothesis: far more moves a second, and evenly spread; no shrinking."""
        for _ in range(moves):
            random.choice(self.possible())(random.randrange(1000), random.randrange(1000))
            self.world.check()
        self.teardown()

    def possible(self) -> list[Move]:
        world = self.world
        able: list[Move] = [self.crash] if self.living() else []
        if len(world.specs) < ACTORS_MAX and world.callers[0].is_alive:
            able += [self.make, self.make]
        if self.undeclared:
            able += [self.declare, self.declare, self.fail_argument]
        if self.routes():
            able += [self.kill, self.drop_handle, self.name]
            if self.calls < CALLS_MAX:
                able += [self.call] * 4
        if self.waiting():
            able += [self.argument_ready, self.argument_failed]
        if world.requests:
            able += [self.request, self.request]
        if world.leases:
            able += [self.grant, self.grant, self.grant, self.refuse]
        if self.talking():
            able += [self.daemon_reads] * 3
        if self.told():
            able += [self.caller_reads] * 3
        if [c for c in world.callers if c.is_alive]:
            able += [self.caller_dies]
        if world.releasable():
            able += [self.release]
        return able + self.possible_of_processes()

    def possible_of_processes(self) -> list[Move]:
        able: list[Move] = []
        if self.unmade():
            able += [self.constructed, self.constructed, self.constructor_raised, self.left_by_itself]
        if self.sent():
            able += [self.process_receives] * 3
        if self.idle():
            able += [self.begin] * 3
        if self.busy():
            able += [self.finish, self.finish, self.exit_in_a_call]
        if self.answered():
            able += [self.caller_reads_answer] * 2
        if self.done():
            able += [self.ends]
        if self.dead():
            able += [self.reap, self.reap, self.socket_closes]
        return able

    # --- whom it may be about ----------------------------------------------------------------------

    def living(self) -> list[Process]:
        return [p for p in self.world.unreaped.values() if p.is_alive]

    def dead(self) -> list[Process]:
        return [p for p in self.world.unreaped.values() if not p.is_alive]

    def unmade(self) -> list[Process]:
        return [p for p in self.living() if not p.is_made and not p.is_leaving]

    def idle(self) -> list[Process]:
        return [p for p in self.living() if p.is_made and p.running is None and p.inbox]

    def busy(self) -> list[Process]:
        return [p for p in self.living() if p.running is not None]

    def done(self) -> list[Process]:
        return [p for p in self.living() if p.is_leaving and p.running is None and not p.inbox]

    def sent(self) -> list[Link]:
        return [link for p in self.living() for link in p.links if link.calls]

    def answered(self) -> list[Link]:
        return [link for c in self.world.callers if c.is_alive for link in c.links.values() if link.answers]

    def routes(self) -> list[tuple[Caller, bytes]]:
        return [(c, a) for c in self.world.callers if c.is_alive for a in sorted(c.handles)]

    def waiting(self) -> list[Call]:
        return [
            call
            for c in self.world.callers
            if c.is_alive
            for call in c.calls.values()
            if call.task.state is TaskState.WAITING and not call.is_over
        ]

    def talking(self) -> list[Caller | Process]:
        found: list[Caller | Process] = [c for c in self.world.callers if c.to_daemon]
        return found + [p for p in self.world.unreaped.values() if p.to_daemon]

    def told(self) -> list[Caller]:
        return [c for c in self.world.callers if c.is_alive and c.from_daemon]

    # --- moves ---------------------------------------------------------------------------------------

    def make(self, a: int, b: int) -> None:
        owner = [c for c in self.world.callers if c.is_alive][a % sum(c.is_alive for c in self.world.callers)]
        spec = spec_of(self.world, owner, RESTARTS[b % 5], 1 if b % 4 else 4, b % 7 == 0)
        self.undeclared.append(spec)
        for caller in self.world.callers:
            if caller.is_alive:
                caller.watch(spec.actor_id, spec.owner, spec.max_concurrency)

    def declare(self, a: int, _b: int) -> None:
        spec = self.undeclared.pop(a % len(self.undeclared))
        owner = self.world.owners[spec.actor_id]
        if owner.is_alive:
            owner.tell(self.world.table.create, spec)

    def fail_argument(self, a: int, b: int) -> None:
        if b % 8:
            return
        spec = self.undeclared.pop(a % len(self.undeclared))
        owner = self.world.owners[spec.actor_id]
        if owner.is_alive:
            owner.tell(self.world.table.fail, spec.actor_id, spec.owner, RAISED)

    def call(self, a: int, b: int) -> None:
        self.calls += 1
        caller, actor_id = self.routes()[a % len(self.routes())]
        caller.call(actor_id, RETRIES[b % 5], b % 3 != 0)

    def argument_ready(self, a: int, _b: int) -> None:
        call = self.waiting()[a % len(self.waiting())]
        call.caller.argument_ready(call)

    def argument_failed(self, a: int, b: int) -> None:
        if b % 5:
            return
        call = self.waiting()[a % len(self.waiting())]
        call.caller.give_up(call)

    def kill(self, a: int, b: int) -> None:
        if b % 10:
            return
        caller, actor_id = self.routes()[a % len(self.routes())]
        caller.kill(actor_id, no_restart=b % 30 == 0)

    def name(self, a: int, b: int) -> None:
        caller, actor_id = self.routes()[a % len(self.routes())]
        name = NAMES[b % 2]

        def give() -> None:
            before = self.world.table.find(("", name))[0]
            owner = self.world.specs[actor_id].owner
            found, _ = self.world.table.give_name(("", name), actor_id, owner, b"h", 0, 0)
            dead = self.world.table.actors[actor_id].state is ActorState.DEAD
            assert found == (before or (b"" if dead else actor_id)), "AC6: a name finds whom it should not"
            if found == actor_id:
                self.world.names[name] = actor_id

        if actor_id in caller.routes:
            caller.to_daemon.append(give)

    def drop_handle(self, a: int, b: int) -> None:
        if b % 4:
            return
        caller, actor_id = self.routes()[a % len(self.routes())]
        for each in self.world.callers if b % 8 else [caller]:
            each.handles.discard(actor_id)

    def release(self, a: int, _b: int) -> None:
        some = self.world.releasable()
        self.world.release(some[a % len(some)])

    def caller_dies(self, a: int, b: int) -> None:
        some = [c for c in self.world.callers if c.is_alive]
        if b % 15 or len(some) == 1:
            return
        caller = some[a % len(some)]
        caller.is_alive = False
        for process in self.living():
            process.inbox = deque(item for item in process.inbox if item[1].caller is not caller)
        for link in caller.links.values():
            link.is_open = False
            link.calls.clear()
        self.world.bury_caller(caller)

    def request(self, a: int, _b: int) -> None:
        self.world.request(self.world.requests[a % len(self.world.requests)])

    def grant(self, a: int, _b: int) -> None:
        self.world.grant(list(self.world.leases)[a % len(self.world.leases)])

    def refuse(self, a: int, b: int) -> None:
        if not b % 10:
            self.world.refuse(list(self.world.leases)[a % len(self.world.leases)])

    def daemon_reads(self, a: int, _b: int) -> None:
        self.talking()[a % len(self.talking())].to_daemon.popleft()()

    def caller_reads(self, a: int, _b: int) -> None:
        self.told()[a % len(self.told())].read_update()

    def constructed(self, a: int, _b: int) -> None:
        self.unmade()[a % len(self.unmade())].made(b"")

    def constructor_raised(self, a: int, b: int) -> None:
        if not b % 8:
            self.unmade()[a % len(self.unmade())].made(RAISED)

    def left_by_itself(self, a: int, b: int) -> None:
        if not b % 10:
            self.unmade()[a % len(self.unmade())].leave()

    def process_receives(self, a: int, _b: int) -> None:
        link = self.sent()[a % len(self.sent())]
        link.process.receive(link)

    def begin(self, a: int, _b: int) -> None:
        self.idle()[a % len(self.idle())].begin()

    def finish(self, a: int, _b: int) -> None:
        self.busy()[a % len(self.busy())].finish()

    def exit_in_a_call(self, a: int, b: int) -> None:
        process = self.busy()[a % len(self.busy())]
        if not b % 8 and not process.is_leaving:
            process.leave()
            process.die()

    def ends(self, a: int, _b: int) -> None:
        self.done()[a % len(self.done())].die()

    def caller_reads_answer(self, a: int, _b: int) -> None:
        link = self.answered()[a % len(self.answered())]
        link.caller.read_answer(link)

    def crash(self, a: int, b: int) -> None:
        if not b % 3:
            some = self.busy() or self.living()
            some[a % len(some)].die()

    def reap(self, a: int, _b: int) -> None:
        self.world.reap(self.dead()[a % len(self.dead())])

    def socket_closes(self, a: int, b: int) -> None:
        process = self.dead()[a % len(self.dead())]
        for link in process.links:
            if link.caller.is_alive and link.is_open:
                link.caller.socket_closed(link)


def walks(count: int, moves: int = 160) -> None:
    """Random walks with seeds 0, 1, ...; says which one failed."""
    for seed in range(count):
        machine = ActorMachine()
        try:
            machine.walk(Random(seed), moves)
        except BaseException as exc:
            exc.args = (f"seed {seed}: {exc}",)
            raise


@pytest.mark.stateful
def test_actors_keep_all_promises_on_random_walks() -> None:
    walks(400)


# Without Phase.explain: it traces every line of the runs that fail, for minutes.
ActorMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
)
TestActors = pytest.mark.stateful(ActorMachine.TestCase)
