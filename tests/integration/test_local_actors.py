"""Actors in local mode: the same program, in one process."""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbray as ray
from nbray.util import ActorPool, get_actor, register_actor
from tests.support import procfs
from tests.support.sessions import await_forgotten
from tests.support.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def local() -> Iterator[None]:
    ray.init(local_mode=True, num_cpus=2)
    yield
    assert procfs.descendants(os.getpid()) == []
    ray.shutdown()


LIVING: list[Any] = []


@ray.remote
class Counter:
    """Counts."""

    def __init__(self, n: int = 0, kept: Any = None) -> None:
        self.n, self.kept = n, kept
        LIVING.append(id(self))

    def __del__(self) -> None:
        LIVING.remove(id(self))

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("gone")

    @ray.method(num_returns=2)
    def both(self) -> tuple[int, Any]:
        return self.n, self.kept

    def recurse(self, me: Any, depth: int) -> int:
        return 1 + (ray.get(me.recurse.remote(me, depth - 1)) if depth else 0)

    def leave(self) -> None:
        ray.exit_actor()

    def id(self) -> Any:
        return ray.worker.global_worker.actor_id

    def give(self) -> Any:
        return Counter.remote()

    async def later(self, x: int) -> int:
        return 2 * x


def test_an_actor_lives_here_and_keeps_its_state() -> None:
    actor, other = Counter.remote(5), Counter.remote(n=ray.put(1))

    assert ray.get([actor.add.remote(), actor.add.remote(ray.put(2)), other.add.remote()]) == [6, 8, 2]
    assert ray.get(actor.pid.remote()) == os.getpid()
    assert ray.get(actor.both.remote()) == [8, None]
    assert ray.get(actor.id.remote()) == actor._actor_id
    assert ray.worker.global_worker.actor_id.is_nil()
    assert ray.get(actor.later.remote(4)) == 8


def test_calls_run_when_they_are_made() -> None:
    ran = []

    class Notes:
        def note(self, x: int) -> None:
            ran.append(x)

    actor = ray.remote(Notes).remote()
    actor.note.remote(1)

    assert ran == [1]


def test_errors_show_when_a_result_is_asked_for_and_the_actor_goes_on() -> None:
    actor = Counter.remote()
    failed = actor.fail.remote()

    with pytest.raises(KeyError, match="gone") as caught:
        ray.get(failed)
    assert isinstance(caught.value, ray.RayTaskError)
    with pytest.raises(KeyError, match="gone"):
        ray.get(actor.add.remote(failed))
    assert ray.get(actor.add.remote()) == 1
    with pytest.raises(TypeError):
        actor.add.remote(1, 2)
    with pytest.raises(TypeError, match=r"add\.remote"):
        actor.add()
    with pytest.raises(AttributeError):
        actor.unknown  # noqa: B018
    with pytest.raises(TypeError, match="return it in a list"):
        ray.get(actor.give.remote())


def test_each_call_of_one_that_could_not_be_made_raises_what_its_constructor_raised() -> None:
    @ray.remote
    class Bad:
        def __init__(self) -> None:
            raise ValueError("no luck")

        def one(self) -> int:
            return 1

    bad = Bad.remote()

    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            ray.get(bad.one.remote())


def test_errors_are_pushed_as_with_processes_and_no_end_that_was_wanted() -> None:
    @ray.remote
    class Bad:
        def __init__(self) -> None:
            raise ValueError("no luck")

        def one(self) -> int:
            return 1

    @ray.remote
    class Leaves:
        def go(self) -> None:
            sys.exit(3)

    leaving, bad = Leaves.remote(), Bad.remote()
    for call in (leaving.go, leaving.go):
        with pytest.raises(ray.RayActorError, match=r"sys\.exit"):
            ray.get(call.remote())
    bad.one.remote()
    Counter.remote().fail.remote()

    pushed = [(error["type"], error["message"].splitlines()) for error in ray.errors()]
    assert [kind for kind, _lines in pushed] == ["task"] * 3
    assert [lines[0].partition(" failed")[0] for _kind, lines in pushed[::2]] == [
        "task Bad.__init__", "task Counter.fail",
    ]  # fmt: skip
    assert pushed[1][1][0] == "task Bad.one did not run, since its actor could not be made:"
    assert pushed[1][1][-1] == "ValueError: no luck"


