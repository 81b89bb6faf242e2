"""Who waits for whom: what is stuck, which tasks wait for each other, and the chain of causes in words.

Called by:  pytest.
Imports:    nbray.core.{waits,wait_chain}.
Never:      starts a process: what processes would say is written here.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.core.wait_chain import CYCLE, RESOURCES, WORKER, chain, cycle_words
from nbray.core.waits import BY_ARGUMENT, BY_GET, BY_RESOURCES, Cause, Known
from nbray.model.resources import CPU, GPU, UNIT
from nbray.wire.memory_messages import FAILED, IN_STORE, INLINE, PENDING, SPILLED
from nbray.wire.waiting_messages import (
    CALL,
    CONSTRUCTOR,
    HELD_BACK,
    PUSHED,
    QUEUED,
    TASK,
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

DRIVER = b"driver"


def task_id(name: str) -> bytes:
    return name.encode().rjust(16, b"0")


def result(name: str) -> bytes:
    return task_id(name) + bytes(4)


def process_of(name: str) -> bytes:
    return b"worker of " + name.encode()


class Story:
    """What a driver that owns all tasks, their workers and the daemon say."""

    def __init__(self) -> None:
        self.tasks: list[TaskFacts] = []
        self.objects: list[ObjectFacts] = []
        self.runs: list[tuple[bytes, RunningFacts]] = []
        self.leases: list[LeaseFacts] = []
        self.queues: list[QueueFacts] = []
        self.states: dict[bytes, str] = {}
        self.paused = ""
        self.stored: list[tuple[bytes, str]] = []
        self.actors: list[LifeFacts] = []

    def _task(self, name: str, state: str, **more: Any) -> None:
        facts: dict[str, Any] = {
            "attempt": 1, "max_attempts": 4, "shape": {CPU: UNIT}, "missing": [], "missing_count": 0,
            "process_id": b"", "ahead": 0, **more,
        }  # fmt: skip
        self.tasks.append(TaskFacts(task_id(name), TASK, name, state, **facts))
        self.objects.append(ObjectFacts(result(name), b"", PENDING, task_id(name)))

    def takes(self, name: str, *others: str, count: int = 0) -> Story:
        pairs = [(result(other), DRIVER) for other in others]
        self._task(name, WAITING, missing=pairs, missing_count=count or len(pairs))
        return self

    def runs_(self, name: str, *awaited: str, enough: int = 0, state: str = "S", shape: Any = None) -> Story:
        self._task(name, PUSHED, process_id=process_of(name))
        pairs = [(result(other), DRIVER) for other in awaited]
        facts = RunningFacts(
            task_id(name),
            name,
            1,
            2.0,
            bool(pairs),
            pairs,
            len(pairs),
            enough or len(pairs),
            [f"{name} at x.py:3"],
        )
        self.runs.append((process_of(name), facts))
        self.states[process_of(name)] = state
        self.leases.append(LeaseFacts(process_of(name), name, shape or {CPU: UNIT}, bool(pairs), False))
        return self

    def queued(self, name: str, shape: dict[str, int], lacking: list[str], feasible: bool = True) -> Story:
        self._task(name, QUEUED, shape=shape)
        self.queues.append(QueueFacts(shape, 1, name, feasible, "waits for it", lacking, 7.0))
        return self

    def has(self, name: str, state: str) -> Story:
        self.objects.append(ObjectFacts(result(name), b"", state, b""))
        return self

    def known(self) -> Known:
        known = Known()
        processes = [WaitFacts(DRIVER, 1, "driver", [], self.objects, self.tasks)]
        processes += [
            WaitFacts(process_id, 40 + n, "worker", [run], [], [])
            for n, (process_id, run) in enumerate(self.runs)
        ]
        workers = [
            WorkerFacts(process_id, 40 + n, state)
            for n, (process_id, state) in enumerate(self.states.items())
        ]
        known.add_report(
            WaitsReport(
                0, {CPU: 2 * UNIT}, processes, workers, self.leases, self.queues, self.paused, self.stored,
                self.actors,
            )
        )  # fmt: skip
        return known

    def cycle(self) -> list[str]:
        known = self.known()
        return [known.name_of(each) for each, _cause in known.cycle()]


# --- cycles ---------------------------------------------------------------------------------------------


def test_task_that_gets_a_result_of_one_that_takes_its_own_is_a_cycle() -> None:
    story = Story().runs_("a", "b").takes("b", "a")

    assert story.known().cycle() == [
        (task_id("a"), Cause(BY_GET, task_id("b"), result("b"))),
        (task_id("b"), Cause(BY_ARGUMENT, task_id("a"), result("a"))),
    ]


def test_words_of_a_cycle_name_each_task_and_why() -> None:
    known = Story().runs_("a", "b").takes("b", "a").known()

    words = cycle_words(known, known.cycle())

    assert words == (
        "a (pid 40) waits in get() or wait() for a result of b; b takes a result of a as an argument"
    )


def test_two_tasks_that_get_each_others_result_are_a_cycle() -> None:
    assert Story().runs_("a", "b").runs_("b", "a").cycle() == ["a", "b"]


def test_task_that_gets_its_own_result_is_a_cycle() -> None:
    assert Story().runs_("a", "a").cycle() == ["a"]


def test_task_that_gets_what_another_computes_is_none() -> None:
    assert Story().runs_("a", "b").runs_("b").cycle() == []


def test_task_that_takes_a_result_of_one_that_waits_for_a_live_one_is_none() -> None:
    story = Story().takes("c", "a").runs_("a", "b").runs_("b")

    assert story.cycle() == []
    assert story.known().stuck() == set()


def test_wait_for_one_of_two_is_none_if_one_will_be() -> None:
    story = Story().runs_("a", "b", "c", enough=1).takes("b", "a").runs_("c")

    assert story.cycle() == []


def test_get_of_two_is_a_cycle_although_one_will_be() -> None:
    assert Story().runs_("a", "b", "c").takes("b", "a").runs_("c").cycle() == ["a", "b"]


def test_what_nobody_said_anything_of_is_not_called_stuck() -> None:
    assert Story().runs_("a", "nobody's").cycle() == []


def test_get_of_more_than_was_said_is_not_called_stuck() -> None:
    story = Story().takes("b", "a")
    story.runs_("a", "b")
    process_id, run = story.runs[0]
    story.runs[0] = (
        process_id,
        RunningFacts(*(*[getattr(run, f) for f in run.__struct_fields__[:6]], 9, 1, [])),
    )

    assert story.cycle() == []


def test_task_that_holds_what_its_child_needs_is_a_cycle() -> None:
    story = Story().runs_("a", "b", shape={CPU: UNIT, GPU: UNIT}).queued("b", {GPU: UNIT}, [GPU])
    known = story.known()

    assert known.cycle()[1] == (task_id("b"), Cause(BY_RESOURCES, task_id("a")))
    assert "b needs 1 GPU, which a holds" in cycle_words(known, known.cycle())


def test_child_that_needs_the_cpu_of_its_waiting_parent_is_none() -> None:
    """Who waits has lent it."""
    assert Story().runs_("a", "b").queued("b", {CPU: UNIT}, [CPU]).cycle() == []


def test_child_that_needs_what_somebody_else_holds_for_a_while_is_none() -> None:
    story = Story().runs_("a", "b", shape={GPU: UNIT}).runs_("c", shape={GPU: UNIT})

    assert story.queued("b", {GPU: UNIT}, [GPU]).cycle() == []


def test_resources_that_are_held_for_life_leave_a_task_stuck() -> None:
    story = Story().queued("b", {GPU: UNIT}, [GPU])
    story.leases.append(LeaseFacts(b"actor", "Actor", {GPU: UNIT}, False, True))

    assert story.known().stuck() == {task_id("b")}


def test_infeasible_task_is_stuck_and_no_cycle() -> None:
    story = Story().queued("b", {GPU: 2 * UNIT}, [GPU], feasible=False).runs_("a", "b")

    assert story.known().stuck() == {task_id("a"), task_id("b")}
    assert story.cycle() == []


def test_thousands_that_wait_for_an_infeasible_one_are_no_cycle() -> None:
    story = Story().queued("t0", {GPU: 2 * UNIT}, [GPU], feasible=False)
    for number in range(1, 5000):
        story.takes(f"t{number}", f"t{number - 1}")

    assert len(story.known().stuck()) == 5000
    assert story.cycle() == []


def test_cycle_is_found_behind_a_dead_end() -> None:
    story = (
        Story().queued("x", {GPU: 2 * UNIT}, [GPU], feasible=False).runs_("a", "x", "b").takes("b", "x", "a")
    )

    assert story.cycle() == ["a", "b"]


def test_objects_that_are_needed_and_unknown_are_named() -> None:
    story = Story().runs_("a", "b", "x").takes("b", "y")

    assert set(story.known().unknown()) == {result("x"), result("y")}


NAMES = [f"t{number}" for number in range(6)]


@st.composite
def stories(draw: st.DrawFn) -> tuple[Story, dict[str, list[str]]]:
    """Tasks that run, wait in get or for arguments, each for some others."""
    story = Story()
    needs: dict[str, list[str]] = {}
    for name in NAMES[: draw(st.integers(1, len(NAMES)))]:
        needs[name] = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    for name, others in needs.items():
        waits_for_arguments: bool = draw(st.booleans())
        if others and waits_for_arguments:
            story.takes(name, *others)
        else:
            story.runs_(name, *others)
    return story, needs


def endless(needs: dict[str, list[str]]) -> set[str]:
    """Let each task end that misses nothing, as long as one can; the rest never will."""
    left = dict(needs)
    while True:
        ends = [name for name, others in left.items() if not any(other in left for other in others)]
        if not ends:
            return set(left)
        for name in ends:
            del left[name]


@given(stories())
@settings(max_examples=300)
def test_stuck_is_what_never_ends_when_everything_else_has(drawn: tuple[Story, dict[str, list[str]]]) -> None:
    story, needs = drawn

    assert story.known().stuck() == {task_id(name) for name in endless(needs)}


@given(stories())
@settings(max_examples=300)
def test_a_cycle_is_found_if_and_only_if_something_is_stuck_and_each_waits_for_the_next(
    drawn: tuple[Story, dict[str, list[str]]],
) -> None:
    story, needs = drawn

    cycle = story.cycle()

    assert bool(cycle) is bool(endless(needs))
    assert all(after in needs[name] for name, after in zip(cycle, cycle[1:] + cycle[:1], strict=True))
    assert len(set(cycle)) == len(cycle)


# --- the chain --------------------------------------------------------------------------------------------


def kinds(story: Story, name: str) -> list[tuple[str, str]]:
    return [(link.kind, link.state) for link in chain(story.known(), result(name))]


@pytest.mark.parametrize("state", [INLINE, IN_STORE, SPILLED, FAILED])
def test_chain_of_what_is_there_ends_at_once(state: str) -> None:
    assert kinds(Story().has("a", state), "a") == [("object", state)]


def test_chain_knows_from_the_store_what_lies_on_the_disk() -> None:
    story = Story().has("a", IN_STORE)
    story.stored = [(result("a"), SPILLED)]

    assert kinds(story, "a") == [("object", SPILLED)]


def test_chain_says_that_a_lost_object_is_made_again() -> None:
    story = Story()
    story._task("a", QUEUED, again=True)

    assert "was lost, and task a makes it again" in chain(story.known(), result("a"))[0].text


def test_chain_follows_arguments_and_gets_to_what_runs() -> None:
    story = Story().takes("c", "a").runs_("a", "b").runs_("b")

    links = chain(story.known(), result("c"))

    assert [(link.kind, link.state, link.name) for link in links if link.kind == TASK] == [
        ("task", WAITING, "c"), ("task", "blocked", "a"), ("task", "running", "b"),
    ]  # fmt: skip
    assert links[-1].since_s == 2.0
    assert links[-1].facts == {"stack": ["b at x.py:3"], "pid": 41}


def test_chain_that_comes_back_says_so_and_names_the_line() -> None:
    links = chain(Story().runs_("a", "b").takes("b", "a").known(), result("b"))

    assert links[-1].kind == CYCLE
    assert "line 2" in links[-1].text
    assert links[1].name == "b"


def test_chain_chooses_the_argument_that_is_stuck() -> None:
    story = Story().takes("c", "b", "a").runs_("b").runs_("a", "c")

    assert kinds(story, "c")[-1] == (CYCLE, "stuck")


def test_chain_of_an_infeasible_task_ends_with_what_the_node_lacks() -> None:
    links = chain(Story().queued("b", {GPU: 2 * UNIT}, [GPU], feasible=False).known(), result("b"))

    assert (links[-1].kind, links[-1].state, links[-1].since_s) == (RESOURCES, "infeasible", 7.0)


def test_chain_of_a_queued_task_names_who_holds_what_it_needs() -> None:
    story = Story().runs_("a", shape={GPU: UNIT}).queued("b", {GPU: UNIT}, [GPU])

    links = chain(story.known(), result("b"))

    (busy,) = [link for link in links if link.kind == RESOURCES]
    assert busy.facts["holders"] == [
        {"task": "a", "pid": 40, "shape": {GPU: UNIT}, "blocked": False, "lasting": False, "running_s": 2.0}
    ]
    assert links[-1].name == "a"


def test_chain_ends_at_a_stopped_worker_with_what_to_do() -> None:
    last = chain(Story().takes("b", "a").runs_("a", state="T").known(), result("b"))[-1]

    assert (last.kind, last.state) == (WORKER, "stopped")
    assert "kill -CONT 40" in last.remedy


def test_chain_of_a_task_that_waits_for_memory_says_so() -> None:
    story = Story()
    story._task("a", HELD_BACK)

    assert "memory" in chain(story.known(), result("a"))[-1].text


def test_chain_of_what_nobody_knows_ends_with_that() -> None:
    assert kinds(Story(), "a") == [("unknown", "unknown")]


def test_long_chain_is_found_at_once_and_its_end_is_shown() -> None:
    story = Story().runs_("t0")
    for number in range(1, 20_000):
        story.takes(f"t{number}", f"t{number - 1}")

    links = chain(story.known(), result("t19999"))

    assert len(links) == 40
    assert [link.kind for link in links].count("more") == 1
    assert (links[-1].name, links[-1].state) == ("t0", "running")


@given(stories())
@settings(max_examples=200)
def test_every_chain_ends(drawn: tuple[Story, dict[str, list[str]]]) -> None:
    story, needs = drawn
    known = story.known()

    for name in needs:
        links = chain(known, result(name))
        assert links[-1].kind in {"task", "cycle", "unknown"}
        assert (links[-1].kind == "cycle") is (name in endless(needs))


# --- actors ---------------------------------------------------------------------------------------------


class Cast(Story):
    """With actors: each is a process of its own, and has one caller, the driver."""

    def actor(self, name: str, state: str = "ALIVE", shape: Any = None, *, declared: bool = True) -> Cast:
        process_id = process_of(name) if state in ("ALIVE", "STARTING") else b""
        facts = LifeFacts(task_id(name), name, DRIVER, state, process_id, shape or {}, declared, 4.0)
        self.actors.append(facts)
        if process_id:
            self.states[process_id] = "S"
            self.leases.append(LeaseFacts(process_id, f"Actor {name}", shape or {}, False, True))
        return self

    def call(self, name: str, actor: str, state: str = PUSHED, behind: str = "", ahead: int = 0) -> Cast:
        process_id = process_of(actor) if state == PUSHED else b""
        facts = TaskFacts(
            task_id(name), CALL, name, state, 1, 1, {}, [], 0, process_id, ahead, False, task_id(actor),
            task_id(behind) if behind else b"",
        )  # fmt: skip
        self.tasks.append(facts)
        self.objects.append(ObjectFacts(result(name), b"", PENDING, task_id(name)))
        return self

    def runs_call(self, name: str, actor: str, *awaited: str) -> Cast:
        if not any(task.task_id == task_id(name) for task in self.tasks) and name != actor:
            self.call(name, actor)
        pairs = [(result(other), DRIVER) for other in awaited]
        run = RunningFacts(
            task_id(name), name, 1, 2.0, bool(pairs), pairs, len(pairs), len(pairs), [f"{name} at x.py:3"]
        )
        self.runs.append((process_of(actor), run))
        return self

    def links(self, name: str) -> list[tuple[str, str, str]]:
        return [(link.kind, link.name, link.state) for link in chain(self.known(), result(name))]


def test_actors_that_get_results_of_each_other_are_a_cycle() -> None:
    story = Cast().actor("A").actor("B")
    story.runs_call("a1", "A", "b1").runs_call("b1", "B", "a2").call("a2", "A")

    assert sorted(story.cycle()) == ["a1", "a2", "b1"]


def test_actor_that_gets_its_own_call_is_a_cycle() -> None:
    assert sorted(Cast().actor("A").runs_call("a1", "A", "a2").call("a2", "A").cycle()) == ["a1", "a2"]


def test_actor_that_waits_for_a_call_that_runs_is_none() -> None:
    story = Cast().actor("A").actor("B").runs_call("a1", "A", "b1").runs_call("b1", "B")

    assert story.cycle() == []
    assert story.known().stuck() == set()


def test_actor_that_holds_what_the_task_needs_that_it_waits_for_is_a_cycle() -> None:
    story = Cast().actor("A", shape={CPU: UNIT}).runs_call("a1", "A", "f")
    story.queued("f", {CPU: UNIT}, [CPU])

    assert sorted(story.cycle()) == ["a1", "f"]


def test_task_that_waits_for_what_an_idle_actor_keeps_is_stuck_without_a_cycle() -> None:
    story = Cast().actor("A", shape={CPU: UNIT})
    story.queued("f", {CPU: UNIT}, [CPU])

    assert story.known().stuck() == {task_id("f")}
    assert story.cycle() == []
    link = chain(story.known(), result("f"))[-1]
    assert link.facts["holders"][0]["task"] == "Actor A"
    assert "Actor A keeps all for life" in link.text


def test_call_of_an_actor_that_waits_for_a_process_leads_to_who_has_what_it_needs() -> None:
    story = Cast().actor("A", "PENDING", {CPU: UNIT}).call("a1", "A", QUEUED)
    story.runs_("f")
    story.queues.append(QueueFacts({CPU: UNIT}, 1, "Actor A", True, "waits for it", [CPU], 7.0))

    assert story.links("a1")[1:] == [
        ("call", "a1", "queued"), ("actor", "Actor A", "PENDING"), ("resources", "1 CPU", "busy"),
        ("task", "f", "running"),
    ]  # fmt: skip
    assert story.known().stuck() == set()


def test_call_of_an_actor_that_starts_leads_into_its_constructor() -> None:
    story = Cast().actor("A", "STARTING").call("a1", "A", QUEUED).runs_call("A", "A")

    assert story.links("a1")[1:] == [("call", "a1", "queued"), ("actor", "A", "running")]


def test_constructor_that_waits_for_a_call_of_its_own_actor_is_a_cycle() -> None:
    story = Cast().actor("A", "STARTING").call("a1", "A", QUEUED).runs_call("A", "A", "a1")

    assert len(story.cycle()) == 2
    assert story.links("a1")[-1][0] == "cycle"


def test_call_behind_one_that_misses_an_argument_leads_there() -> None:
    story = Cast().actor("A")
    story.runs_("f")
    story.call("a1", "A", WAITING).call("a2", "A", QUEUED, behind="a1", ahead=1)
    story.tasks[-2] = msgspec.structs.replace(
        story.tasks[-2], missing=[(result("f"), DRIVER)], missing_count=1
    )

    links = chain(story.known(), result("a2"))

    assert [link.name for link in links if link.kind != "object"] == ["a2", "a1", "f"]
    assert "after 1 call made before it" in links[1].text


def test_call_of_an_actor_whose_constructor_misses_an_argument_leads_there() -> None:
    story = Cast().actor("A", "PENDING", declared=False).call("a1", "A", QUEUED)
    story.runs_("f")
    pairs = [(result("f"), DRIVER)]
    constructor = TaskFacts(
        task_id("A"), CONSTRUCTOR, "A.__init__", WAITING, 1, 1, {}, pairs, 1, b"", 0, False, task_id("A")
    )
    story.tasks.append(constructor)

    assert [each[0] for each in story.links("a1")] == ["object", "call", "actor", "object", "task"]
    assert result("A") in story.known().unknown()


def test_stopped_actor_is_named_with_what_to_do() -> None:
    story = Cast().actor("A").call("a1", "A")
    story.states[process_of("A")] = "T"

    link = chain(story.known(), result("a1"))[-1]

    assert (link.kind, link.state) == ("worker", "stopped")
    assert "ends the actor" in link.remedy
