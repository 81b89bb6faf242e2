"""References that wander between processes that die: nothing is freed early, nothing is left (RC1-RC6, RC8).

Called by:  pytest, tests.stateful.test_borrowing_mutations.
Imports:    tests.support.borrowing_world, where nbray.core.{references,holds} run and the truth is known.
Never:      opens a socket or waits.

The moves are not rules of their own: Hypothesis leaves rules out at random, and without any of
half of these the world stands still.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from nbray.core.holds import Command
from nbray.core.references import Pair
from tests.support.borrowing_world import DAEMON, Process, World

SEATS = [b"D1", b"W1", b"W2", b"W3", b"D2"]
#: Who takes part: one driver and two workers, or more of them.
CASTS = [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
WORKERS = [1, 2, 3]
CRASHES_MAX = 4

#: How often each of the moves is made.
WEIGHTS = {
    "deliver": 22, "put": 3, "put_container": 6, "submit": 12, "read": 8, "drop": 5, "drop_many": 6,
    "copy": 1, "finish": 12, "end_lost_task": 4, "give_back": 4, "flush": 2, "pickle_by_hand": 1,
    "load_by_hand": 2, "crash": 1, "settle": 1, "hear_from_the_dead": 1,
}  # fmt: skip
MOVES = [move for move, weight in WEIGHTS.items() for _ in range(weight)]

picks = st.integers(0, 9_999)


class BorrowingMachine(RuleBasedStateMachine):
    """Drivers that share workers. A seat holds one process after another.

    Each move takes two numbers to choose with, and does nothing where it makes no sense.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begin(cast=2, eager=True, slow=0)

    @initialize(cast=st.integers(0, 2), eager=st.booleans(), slow=st.integers(0, 35))
    def begin(self, cast: int, eager: bool, slow: int) -> None:
        self.seats = [SEATS[n] for n in CASTS[cast]]
        self.world = World(self.seats, eager=eager)
        self.workers = [n for n in WORKERS if n < len(self.seats)]
        everybody = [*self.seats, DAEMON]
        self.slow = everybody[slow // 6 % len(everybody)], everybody[slow % len(everybody)]
        self.crashes = 0

    @rule(move=st.sampled_from(MOVES), a=picks, b=picks)
    def step(self, move: str, a: int, b: int) -> None:
        getattr(self, move)(a, b)
        self.refill()
        self.world.check()

    # --- whom and what -------------------------------------------------------------------------------

    def process(self, a: int) -> Process:
        return self.world.processes[self.seats[a % len(self.seats)]]

    def everybody(self) -> list[Process]:
        return [self.world.processes[name] for name in self.seats]

    def mine(self, process: Process) -> list[bytes]:
        """What its code may pass on: not what it loaded by hand a moment ago, which nobody vouches for."""
        unvouched = self.world.unvouched
        return sorted(o for o in process.handles if (process.name, o) not in unvouched)

    def some(self, process: Process, b: int) -> list[bytes]:
        """Up to three of them, as often as not the newest."""
        mine = self.mine(process)
        return list(dict.fromkeys(mine[(b >> (3 * k)) % len(mine)] for k in range(b % 4))) if mine else []

    # --- moves ---------------------------------------------------------------------------------------

    def worker(self, b: int) -> bytes:
        return self.seats[self.workers[b % len(self.workers)]]

    def deliver(self, a: int, b: int) -> None:
        """A few messages of one wire. One of them is slow."""
        wires = self.world.deliverable()
        if b % 10:
            wires = [w for w in wires if (w[0].rstrip(b"'"), w[1].rstrip(b"'")) != self.slow]
        if wires:
            wire = wires[a % len(wires)]
            for _ in range(1 + b % 3):
                self.world.deliver(wire, twice=b % 2 == 0)
                if wire not in self.world.deliverable():
                    break

    def put(self, a: int, b: int) -> None:
        self.process(a).put(stored=b % 2 == 0)

    def put_container(self, a: int, b: int) -> None:
        process = self.process(a)
        process.put(self.some(process, b), stored=b % 5 < 3)

    def submit(self, a: int, b: int) -> None:
        """To some worker that is free; a third argument arrives as its value."""
        process = self.process(a)
        refs = self.some(process, b)
        values = [o for o in refs[2:] if process.value(o) is not None]
        for n in range(len(self.workers)):
            if process.submit(self.worker(b + n), refs[:2], values):
                return

    def read(self, a: int, b: int) -> None:
        """One that has references in it, if there is any."""
        process = self.process(a)
        full = [object_id for object_id in self.mine(process) if process.value(object_id)]
        if full:
            process.read(full[b % len(full)])

    def drop(self, a: int, b: int) -> None:
        process = self.process(a)
        handles = sorted(process.handles)
        if handles:
            process.drop(handles[b % len(handles)])

    def drop_many(self, a: int, b: int) -> None:
        process = self.process(a)
        for place, object_id in enumerate(process.all_handles()):
            if b >> (place % 10) & 1:
                process.drop(object_id)

    def copy(self, a: int, b: int) -> None:
        process = self.process(a)
        mine = self.mine(process)
        if mine:
            process.copy(mine[b % len(mine)])

    def finish(self, a: int, b: int) -> None:
        """It returns some of what it has, drops some, and puts the rest away."""
        busy = [p for p in self.everybody() if p.running is not None and p.answer is None]
        if not busy:
            return
        process = busy[a % len(busy)]
        assert process.running is not None
        own = process.running.result
        results = [o for o in self.some(process, b) if o == own or not self.world.leads_to(o, own)]
        some = [o for place, o in enumerate(process.all_handles()) if a >> (place % 10) & 3]
        process.finish(results, some, stored=a % 5 < 2)

    def end_lost_task(self, a: int, b: int) -> None:
        for seat in range(len(self.seats)):
            process = self.process(a + seat)
            results = process.given_up()
            if results:
                result = results[b % len(results)]
                if b % 3:
                    process.retry(result, self.worker(b))
                else:
                    process.fail(result)
                return

    def give_back(self, a: int, b: int) -> None:
        self.process(a).give_back(self.worker(b))

    def flush(self, a: int, b: int) -> None:
        self.process(a).flush()

    def pickle_by_hand(self, a: int, b: int) -> None:
        process = self.process(a)
        mine = self.mine(process)
        if mine:
            process.export(mine[b % len(mine)])

    def load_by_hand(self, a: int, b: int) -> None:
        if self.world.pickles:
            self.process(a).load(*self.world.pickles[b % len(self.world.pickles)])

    def crash(self, a: int, b: int) -> None:
        if self.crashes < CRASHES_MAX:
            self.crashes += 1
            self.world.crash(self.seats[a % len(self.seats)])

    def refill(self) -> None:
        """Somebody else takes the seats of the dead: the next incarnations."""
        for seat, name in enumerate(self.seats):
            if not self.world.processes[name].alive:
                self.seats[seat] = b"%b'" % name
                self.world.processes[self.seats[seat]] = Process(self.world, self.seats[seat])

    def settle(self, a: int, b: int) -> None:
        self.world.settle()
        self.world.check_exactly()

    def hear_from_the_dead(self, a: int, b: int) -> None:
        """RC6: whatever a lost incarnation is said to have said changes nothing."""
        lost, holds = sorted(self.world.daemon.lost), self.world.daemon.holds
        objects: list[Pair] = [(o, p.name) for p in self.everybody() for o in p.table.entries]
        if not lost or not objects:
            return
        dead, pair, other = lost[a % len(lost)], objects[b % len(objects)], self.process(b)
        before, out = self.world.freeze(), list[Command]()
        for speak in (
            lambda: holds.hold(dead, [pair]),
            lambda: holds.release(dead, [pair[0]], out),
            lambda: holds.send_parcel(dead, b"late", other.name, [pair]),
            lambda: holds.send_parcel(other.name, b"late", dead, [pair]),
            lambda: holds.end_parcels(
                dead, other.name, [t.parcel_id for t, _ in other.pending.values()], out
            ),
            lambda: holds.let_go(dead, [pair[0]], out),
            lambda: holds.process_lost(dead, [pair[0]], out),
        ):
            speak()
            assert out == []
            assert self.world.freeze() == before

    # --- the end -------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """All work ends and all variables go; who pickled by hand dies. Then nothing is left."""
        world = self.world
        world.settle()
        while busy := [p for p in world.processes.values() if p.alive and (p.pending or p.running)]:
            for process in busy:
                if process.alive and process.running is not None and process.answer is None:
                    process.finish([], [])
                for result in process.given_up() if process.alive else ():
                    process.fail(result)
            world.settle()
        world.check_exactly()
        for process in world.processes.values():
            if process.alive:
                for object_id in process.all_handles():
                    process.drop(object_id)
                if process.exported:
                    world.crash(process.name)
            world.check()
        world.settle()
        world.check_empty()

    # --- without Hypothesis --------------------------------------------------------------------------

    def walk(self, random: Random, moves: int) -> None:
        self.begin(random.randrange(3), random.random() < 0.5, random.randrange(36))
        for _ in range(moves):
            self.step(random.choice(MOVES), random.randrange(10_000), random.randrange(10_000))
        self.teardown()


def walks(count: int, moves: int) -> None:
    """Random walks with seeds 0, 1, ...; says which one failed."""
    for seed in range(count):
        try:
            BorrowingMachine().walk(Random(seed), moves)
        except (AssertionError, KeyError) as exc:
            exc.args = (f"seed {seed}: {exc}",)
            raise


@pytest.mark.stateful
def test_processes_keep_all_promises_on_random_walks() -> None:
    walks(500, moves=200)


# Without Phase.explain: it traces every line of the runs that fail, for minutes.
BorrowingMachine.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=200,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate, Phase.shrink],
)
TestBorrowing = pytest.mark.stateful(BorrowingMachine.TestCase)
