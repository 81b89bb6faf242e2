"""Calls of an actor with checkpoints against the truth: killed at any moment, told again, each exactly once.

Called by:  pytest.
Imports:    nbray.core.{actor_calls,kept_calls,tasks}, hypothesis.
Never:      starts a process.

Several callers, one actor. Bytes between them are in the order in which they were sent; what the actor has
not given to the kernel is lost with it, as is what it has not read. Its state is simply the list of the calls
that it ran, of each caller.
"""

from __future__ import annotations

from collections import Counter, deque
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nbray.core import actor_calls, kept_calls
from nbray.core.actor_calls import Route, RouteState
from nbray.core.kept_calls import CALL_BYTES, KeptCalls, is_replay
from nbray.core.tasks import Task, TaskSpec, TaskState, TaskTable

CALLERS = 3
picks = st.integers(0, 1000)
indices = st.sampled_from([0, 0, 0, 1, 1, 2])


@dataclass(frozen=True)
class Sent:
    """A call on its way; ``number``: which one of its caller's it is."""

    task_id: bytes
    attempt: int

    @property
    def number(self) -> int:
        return int.from_bytes(self.task_id, "big")


@dataclass(frozen=True)
class StateHas:
    calls: int


@dataclass(frozen=True)
class Covered:
    calls: int


@dataclass
class Checkpoint:
    state: list[list[int]]
    counts: list[int]


@dataclass
class Actor:
    """One life of it."""

    incarnation: int
    state: list[list[int]]  # of each caller, the calls that it ran
    counts: list[int]
    inbox: list[deque[Sent]] = field(default_factory=lambda: [deque() for _ in range(CALLERS)])
    unsent: list[list[Any]] = field(default_factory=lambda: [[] for _ in range(CALLERS)])
    wire: list[deque[Any]] = field(default_factory=lambda: [deque() for _ in range(CALLERS)])  # to callers
    connected: set[int] = field(default_factory=set)
    covered: list[int] = field(default_factory=lambda: [0] * CALLERS)


