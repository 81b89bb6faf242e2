"""Memory runs out: who goes, who stays, and when tasks may begin again.

Called by:  pytest.
Imports:    nbray.core.memory_watch.
Never:      reads a clock or a file.
"""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from nbray.core.memory_watch import (
    LOOK_MAX_S,
    LOOK_MIN_S,
    PATIENCE_S,
    ROOM_PATIENCE_S,
    Candidate,
    Command,
    Ease,
    End,
    Give,
    Level,
    Loss,
    MemoryWatch,
    Room,
    choose,
    fullest,
    next_look_s,
)

GIB = 1 << 30


def candidate(name: str, began_s: float, size_bytes: int = GIB, loss: Loss = Loss.TIME) -> Candidate:
    return Candidate(name.encode(), began_s, loss, size_bytes)


def level(share: float, where: str = "the machine") -> Level:
    return Level(where, round(share * 100 * GIB), 100 * GIB)


# --- who goes -------------------------------------------------------------------------------------------


def test_the_task_that_began_last_goes() -> None:
    assert choose([candidate("old", 1), candidate("new", 3), candidate("middle", 2)]) == candidate("new", 3)


def test_one_that_may_run_again_goes_before_a_newer_one_that_may_not() -> None:
    again, once = candidate("again", 1), candidate("once", 9, loss=Loss.RESULT)

    assert choose([once, again]) == again


def test_one_that_may_not_run_again_goes_if_no_other_is_left() -> None:
    once = candidate("once", 1, loss=Loss.RESULT)

    assert choose([once]) == once


def test_actors_go_when_no_task_is_left_that_may_run_again_and_those_without_restarts_last() -> None:
    losses = [Loss.ACTOR, Loss.RESULT, Loss.STATE, Loss.TIME]
    some = [candidate(loss.name, 9 - loss, loss=loss) for loss in losses]
    order = []
    while some:
        chosen = choose(some)
        assert chosen is not None
        order.append(chosen.loss)
        some.remove(chosen)

    assert order == [Loss.TIME, Loss.STATE, Loss.RESULT, Loss.ACTOR]


