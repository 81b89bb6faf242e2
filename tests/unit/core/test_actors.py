"""The life of actors at their supervisor, step by step; ``tests/stateful`` has it against a hostile world."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nbray.core import actors
from nbray.core.actor_record import TABLE, ActorEvent, ActorState, Command, Kill, Publish, Request, Start
from nbray.core.actors import DELAY_MAX_S, EARLY_DEATHS, ActorTable
from nbray.model.errors import ProtocolError
from nbray.wire.actor_messages import ActorSpec

OWNER, CALLER, ACTOR = b"owner", b"caller", b"actor"


def spec(**fields: Any) -> ActorSpec:
    plain = ActorSpec(
        ACTOR, OWNER, b"class", "C", "", "", False, {}, {}, 0, 1, False, 0, b"", [], 0, "", 1,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **fields)


class Table(ActorTable):
    """One whose commands are kept, and whose clock stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[Command] = []

    def do(self, name: str, *args: object) -> list[Command]:
        """Have it decide; returns what it orders, but for news."""
        out: list[Command] = []
        getattr(self, name)(*args, 0.0, 0, out)
        return [command for command in out if not isinstance(command, Publish)]

    def live(self, lease: bytes = b"lease", process: bytes = b"process") -> None:
        """The next life begins."""
        assert self.requested(ACTOR, lease)
        assert self.do("leased", lease, process, 7, "/socket") == [Start(ACTOR, process)]
        assert self.do("started", process, b"") == []


def test_no_way_leads_out_of_death() -> None:
    assert not [event for state, event in TABLE if state is ActorState.DEAD]


def test_an_event_that_cannot_be_is_named_with_what_could() -> None:
    table = Table()
    table.do("create", spec())

    with pytest.raises(ProtocolError, match=r"PENDING.* cannot be constructed; possible is: leased"):
        table.actors[ACTOR].move(ActorEvent.READY, 0.0, 0)


def test_declared_twice_it_is_made_once() -> None:
    table = Table()

    assert table.do("create", spec()) == [Request(ACTOR, 0.0)]
    assert table.do("create", spec()) == []


def test_deaths_in_the_constructor_are_followed_by_longer_and_longer_delays() -> None:
    table = Table()
    table.do("create", spec(max_restarts=-1))
    delays = []
    for number in range(EARLY_DEATHS + 12):
        process = b"process %d" % number
        assert table.requested(ACTOR, process)
        table.do("leased", process, process, 7, "/socket")
        (request,) = table.do("lost", process, "It died.")
        assert isinstance(request, Request)
        delays.append(request.delay_s)

    assert delays[:EARLY_DEATHS] == [0.0] * EARLY_DEATHS
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_MAX_S


def test_a_constructor_that_is_killed_is_not_made_to_wait() -> None:
    table = Table()
    table.do("create", spec(max_restarts=-1))
    for number in range(EARLY_DEATHS + 5):
        process = b"process %d" % number
        assert table.requested(ACTOR, process)
        table.do("leased", process, process, 7, "/socket")
        assert table.do("kill", ACTOR, OWNER, False) == [Kill(process)]
        assert table.do("lost", process, "It died.") == [Request(ACTOR, 0.0)]


def test_a_kill_that_comes_before_its_declaration_counts() -> None:
    table = Table()

    assert table.do("kill", ACTOR, OWNER, False) == []
    assert table.do("create", spec()) == []
    assert table.watch(ACTOR, OWNER, "C", CALLER, 0.0, 0).state is ActorState.DEAD


def test_the_last_life_tells_that_there_is_no_other() -> None:
    table = Table()
    table.do("create", spec(max_restarts=1))
    table.live()
    assert table.actors[ACTOR].update().restarts_left == 1
    table.do("lost", b"process", "It died.")
    table.live(b"other lease", b"other process")

    update = table.actors[ACTOR].update()

    assert (update.state, update.incarnation, update.restarts_left, update.endpoint) == (
        "ALIVE",
        1,
        0,
        "/socket",
    )


def test_one_that_waits_for_its_arguments_is_listed_by_what_its_callers_say() -> None:
    table = Table()
    table.watch(ACTOR, OWNER, "Model", CALLER, 0.0, 0)

    (facts,) = table.facts()

    assert (facts.class_name, facts.state, facts.owner) == ("Model", "PENDING", OWNER)
    assert table.counts() == {"pending": 1}


def test_names_are_told_and_go_with_the_actor() -> None:
    table = Table()
    table.do("create", spec())
    table.live()
    assert table.give_name(("", "x"), ACTOR, OWNER, b"handle", 0.0, 0) == (ACTOR, b"handle")
    assert table.facts()[0].name == "x"

    table.do("kill", ACTOR, OWNER, True)
    table.do("lost", b"process", "It died.")

    assert table.find(("", "x")) == (b"", b"")
    assert table.give_name(("", "x"), ACTOR, OWNER, b"handle", 0.0, 0) == (b"", b"")


def test_so_many_dead_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "DEAD_REMEMBERED", 3)
    table = Table()
    for number in range(5):
        table.do("fail", b"actor %d" % number, OWNER, b"error")

    assert list(table.actors) == [b"actor 2", b"actor 3", b"actor 4"]


def test_who_comes_long_after_an_actor_was_forgotten_is_told_that_it_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(actors, "DEAD_REMEMBERED", 1)
    table = Table()
    for actor_id in (ACTOR, b"another"):
        table.do("create", spec(actor_id=actor_id))
        table.do("kill", actor_id, OWNER, True)
    assert ACTOR not in table.actors

    found = table.watch(ACTOR, OWNER, "C", CALLER, 0.0, 0)

    assert found.state is ActorState.DEAD
    assert found.why == "It died long ago."
