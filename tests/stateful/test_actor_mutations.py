"""The machine of actors notices mistakes: each of these is planted in the core, and must be found.

Called by:  pytest.
Imports:    tests.stateful.test_actor_machine; nbray.core.{actors,actor_calls}, to break them.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from nbray.core import actor_calls
from nbray.core.actor_calls import Route, RouteState
from nbray.core.actor_record import Actor, ActorState, Command, Dismiss, Kill, Publish, Request
from nbray.core.actors import ActorTable
from nbray.core.tasks import Task, TaskEvent, TaskState
from nbray.model.errors import ProtocolError
from tests.stateful.test_actor_machine import walks

WALKS = 1500

original: dict[str, Any] = {
    name: getattr(ActorTable, name) for name in vars(ActorTable) if not name.startswith("__")
}
calls: dict[str, Any] = {name: getattr(actor_calls, name) for name in ("lost", "died")}


# --- the supervisor -------------------------------------------------------------------------------------


def ask_for_another_before_the_last_is_reaped(
    table: ActorTable,
    actor_id: bytes,
    owner: bytes,
    no_restart: bool,
    now_s: float,
    now_ns: int,
    out: list[Command],
) -> None:
    actor = table.actors[actor_id]
    original["kill"](table, actor_id, owner, no_restart, now_s, now_ns, out)
    if actor.state is ActorState.ALIVE and actor.restarts_left:
        out.append(Request(actor_id, 0.0))


def let_a_kill_cost_nothing(
    table: ActorTable, process_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command]
) -> Actor | None:
    actor = table.runs_in(process_id)
    if actor is not None and actor.why and actor.restarts_left > 0:
        actor.restarts_left += 1
    return original["lost"](table, process_id, why, now_s, now_ns, out)  # type: ignore[no-any-return]


def restart_what_left(
    table: ActorTable, process_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command]
) -> None:
    pass


def restart_what_nobody_has(
    table: ActorTable, process_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command]
) -> Actor | None:
    actor = table.runs_in(process_id)
    if actor is not None:
        actor.is_released = False
    return original["lost"](table, process_id, why, now_s, now_ns, out)  # type: ignore[no-any-return]


def restart_after_the_constructor_raised(
    table: ActorTable, process_id: bytes, error: bytes, now_s: float, now_ns: int, out: list[Command]
) -> Actor | None:
    return original["started"](table, process_id, b"", now_s, now_ns, out)  # type: ignore[no-any-return]


def forget_the_release_of_one_that_is_not_made(
    table: ActorTable, actor_id: bytes, now_s: float, now_ns: int, out: list[Command]
) -> None:
    if table.actors[actor_id].state is not ActorState.PENDING:
        original["release"](table, actor_id, now_s, now_ns, out)


def forget_the_release_while_it_is_restarted(
    table: ActorTable, actor_id: bytes, now_s: float, now_ns: int, out: list[Command]
) -> None:
    if table.actors[actor_id].state is not ActorState.RESTARTING:
        original["release"](table, actor_id, now_s, now_ns, out)
    else:
        table.actors[actor_id].is_released = False


def keep_the_actors_of_dead_owners(
    table: ActorTable, process_id: bytes, now_s: float, now_ns: int, out: list[Command]
) -> None:
    table._lost_owners[process_id] = None


def keep_names_of_the_dead(
    table: ActorTable, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]
) -> None:
    kept = dict(table._names)
    original["_end"](table, actor, why, now_s, now_ns, out)
    table._names = kept


def give_a_name_twice(
    table: ActorTable,
    name: tuple[str, str],
    actor_id: bytes,
    owner: bytes,
    handle: bytes,
    now_s: float,
    now_ns: int,
) -> tuple[bytes, bytes]:
    table._names.pop(name, None)
    return original["give_name"](table, name, actor_id, owner, handle, now_s, now_ns)  # type: ignore[no-any-return]


def name_the_dead(
    table: ActorTable,
    name: tuple[str, str],
    actor_id: bytes,
    owner: bytes,
    handle: bytes,
    now_s: float,
    now_ns: int,
) -> tuple[bytes, bytes]:
    return table._names.setdefault(name, (actor_id, handle))


def tell_nobody_of_a_death(
    table: ActorTable, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]
) -> None:
    original["_end"](table, actor, why, now_s, now_ns, out)
    out[:] = [command for command in out if not isinstance(command, Publish)]


def leave_the_process_of_the_dead(
    table: ActorTable, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]
) -> None:
    original["_end"](table, actor, why, now_s, now_ns, out)
    out[:] = [command for command in out if not isinstance(command, Kill)]


def kill_instead_of_dismissing(
    table: ActorTable, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]
) -> None:
    original["_leave"](table, actor, why, now_s, now_ns, out)
    out[:] = [command for command in out if not isinstance(command, Dismiss)]


def lose_a_kill_of_one_that_is_not_declared(
    table: ActorTable,
    actor_id: bytes,
    owner: bytes,
    no_restart: bool,
    now_s: float,
    now_ns: int,
    out: list[Command],
) -> None:
    """The killer waits for news that never come."""
    table.actors[actor_id].watchers.clear()


def keep_a_lease_that_is_not_needed(table: ActorTable, actor_id: bytes, lease_id: bytes) -> bool:
    actor = table.actors[actor_id]
    actor.lease_id = lease_id
    table._of_lease[lease_id] = actor
    return True


SUPERVISOR: list[tuple[str, Any]] = [
    ("kill", ask_for_another_before_the_last_is_reaped),
    ("lost", let_a_kill_cost_nothing),
    ("left", restart_what_left),
    ("lost", restart_what_nobody_has),
    ("started", restart_after_the_constructor_raised),
    ("release", forget_the_release_of_one_that_is_not_made),
    ("release", forget_the_release_while_it_is_restarted),
    ("process_lost", keep_the_actors_of_dead_owners),
    ("_end", keep_names_of_the_dead),
    ("give_name", give_a_name_twice),
    ("give_name", name_the_dead),
    ("_end", tell_nobody_of_a_death),
    ("_end", leave_the_process_of_the_dead),
    ("_leave", kill_instead_of_dismissing),
    ("kill", lose_a_kill_of_one_that_is_not_declared),
    ("requested", keep_a_lease_that_is_not_needed),
]


# --- callers --------------------------------------------------------------------------------------------


def send_past_the_queue(route: Route, task: Task) -> bool:
    if route.state is RouteState.OPEN:
        actor_calls.send(route, task)
        return True
    route.queue.append(task)
    return False


def keep_no_place_for_the_unready(route: Route, task: Task) -> None:
    pass


def skip_the_unready(route: Route) -> Task | None:
    for task in list(route.queue):
        if route.state is RouteState.OPEN and task.state is TaskState.QUEUED:
            route.queue.remove(task)
            return task
    return None


def _requeue(route: Route, task: Task, *, counts: bool, in_front: bool) -> None:
    task.step(TaskEvent.WORKER_LOST)
    task.attempt += counts
    (route.queue.appendleft if in_front else route.queue.append)(task)


def retry_behind_the_others(route: Route) -> list[Task]:
    actor_calls.disconnected(route)
    under_way, route.inflight = list(route.inflight.values()), {}
    for task in under_way:
        if task.may_retry():
            _requeue(route, task, counts=True, in_front=False)
    return [task for task in under_way if task.state is TaskState.PUSHED]


def retry_in_reverse(route: Route) -> list[Task]:
    actor_calls.disconnected(route)
    under_way, route.inflight = list(route.inflight.values()), {}
    for task in under_way:
        if task.may_retry():
            _requeue(route, task, counts=True, in_front=True)
    return [task for task in under_way if task.state is TaskState.PUSHED]


def retry_what_may_run_only_once(route: Route) -> list[Task]:
    actor_calls.disconnected(route)
    under_way, route.inflight = list(route.inflight.values()), {}
    for task in reversed(under_way):
        _requeue(route, task, counts=True, in_front=True)
    return []


def retry_without_counting(route: Route) -> list[Task]:
    actor_calls.disconnected(route)
    under_way, route.inflight = list(route.inflight.values()), {}
    for task in reversed(under_way):
        if task.may_retry():
            _requeue(route, task, counts=False, in_front=True)
    return [task for task in under_way if task.state is TaskState.PUSHED]


def count_what_only_waited(route: Route) -> list[Task]:
    for task in route.queue:
        task.attempt += 1
    return calls["lost"](route)  # type: ignore[no-any-return]


def forget_the_queue_of_the_dead(route: Route, error: bytes) -> list[Task]:
    calls["died"](route, error)
    return []


def end_only_those_that_are_ready(route: Route, error: bytes) -> list[Task]:
    route.in_order = True
    return [task for task in calls["died"](route, error) if task.state is TaskState.QUEUED]


def accept_answers_of_others(route: Route, task: Task, _now_s: float = 0.0) -> bool:
    """It stays among those under way."""
    return True


def send_the_unready_at_once_when_ready(route: Route, task: Task) -> bool:
    if route.state is not RouteState.OPEN:
        return False
    if task in route.queue:
        route.queue.remove(task)
    actor_calls.send(route, task)
    return True


CALLERS: list[tuple[str, Any]] = [
    ("place", send_past_the_queue),
    ("hold_place", keep_no_place_for_the_unready),
    ("next_call", skip_the_unready),
    ("lost", retry_behind_the_others),
    ("lost", retry_in_reverse),
    ("lost", retry_what_may_run_only_once),
    ("lost", retry_without_counting),
    ("lost", count_what_only_waited),
    ("died", forget_the_queue_of_the_dead),
    ("answered", accept_answers_of_others),
    ("arguments_ready", send_the_unready_at_once_when_ready),
]

FOUND = (AssertionError, KeyError, ValueError, ProtocolError)


@pytest.mark.stateful
@pytest.mark.parametrize(("method", "mistake"), SUPERVISOR, ids=[m.__name__ for _, m in SUPERVISOR])
def test_the_machine_finds_a_supervisor_that_would(method: str, mistake: Any) -> None:
    with mock.patch.object(ActorTable, method, mistake), pytest.raises(FOUND):
        walks(WALKS)


@pytest.mark.stateful
@pytest.mark.parametrize(("function", "mistake"), CALLERS, ids=[m.__name__ for _, m in CALLERS])
def test_the_machine_finds_callers_that_would(function: str, mistake: Any) -> None:
    with mock.patch.object(actor_calls, function, mistake), pytest.raises(FOUND):
        walks(WALKS)