def test_one_that_holds_next_to_nothing_is_let_alone() -> None:
    large = candidate("large", 1)

    assert choose([large, candidate("small", 2, GIB // 100)]) == large


def test_one_over_its_quota_goes_first() -> None:
    over = Candidate(b"over", 0, Loss.ACTOR, GIB, over_quota=True)

    assert choose([candidate("new", 5), over]) == over


def test_without_a_task_nobody_goes() -> None:
    assert choose([]) is None


candidates = st.lists(
    st.builds(
        Candidate, st.binary(min_size=1, max_size=3), st.floats(0, 1e6), st.sampled_from(Loss),
        st.integers(0, 64 * GIB), st.just(False),
    ),
    unique_by=lambda each: each.process_id, min_size=1, max_size=12,
)  # fmt: skip


@given(candidates)
def test_whoever_goes_frees_something_and_nobody_was_to_go_before(some: list[Candidate]) -> None:
    chosen = choose(some)

    assert chosen is not None
    worth = [c for c in some if c.private_bytes * 10 >= max(each.private_bytes for each in some)]
    assert chosen in worth
    for other in worth:
        assert (-other.loss, other.began_s) <= (-chosen.loss, chosen.began_s)


@given(candidates)
def test_the_oldest_that_may_run_again_is_the_last_of_them(some: list[Candidate]) -> None:
    """So it gets done, whatever comes after it."""
    equal = [c._replace(private_bytes=GIB, began_s=float(n)) for n, c in enumerate(some)]
    order = []
    while equal:
        chosen = choose(equal)
        assert chosen is not None
        order.append(chosen)
        equal.remove(chosen)

    again = [c for c in order if c.loss is Loss.TIME]
    assert order[: len(again)] == again
    assert again == sorted(again, key=lambda c: -c.began_s)


@given(candidates, st.randoms())
def test_the_choice_does_not_depend_on_the_order(some: list[Candidate], random: Random) -> None:
    shuffled = list(some)
    random.shuffle(shuffled)

    assert choose(shuffled) == choose(some)


# --- when -----------------------------------------------------------------------------------------------


class Node:
    def __init__(self, threshold: float = 0.95) -> None:
        self.watch = MemoryWatch(threshold)
        self.now_s = 0.0

    def look(self, share: float, passed_s: float = 0.05, *, runs: bool = True) -> list[Command]:
        self.now_s += passed_s
        out: list[Command] = []
        self.watch.look(self.now_s, level(share), runs, out)
        return out

    def end_one(self, size_bytes: int = GIB) -> None:
        """It got as far as that, and the process is gone."""
        assert self.look(0.96) == [Give()]
        assert self.look(0.96) == [End()]
        self.watch.ended(b"a", size_bytes, self.now_s)
        self.watch.gone(b"a")


def test_below_the_mark_nothing_happens() -> None:
    node = Node()

    assert [node.look(0.94) for _ in range(10)] == [[]] * 10
    assert not node.watch.is_awaited


def test_above_it_the_store_gives_first_and_then_one_task_ends() -> None:
    node = Node()

    assert node.look(0.96) == [Give()]
    assert node.look(0.96) == [End()]


def test_the_next_one_ends_only_when_the_last_is_gone() -> None:
    node = Node()
    node.look(0.96)
    node.look(0.96)
    node.watch.ended(b"a", GIB, node.now_s)

    assert node.look(0.96) == []
    node.watch.gone(b"a")

    assert node.look(0.96) == [End()]


def test_one_that_does_not_die_does_not_hold_up_the_others_for_ever() -> None:
    node = Node()
    node.look(0.96)
    node.look(0.96)
    node.watch.ended(b"a", GIB, node.now_s)

    assert node.look(0.96, passed_s=2.0) == [End()]


def test_tasks_begin_when_there_is_memory() -> None:
    node = Node()
    node.end_one()

    assert node.watch.is_pressed
    assert node.look(0.93) == []
    assert node.look(0.89) == [Ease(), Room()]
    assert not node.watch.is_pressed
    assert not node.watch.is_awaited
    assert node.look(0.89) == []


def test_one_that_was_ended_waits_for_as_much_as_it_had() -> None:
    node = Node()
    node.end_one(40 * GIB)

    assert node.look(0.7) == [Ease()]
    assert node.look(0.6, passed_s=PATIENCE_S * 3) == []
    assert node.watch.is_awaited
    assert node.look(0.54) == [Room()]


def test_or_until_nothing_else_runs() -> None:
    node = Node()
    node.end_one(90 * GIB)

    assert node.look(0.2) == [Ease()]
    assert node.look(0.2, runs=False) == [Room()]


def test_what_others_than_tasks_take_is_waited_for_a_while() -> None:
    node = Node()
    node.end_one(GIB)

    assert node.look(0.94, runs=False) == []
    assert node.look(0.94, runs=False, passed_s=PATIENCE_S + 1) == [Ease(), Room()]


def test_room_is_not_waited_for_without_end() -> None:
    node = Node()
    node.end_one(90 * GIB)
    node.look(0.5)

    assert node.look(0.5, passed_s=ROOM_PATIENCE_S + 1) == [Room()]


def test_what_the_kernel_ended_waits_too() -> None:
    node = Node()
    node.watch.killed_by_kernel(0.0)

    assert node.watch.is_pressed
    assert node.look(0.5) == [Ease(), Room()]


def test_at_a_threshold_of_one_nobody_ever_ends() -> None:
    node = Node(threshold=1.0)

    assert node.look(1.0) == node.look(1.0) == []


def test_the_fullest_level_counts() -> None:
    assert fullest([level(0.5), level(0.9, "cgroup a"), level(0.7, "cgroup b")]).where == "cgroup a"


def test_memory_that_fills_up_fast_is_looked_at_often() -> None:
    assert next_look_s([level(0.5)], [level(0.5)], 0.25, 0.95) == LOOK_MAX_S
    assert LOOK_MIN_S < next_look_s([level(0.5)], [level(0.7)], 0.25, 0.95) < LOOK_MAX_S
    assert next_look_s([level(0.5)], [level(0.94)], 0.25, 0.95) == LOOK_MIN_S


def test_each_level_is_watched_for_itself() -> None:
    before = [level(0.6), level(0.1, "cgroup a")]
    now = [level(0.6), level(0.55, "cgroup a")]

    assert next_look_s(before, now, 0.25, 0.95) < LOOK_MAX_S
