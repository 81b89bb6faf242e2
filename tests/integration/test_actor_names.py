"""Actors that are found by a name."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import nbray
from nbray import util
from nbray.api import actor_classes
from nbray.model.actor_errors import RayActorError
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@nbray.remote
class Counter:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def add(self) -> int:
        self.n += 1
        return self.n


def detached(name: str, *args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Counter._remote(args, name=name, detached=True, **options)


def test_a_registered_actor_is_found_by_everybody() -> None:
    actor = Counter.remote()
    util.register_actor("registered", actor)

    @nbray.remote
    def add() -> int:
        value: int = nbray.get(util.get_actor("registered").add.remote())
        return value

    assert util.get_actor("registered") == actor
    assert [nbray.get(add.remote()), nbray.get(actor.add.remote())] == [1, 2]


def test_a_name_that_is_taken_or_unknown_is_a_value_error() -> None:
    actor, other = Counter.remote(), Counter.remote()
    util.register_actor("taken", actor)
    util.register_actor("taken", actor)  # it has it already

    with pytest.raises(ValueError, match="Please use a different name"):
        util.register_actor("taken", other)
    with pytest.raises(ValueError, match="no actor named 'unknown'"):
        util.get_actor("unknown")


def test_an_actor_that_was_refused_a_name_ends_with_its_last_handle() -> None:
    keeper, refused = Counter.remote(), Counter.remote()
    util.register_actor("mine", keeper)
    actor_id = refused._actor_id
    with pytest.raises(ValueError, match=r"get_actor\('mine'\)"):
        util.register_actor("mine", refused)

    del refused

    until(lambda: nbray.actors(actor_id)["State"] == "DEAD", "the actor without a name or handle is gone")
    nbray.kill(keeper)


def test_wrong_types_are_type_errors() -> None:
    with pytest.raises(TypeError, match="string"):
        util.get_actor(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="string"):
        util.register_actor(1, Counter.remote())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="handle"):
        util.register_actor("one", Counter)  # type: ignore[arg-type]


def test_the_name_of_a_dead_actor_is_free_again() -> None:
    first = Counter.remote()
    util.register_actor("again", first)
    nbray.kill(first)
    with pytest.raises(RayActorError):
        nbray.get(first.add.remote())

    with pytest.raises(ValueError, match="no actor named"):
        util.get_actor("again")
    with pytest.raises(ValueError, match="dead"):
        util.register_actor("again", first)
    second = Counter.remote(10)
    util.register_actor("again", second)
    assert nbray.get(util.get_actor("again").add.remote()) == 11


def test_a_taken_name_is_free_when_one_does_what_its_error_says() -> None:
    util.register_actor("replaced", Counter.remote())
    with pytest.raises(ValueError, match=r"nbray.kill\(nbray.get_actor\('replaced'\), no_restart=True\)"):
        util.register_actor("replaced", Counter.remote())

    nbray.kill(nbray.get_actor("replaced"), no_restart=True)
    util.register_actor("replaced", Counter.remote(10))

    assert nbray.get(nbray.get_actor("replaced").add.remote()) == 11


def test_a_name_keeps_the_actor_as_long_as_who_gave_it_lives() -> None:
    @nbray.remote
    class Namer:
        def name(self) -> None:
            util.register_actor("kept", self.actor)
            del self.actor

        def __init__(self, actor: Any) -> None:
            self.actor = actor

    actor = Counter.remote()
    namer = Namer.remote(actor)
    nbray.get(namer.name.remote())
    del actor
    time.sleep(0.15)
    assert nbray.get(util.get_actor("kept").add.remote()) == 1

    nbray.kill(namer)

    until(lambda: not named("kept"), "the actor without handles is gone, and its name with it")


def test_a_restart_keeps_the_name() -> None:
    actor = Counter.options(max_restarts=1).remote()
    util.register_actor("restarted", actor)
    nbray.get(actor.add.remote())

    nbray.kill(actor)

    assert nbray.get(util.get_actor("restarted").add.remote(), timeout=10) == 1


def test_namespaces_do_not_see_each_other() -> None:
    one, other = Counter.remote(1), Counter.remote(2)
    util.register_actor("same", one, namespace="one")
    util.register_actor("same", other, namespace="other")

    assert util.get_actor("same", namespace="one") == one
    assert util.get_actor("same", namespace="other") == other
    with pytest.raises(ValueError, match="no actor"):
        util.get_actor("same")


def test_a_detached_actor_needs_no_handle() -> None:
    with pytest.warns(UserWarning, match="will end with this program") as warned:
        Counter._remote([5], name="stays", detached=True)
    assert warned[0].filename == __file__
    time.sleep(0.15)

    assert nbray.get(util.get_actor("stays").add.remote()) == 6
    time.sleep(0.15)
    assert nbray.get(util.get_actor("stays").add.remote()) == 7
    with pytest.raises(ValueError, match="Please use a different name"):
        detached("stays")

    nbray.kill(util.get_actor("stays"))
    until(lambda: not named("stays"), "its name is free")


def named(name: str) -> bool:
    try:
        util.get_actor(name)
    except ValueError:
        return False
    return True


def test_a_detached_actor_that_loses_the_race_for_its_name_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    detached("raced for")
    before = set(nbray.actors())
    monkeypatch.setattr(actor_classes, "find_actor", lambda *_: None)  # the name was free a moment ago

    with pytest.raises(ValueError, match="Please use a different name"):
        detached("raced for")

    until(
        lambda: all(nbray.actors(a)["State"] == "DEAD" for a in set(nbray.actors()) - before),
        "the actor that has no name is gone",
    )
    nbray.kill(util.get_actor("raced for"))


def test_a_detached_actor_outlives_the_task_that_made_it() -> None:
    @nbray.remote(max_calls=1)
    def make() -> None:
        detached("heirloom", 3)

    nbray.get(make.remote())
    until(lambda: named("heirloom"), "it has its name")
    time.sleep(0.3)

    assert nbray.get(util.get_actor("heirloom").add.remote(), timeout=10) == 4
    nbray.kill(util.get_actor("heirloom"), no_restart=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "x"}, "Only detached actors can be named"),
        ({"detached": True}, "Detached actors must be named"),
        ({"name": "", "detached": True}, "cannot be an empty string"),
    ],
)
def test_names_and_detached_go_together(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Counter._remote(**options)


def test_two_that_want_one_name_get_it_one_of_them() -> None:
    @nbray.remote
    def register(n: int) -> str:
        actor = Counter.remote(n)
        try:
            util.register_actor("wanted", actor)
        except ValueError:
            return "taken"
        value: int = nbray.get(actor.add.remote())
        time.sleep(0.2)
        return f"mine {value}"

    results = nbray.get([register.remote(n) for n in range(6)])

    assert "taken" in results
    assert all(r == "taken" or r == f"mine {n + 1}" for n, r in enumerate(results))