class Caller:
    """One caller: what ``runtime.actors`` and ``runtime.replay`` do, without a runtime."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.tasks = TaskTable()
        self.made = 0
        self.specs: dict[int, TaskSpec] = {}
        self.seen: set[int] = set()  # results
        self.failed: set[int] = set()
        self.held: Counter[bytes] = Counter()
        self.missing = 0
        self.actor: Actor | None = None  # that it is connected to
        self.new_route()

    def new_route(self) -> None:
        self.route = Route(b"actor", b"owner", 1)
        self.route.kept = KeptCalls()
        self.specs = {
            retries: TaskSpec(retries + 2, b"", "C.m", 1, (), retries, 0, "", pooled=self.route)
            for retries in (-1, 0, 1)
        }

    @property
    def kept(self) -> KeptCalls:
        kept: KeptCalls = self.route.kept
        return kept

    # --- calls leave -----------------------------------------------------------------------------

    def call(self, retries: int, holds: bool, ready: bool) -> None:
        self.made += 1
        task_id = self.made.to_bytes(16, "big")
        held = (b"object of " + task_id,) if holds else ()
        task = Task(task_id, self.specs[retries], b"args", False, (), held, results=(self.made,))
        self.held.update(held)
        if not ready:
            self.tasks.add(task, 1)
            actor_calls.hold_place(self.route, task)
            return
        self.tasks.add_ready(task)
        if actor_calls.place(self.route, task):
            self.push([task])

    def argument_comes(self, pick: int) -> None:
        waiting = [task for task in self.route.queue if task.state is TaskState.WAITING]
        task = waiting[pick % len(waiting)]
        assert self.tasks.argument_ready(task)
        assert not actor_calls.arguments_ready(self.route, task)
        self.feed()

    def feed(self) -> None:
        sent = []
        while (task := actor_calls.next_call(self.route)) is not None:
            actor_calls.send(self.route, task)
            sent.append(task)
        self.push(sent)

    def push(self, tasks: list[Task]) -> None:
        if self.actor is not None:
            self.actor.inbox[self.index].extend(Sent(task.task_id, task.attempt) for task in tasks)

    # --- and come back ---------------------------------------------------------------------------

    def read(self, message: Any) -> None:
        if isinstance(message, Sent):
            self.answered(message)
        elif isinstance(message, Covered):
            self.release(self.kept.cover(message.calls))
        else:
            begun = kept_calls.begin(self.route, message.calls)
            for task in begun.again:
                self.tasks.add_ready(task)
            for task in begun.skipped:
                self.tasks.given_up(task)
            self.release(begun.skipped)
            self.release(begun.released)
            self.missing += begun.missing
            self.feed()

    def answered(self, answer: Sent) -> None:
        task = self.tasks.current(answer.task_id, answer.attempt)
        if task is not None and actor_calls.answered(self.route, task):
            self.kept.answered(task, task.holds)
            self.held.update(task.holds)
            self.tasks.answered(task)
            for number in task.results:
                assert number not in self.seen, "a result changed"
                self.seen.add(number)
            self.release([task])
        kept_calls.take_strays(self.route, [answer.task_id])

    def release(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.held.subtract(task.holds)

    def give_up(self, task: Task) -> None:
        self.tasks.given_up(task)
        self.failed.update(task.results)
        self.release([task])

    def part(self) -> None:
        """It hears that the process is gone, and reads what that had sent."""
        if self.actor is not None:
            while self.actor.wire[self.index]:
                self.read(self.actor.wire[self.index].popleft())
        self.actor = None
        for task in actor_calls.lost(self.route):
            self.give_up(task)

    def connect(self, actor: Actor) -> None:
        actor_calls.connecting(self.route, actor.incarnation)
        self.actor = actor
        actor.connected.add(self.index)
        actor.wire[self.index].append(StateHas(actor.counts[self.index]))

    def dies(self) -> None:
        """The actor is dead for good."""
        for task in kept_calls.drop_replays(self.route):
            self.tasks.given_up(task)
            self.release([task])
        self.release(self.kept.clear())
        for task in actor_calls.died(self.route, b"dead"):
            self.give_up(task)


class KeptCallsMachine(RuleBasedStateMachine):
    """``lossy``: callers keep next to nothing of what is covered."""

    def __init__(self) -> None:
        super().__init__()
        self.callers = [Caller(index) for index in range(CALLERS)]
        self.actor = Actor(0, [[] for _ in range(CALLERS)], [0] * CALLERS)
        self.lives = [self.actor]
        self.checkpoints: list[Checkpoint] = []

    @initialize(covered_bytes=st.sampled_from([0, 3 * CALL_BYTES, 1 << 20]))
    def begin(self, covered_bytes: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(kept_calls, "COVERED_MAX_BYTES", covered_bytes)
        for one in self.callers:
            self.go_on(one)

    # --- callers -----------------------------------------------------------------------------------

    @rule(
        caller=indices,
        number=st.integers(1, 4),
        retries=st.sampled_from([-1, -1, 0, 1]),
        holds=st.sampled_from([False, False, False, True]),
        ready=st.sampled_from([True, True, True, False]),
    )
    def call(self, caller: int, number: int, retries: int, holds: bool, ready: bool) -> None:
        for _ in range(number):
            self.callers[caller].call(retries, holds, ready)

    @rule(caller=indices, pick=picks)
    def an_argument_comes(self, caller: int, pick: int) -> None:
        one = self.callers[caller]
        if any(task.state is TaskState.WAITING for task in one.route.queue):
            one.argument_comes(pick)

    @rule(caller=indices, pick=picks)
    def a_call_is_given_up(self, caller: int, pick: int) -> None:
        one = self.callers[caller]
        under_way = [task for task in one.tasks.tasks.values() if not is_replay(task)]
        if under_way:
            one.give_up(under_way[pick % len(under_way)])
            one.feed()

    @rule(caller=indices, number=st.integers(1, 6))
    def a_caller_reads(self, caller: int, number: int) -> None:
        one = self.callers[caller]
        for _ in range(number):
            if one.actor is not None and one.actor.wire[one.index]:
                one.read(one.actor.wire[one.index].popleft())
                if actor_calls.has_room(one.route):
                    one.feed()

    @rule(caller=indices)
    def a_caller_hears_the_news(self, caller: int) -> None:
        self.hear_news(self.callers[caller])

    def hear_news(self, one: Caller) -> None:
        if one.actor is not self.actor:
            one.part()
            one.connect(self.actor)

    @rule(caller=indices)
    def a_caller_forgets_the_actor_and_finds_it_again(self, caller: int) -> None:
        one = self.callers[caller]
        busy = len(one.route) or one.kept.calls or one.tasks.tasks or self.on_its_way(one)
        if one.actor is self.actor and one.route.state is RouteState.OPEN and not busy:
            one.new_route()
            one.connect(self.actor)

    @rule(number=st.integers(1, 3), saves=st.booleans(), reads=st.booleans())
    def a_day_passes(self, number: int, saves: bool, reads: bool) -> None:
        for one in self.callers:
            one.call(-1, number == 3, True)
            one.call(-1, False, True)
            self.go_on(one)
            one.call(-1, False, True)
            self.it_runs(one.index, number)
            if saves:
                self.it_saves()
            if reads:
                self.go_on(one)

    @rule(number=st.integers(1, 3))
    def all_go_on(self, number: int) -> None:
        for one in self.callers[:number]:
            self.go_on(one)

    def go_on(self, one: Caller) -> None:
        """Whatever it can do without anything new."""
        index = one.index
        self.hear_news(one)
        while self.actor.inbox[index] or self.actor.unsent[index] or self.actor.wire[index]:
            while self.actor.inbox[index]:
                self.run_one(index)
            self.send(index)
            while self.actor.wire[index]:
                one.read(self.actor.wire[index].popleft())
            one.feed()

    # --- the actor -----------------------------------------------------------------------------------

    @rule(caller=indices, number=st.integers(1, 5))
    def it_runs(self, caller: int, number: int) -> None:
        index = caller
        for _ in range(number):
            if self.actor.inbox[index]:
                self.run_one(index)

    def run_one(self, index: int) -> None:
        call = self.actor.inbox[index].popleft()
        self.actor.state[index].append(call.number)
        self.actor.counts[index] += 1
        self.actor.unsent[index].append(call)

    @rule(caller=indices, number=st.integers(1, 5))
    def answers_leave(self, caller: int, number: int) -> None:
        self.send(caller, number)

    def send(self, index: int, number: int = 1000) -> None:
        unsent = self.actor.unsent[index]
        self.actor.wire[index].extend(unsent[:number])
        del unsent[:number]

    def send_all(self) -> None:
        """Before a checkpoint counts its answers are where they outlive it."""
        for index in range(CALLERS):
            self.send(index)

    @rule()
    def it_saves(self) -> None:
        self.send_all()
        self.checkpoints.insert(0, Checkpoint(deepcopy(self.actor.state), list(self.actor.counts)))
        del self.checkpoints[3:]
        self.actor.covered = list(self.actor.counts)
        for index in self.actor.connected:
            self.actor.wire[index].append(Covered(self.actor.counts[index]))

    @precondition(lambda self: len(self.lives) < 8)
    @rule(back=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3]), number=st.integers(0, CALLERS))
    def it_is_killed(self, back: int, number: int) -> None:
        """``back``: so many checkpoints turn out to be unusable; without any, the constructor runs."""
        state: list[list[int]] = [[] for _ in range(CALLERS)]
        counts = [0] * CALLERS
        if back < len(self.checkpoints):
            state = deepcopy(self.checkpoints[back].state)
            counts = list(self.checkpoints[back].counts)
        self.actor = Actor(self.actor.incarnation + 1, state, counts, covered=list(counts))
        self.lives.append(self.actor)
        for one in self.callers[:number]:
            self.hear_news(one)

    # --- what holds ------------------------------------------------------------------------------------

    @invariant()
    def each_call_is_in_the_state_once_and_in_order(self) -> None:
        for numbers in self.actor.state:
            assert numbers == sorted(set(numbers))

    @invariant()
    def what_is_kept_is_what_no_checkpoint_has(self) -> None:
        for one in self.callers:
            if one.actor is self.actor and one.route.state is RouteState.OPEN and not self.on_its_way(one):
                assert one.kept.covered + len(one.kept.calls) == self.actor.counts[one.index]
                assert one.kept.covered >= self.actor.covered[one.index]

    def on_its_way(self, one: Caller) -> bool:
        return bool(self.actor.wire[one.index] or self.actor.unsent[one.index])

    @invariant()
    def covered_calls_take_no_more_than_they_may(self) -> None:
        for one in self.callers:
            assert one.kept._bytes <= kept_calls.COVERED_MAX_BYTES
            assert one.kept._bytes == sum(kept_calls._size_of(task) for task in one.kept.archive)

    def teardown(self) -> None:
        for one in self.callers:
            while any(task.state is TaskState.WAITING for task in one.route.queue):
                one.argument_comes(0)
            self.go_on(one)
        self.each_call_is_in_the_state_once_and_in_order()
        for one in self.callers:
            assert not one.tasks.tasks
            assert one.seen | one.failed == set(range(1, one.made + 1))
            in_state = [number for number in self.actor.state[one.index] if number not in one.failed]
            if not one.missing:
                assert in_state == sorted(one.seen - one.failed)
            else:
                assert len(in_state) >= len(one.seen) - one.missing
            self.check_holds(one)
        self.patch.undo()

    def check_holds(self, one: Caller) -> None:
        held = [task for task in one.kept.calls if task is not None and task.holds]
        assert +one.held == Counter(o for task in held for o in task.holds)
        one.part()
        one.dies()
        assert not +one.held
        assert not -one.held
        assert not one.tasks.tasks


KeptCallsMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True
)
TestKeptCalls = pytest.mark.stateful(KeptCallsMachine.TestCase)
