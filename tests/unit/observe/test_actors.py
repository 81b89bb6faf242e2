"""The table of actors: what it says, and that hostile names cannot break a page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbray.observe import renderer
from nbray.observe.actors import SHOWN, Actors, actors_of
from nbray.wire.actor_messages import ActorFacts

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


def fact(number: int, **fields: Any) -> ActorFacts:
    known: dict[str, Any] = {
        "actor_id": bytes(12) + number.to_bytes(4, "big"), "class_name": "Model", "name": "", "namespace": "",
        "detached": False, "state": "ALIVE", "owner": b"o" * 16, "process_id": b"p" * 16, "pid": 77,
        "endpoint": "/x", "restarts": 0, "restarts_left": 0, "resources": {}, "cell": "", "why": "",
        "created_ns": 1_000_000_000, "since_ns": 2_500_000_000,
    }  # fmt: skip
    return ActorFacts(**{**known, **fields})


def table(*facts: ActorFacts) -> Actors:
    return actors_of(facts, b"j" * 16, "127.0.0.1")


def test_the_table_says_what_each_actor_is_and_why_the_dead_died() -> None:
    renderer.choose("text")
    found = table(
        fact(1, state="DEAD", why="It was killed.\nLast lines on its stderr:\n  boom", cell="In[2]"),
        fact(2, name="server", restarts=2, resources={"CPU": 5_000, "GPU": 10_000}, cell="In[3]"),
    )

    assert [" ".join(line.split()) for line in str(found).splitlines()] == [
        "nbray: 1 actor, 1 dead",
        "actor class name state restarts holds made in why",
        "00000002 Model server ALIVE 2 0.5 CPU, 1 GPU In[3]",
        "00000001 Model DEAD In[2] It was killed.",
    ]


def test_a_text_that_notebooks_are_compared_by_names_no_process() -> None:
    renderer.choose("text")
    assert "77" not in repr(table(fact(1)))


def test_facts_are_plain_data_with_the_classic_keys() -> None:
    found = table(fact(1))
    (row,) = found.to_dict().values()

    assert json.loads(json.dumps(found.to_dict())) == found
    assert row["ActorID"] == fact(1).actor_id.hex() == next(iter(found))
    assert row["JobID"] == (b"j" * 16).hex()
    assert row["Address"] == {"IPAddress": "127.0.0.1", "Port": 0, "WorkerID": (b"p" * 16).hex()}
    assert row["OwnerAddress"]["WorkerID"] == (b"o" * 16).hex()
    assert (row["Timestamp"], row["Created"]) == (2.5, 1.0)


@pytest.mark.parametrize("field", ["class_name", "name", "why", "cell", "state"])
def test_hostile_text_stays_text(field: str) -> None:
    page = table(fact(1, **{"state": "DEAD", field: HOSTILE}))._repr_html_()

    assert page is not None
    assert "<img" not in page
    assert "\x1b" not in page


def test_no_actors_are_a_line() -> None:
    assert repr(Actors()) == "nbray: 0 actors"


def test_more_than_fit_are_counted_and_the_living_come_first() -> None:
    found = table(*(fact(n, state="DEAD") for n in range(SHOWN + 5)), fact(900))

    lines = found.describe().splitlines()

    assert "ALIVE" in lines[2]
    assert lines[-1].split() == ["not", "shown", "6", "actors:", "see", "to_dict()"]
