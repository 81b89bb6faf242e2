"""The table of actors: what it shows of each, and that it shows no more than there is."""

from __future__ import annotations

import pytest

from nbray.observe import renderer
from nbray.observe.actors import SHOWN, Actors, actors_of
from nbray.wire.actor_messages import ActorFacts


def fact(number: int, state: str = "ALIVE", name: str = "", restarts: int = 0, why: str = "") -> ActorFacts:
    return ActorFacts(
        actor_id=bytes(12) + number.to_bytes(4, "big"), class_name="Learner", name=name, namespace="",
        detached=False, state=state, owner=b"o" * 16, process_id=b"p" * 16, pid=4000 + number, endpoint="",
        restarts=restarts, restarts_left=0, resources={}, cell="", why=why, created_ns=0, since_ns=0,
    )  # fmt: skip


def table(*facts: ActorFacts) -> Actors:
    return actors_of(facts, b"j" * 4, "127.0.0.1")


def test_columns_that_nothing_is_in_are_left_out() -> None:
    assert table(fact(1), fact(2)).describe().splitlines() == [
        "nbray: 2 actors",
        "  actor     class    state  pid",
        "  00000001  Learner  ALIVE  4001",
        "  00000002  Learner  ALIVE  4002",
    ]


def test_the_dead_come_last_with_the_first_line_of_why_they_died_and_without_a_pid() -> None:
    shown = table(fact(1, "DEAD", why="It crashed.\nin train()"), fact(2, name="reader", restarts=3))

    assert shown.describe().splitlines() == [
        "nbray: 1 actor, 1 dead",
        "  actor     class    name    state  pid   restarts  why",
        "  00000002  Learner  reader  ALIVE  4002  3",
        "  00000001  Learner          DEAD                   It crashed.",
    ]


def test_text_that_is_compared_names_no_process() -> None:
    renderer.choose(renderer.TEXT)

    assert table(fact(1)).describe().splitlines()[1:] == [
        "  actor     class    state",
        "  00000001  Learner  ALIVE",
    ]


def test_no_actors_are_one_line() -> None:
    assert Actors().describe() == "nbray: 0 actors"
    assert "nbray: 0 actors" in (Actors()._repr_html_() or "")


def test_more_than_fit_are_counted() -> None:
    shown = table(*[fact(n) for n in range(SHOWN + 2)]).describe()

    assert "2 actors: see to_dict()" in shown
    assert f"{SHOWN:08x}" not in shown


@pytest.mark.parametrize(("why", "breaks"), [("It was killed by nbray.kill() in a cell.", True), ("", False)])
def test_only_what_is_long_may_be_broken_into_lines(why: str, breaks: bool) -> None:
    page = table(fact(1, "DEAD", why=why))._repr_html_() or ""

    cells = [cell for cell in page.split("<td")[1:] if "</td>" in cell]
    assert any("nowrap" not in cell for cell in cells) is breaks
    assert "nowrap" in cells[0]
