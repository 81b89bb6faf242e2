"""The machine of kept calls notices mistakes: each of these is planted, and must be found.

Called by:  pytest.
Imports:    tests.stateful.test_kept_calls_machine, nbray.core.{actor_calls,kept_calls} to break them.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nbray.core import actor_calls, kept_calls
from nbray.core.actor_calls import Route, RouteState
from nbray.core.kept_calls import Begun, KeptCalls
from nbray.core.tasks import Task
from tests.stateful.test_kept_calls_machine import KeptCallsMachine

pytestmark = pytest.mark.stateful

BUDGET = settings(
    max_examples=1000, stateful_step_count=40, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip

cover = KeptCalls.cover
begin = kept_calls.begin
go_back_to = KeptCalls.go_back_to
answered = KeptCalls.answered


def run_again_what_a_checkpoint_has(kept: KeptCalls, count: int) -> list[Task]:
    return cover(kept, count - 1)


def forget_one_too_many(kept: KeptCalls, count: int) -> list[Task]:
    return cover(kept, count + 1)


def send_new_calls_first(route: Route, count: int) -> Begun:
    waiting, route.queue = route.queue, deque()
    begun = begin(route, count)
    route.queue.extendleft(reversed(waiting))
    return begun


def run_again_in_the_wrong_order(route: Route, count: int) -> Begun:
    begun = begin(route, count)
    for _ in begun.again:
        route.queue.popleft()
    route.queue.extendleft(begun.again)
    return begun


def do_not_wait_for_the_actors_word(route: Route, incarnation: int) -> None:
    route.incarnation = incarnation
    route.state = RouteState.OPEN


def count_what_was_given_up_as_nothing(route: Route, task_ids: Sequence[bytes]) -> None:
    for task_id in task_ids:
        route.inflight.pop(task_id, None)


def run_again_with_the_same_attempt(kept: KeptCalls, task: Task, holds: Sequence[bytes]) -> None:
    answered(kept, task, holds)
    last = kept.calls[-1]
    assert last is not None
    last.spec = task.spec
    last.results = task.results


def turn_round_what_an_older_checkpoint_lacks(kept: KeptCalls, count: int) -> int:
    missing = go_back_to(kept, count)
    kept.calls.reverse()
    return missing


def let_arguments_go_twice(kept: KeptCalls, count: int) -> list[Task]:
    released = cover(kept, count)
    return released + released


def save_before_the_answers_left(_machine: KeptCallsMachine) -> None:
    pass


MISTAKES: list[tuple[Any, str, Callable[..., Any]]] = [
    (KeptCalls, "cover", run_again_what_a_checkpoint_has),
    (KeptCalls, "cover", forget_one_too_many),
    (KeptCalls, "cover", let_arguments_go_twice),
    (KeptCalls, "answered", run_again_with_the_same_attempt),
    (KeptCalls, "go_back_to", turn_round_what_an_older_checkpoint_lacks),
    (kept_calls, "begin", send_new_calls_first),
    (kept_calls, "begin", run_again_in_the_wrong_order),
    (kept_calls, "take_strays", count_what_was_given_up_as_nothing),
    (actor_calls, "connecting", do_not_wait_for_the_actors_word),
    (KeptCallsMachine, "send_all", save_before_the_answers_left),
]


def is_found() -> bool:
    try:
        run_state_machine_as_test(KeptCallsMachine, settings=BUDGET)
    except Exception:  # noqa: BLE001  # whatever it runs into
        return True
    return False


@pytest.mark.parametrize(
    ("where", "name", "mistake"), MISTAKES, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_mistake_is_found(where: Any, name: str, mistake: Callable[..., Any]) -> None:
    with mock.patch.object(where, name, mistake):
        assert is_found()