def test_a_call_cannot_be_cancelled_even_when_it_is_over() -> None:
    with pytest.raises(TypeError, match=r"Counter\.add is a call of an actor"):
        ray.cancel(Counter.remote().add.remote())


def test_values_are_copies_and_arrays_are_read_only() -> None:
    data, array = {"a": [1]}, np.zeros(10)

    @ray.remote
    class Changes:
        def change(self, taken: Any, given: Any) -> Any:
            taken["a"].append(2)
            with pytest.raises(ValueError, match="read-only"):
                given[0] = 1
            return taken

    assert ray.get(Changes.remote().change.remote(data, array)) == {"a": [1, 2]}
    assert data == {"a": [1]}
    with pytest.raises(ray.SerializationError):
        Counter.remote(threading.Lock())


def test_handles_travel_and_actors_call_themselves_and_each_other() -> None:
    actor = Counter.remote()

    @ray.remote
    def call(handles: list[Any], method: Any) -> list[int]:
        return ray.get([handles[0].add.remote(), method.remote()])

    assert ray.get(call.remote([actor], actor.add)) == [1, 2]
    assert ray.get(actor.recurse.remote(actor, 5)) == 6
    assert pickle.loads(pickle.dumps(actor)) == actor
    assert ray.get(ray.get(ray.put([actor]))[0].add.remote()) == 3


def test_it_goes_with_its_last_handle() -> None:
    actor = Counter.remote()
    holder = Counter.remote(0, actor)
    actor_id = actor._actor_id.hex()

    del actor
    gc.collect()
    assert ray.actors(actor_id)["State"] == "ALIVE"
    assert len(LIVING) == 2

    del holder
    until(lambda: not LIVING, "both are gone")
    assert ray.actors(actor_id)["State"] == "DEAD"
    await_forgotten()


@pytest.mark.parametrize("how", ["kill", "terminate", "exit"])
def test_one_that_ended_answers_no_more(how: str) -> None:
    actor = Counter.remote()
    if how == "kill":
        ray.kill(actor)
    elif how == "terminate":
        assert ray.get(actor.__ray_terminate__.remote()) is None
    else:
        with pytest.raises(ray.RayActorError):
            ray.get(actor.leave.remote())

    with pytest.raises(ray.RayActorError):
        ray.get(actor.add.remote())
    until(lambda: not LIVING, "it is gone")
    with pytest.raises(TypeError):
        ray.exit_actor()


def test_a_kill_allows_a_restart() -> None:
    actor = Counter.options(max_restarts=1).remote(5, kept=[ray.put(1)])
    ray.get(actor.add.remote())

    ray.kill(actor)
    assert ray.get(actor.add.remote()) == 6

    ray.kill(actor)
    with pytest.raises(ray.RayActorError):
        ray.get(actor.add.remote())


def test_names_pools_and_listings_are_as_on_a_cluster() -> None:
    actor, other = Counter.remote(), Counter.remote()
    register_actor("one", actor)

    assert get_actor("one") == actor
    with pytest.raises(ValueError, match="Please use a different name"):
        register_actor("one", other)
    assert ray.actors(actor)["Name"] == "one"
    assert len(ray.actors()) == 2
    assert ray.status().to_dict()["actors"] == {"alive": 2}
    assert list(ActorPool([actor, other]).map(lambda a, x: a.add.remote(x), [1, 2, 3, 4])) == [1, 2, 4, 6]
    ray.kill(actor)
    with pytest.raises(ValueError, match="no actor"):
        get_actor("one")
    register_actor("one", other)
    rows = {row["origin"]["kind"] for row in ray.memory().rows}
    assert rows == {"actor"}


def test_threads_take_turns() -> None:
    actor = Counter.remote()

    def call() -> None:
        for _ in range(100):
            actor.add.remote()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ray.get(actor.add.remote(0)) == 400


def test_a_handle_of_an_earlier_session_is_stale() -> None:
    actor = Counter.remote()
    ray.shutdown()
    ray.init(local_mode=True)

    with pytest.raises(ray.StaleSessionError):
        actor.add.remote()
    assert ray.get(Counter.remote().add.remote()) == 1
