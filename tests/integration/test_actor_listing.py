"""What people see of actors: ``nbray.actors()``, the status, ``nbray.memory()``; and slow constructors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.jupyter import kill
from nbray.model.actor_errors import RayActorError
from nbray.util import register_actor
from tests.support.drivers import driver
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False):
        yield


@nbray.remote
class Keeper:
    def __init__(self, *kept: Any) -> None:
        self.kept = list(kept)

    def keep(self, value: Any) -> None:
        self.kept.append(value)

    def pid(self) -> int:
        import os

        return os.getpid()

    def id(self) -> Any:
        return nbray.worker.global_worker.actor_id


def row_of(actor: Any) -> dict[str, Any]:
    row: dict[str, Any] = nbray.actors(actor)
    return row


def test_facts_about_a_living_actor() -> None:
    before_s = time.time()
    actor = Keeper.options(num_cpus=0.5, max_restarts=3).remote()
    register_actor("known", actor)
    pid = nbray.get(actor.pid.remote())

    row = row_of(actor)

    assert row == nbray.actors()[actor._actor_id.hex()] == nbray.actors(actor._actor_id)
    assert row == nbray.actors(actor._actor_id.hex()) == nbray.actors(actor._actor_id.binary())
    assert (row["ActorID"], row["State"], row["Class"]) == (actor._actor_id.hex(), "ALIVE", "Keeper")
    assert (row["Name"], row["Pid"], row["Restarts"], row["RestartsLeft"]) == ("known", pid, 0, 3)
    assert row["JobID"] == nbray.worker.global_worker.current_job_id.hex()
    assert row["Resources"] == {"CPU": 0.5}
    assert row["OwnerAddress"]["WorkerID"] == nbray.worker.global_worker.worker_id.hex()
    assert row["Address"]["WorkerID"] != row["OwnerAddress"]["WorkerID"]
    assert before_s - 1 <= row["Created"] <= row["Timestamp"] <= time.time() + 1
    json.dumps(row)


def test_a_dead_actor_is_remembered_with_the_reason() -> None:
    actor = Keeper.remote()
    nbray.get(actor.pid.remote())
    actor_id = actor._actor_id

    nbray.kill(actor)
    with pytest.raises(RayActorError):
        nbray.get(actor.pid.remote())
    del actor

    row = nbray.actors(actor_id)
    assert row["State"] == "DEAD"
    assert "kill" in row["Why"]
    assert actor_id.hex() in nbray.actors()


def test_one_that_waits_for_its_arguments_is_listed(folder: Path) -> None:
    @nbray.remote
    def slow(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.005)

    actor = Keeper.remote(slow.remote(str(folder / "go")))

    row = row_of(actor)
    assert (row["State"], row["Class"], row["Pid"]) == ("PENDING", "Keeper", 0)
    (folder / "go").touch()
    nbray.get(actor.pid.remote())
    assert row_of(actor)["State"] == "ALIVE"


def test_restarts_are_counted() -> None:
    actor = Keeper.options(max_restarts=1).remote()
    nbray.get(actor.pid.remote())

    nbray.kill(actor)
    nbray.get(actor.pid.remote(), timeout=10)

    assert (row_of(actor)["Restarts"], row_of(actor)["RestartsLeft"]) == (1, 0)


def test_what_is_no_actor_is_refused_or_empty() -> None:
    assert nbray.actors("ab" * 16) == {}
    for wrong in ("xyz", "ab", b"short"):
        with pytest.raises(ValueError, match="ID of an actor"):
            nbray.actors(wrong)
    with pytest.raises(TypeError, match="handle"):
        nbray.actors(7)  # type: ignore[arg-type]


def test_an_actor_knows_its_id_and_others_have_none() -> None:
    actor = Keeper.remote()

    assert nbray.get(actor.id.remote()) == actor._actor_id
    assert nbray.worker.global_worker.actor_id.is_nil()


def test_the_table_and_the_status_show_actors() -> None:
    actor = Keeper.remote()
    register_actor("<b>bold</b>", actor)
    nbray.get(actor.pid.remote())

    assert "<b>bold</b>" in repr(nbray.actors())
    assert "alive" in nbray.status().describe()
    assert nbray.status().to_dict()["actors"]["alive"] >= 1
    page = nbray.actors()._repr_html_()
    assert page is None or "<b>bold" not in page


def test_an_actor_is_killed_by_its_name_or_id() -> None:
    named, other = Keeper.remote(), Keeper.options(max_restarts=-1).remote()
    register_actor("doomed", named)
    nbray.get([named.pid.remote(), other.pid.remote()])

    assert str(kill("doomed")) == "doomed"
    assert str(kill(other._actor_id.hex())) == "Keeper"

    for actor in (named, other):
        with pytest.raises(RayActorError):
            nbray.get(actor.pid.remote(), timeout=10)
    with pytest.raises(ValueError, match="No living actor"):
        kill("doomed")
    with pytest.raises(ValueError, match="called"):
        kill("")


def test_memory_tells_handles_from_results_and_which_actor_holds_what() -> None:
    keeper, kept = Keeper.remote(), Keeper.remote()
    stored = nbray.put(b"x" * 300_000)
    nbray.get([keeper.keep.remote([stored, kept]), kept.pid.remote()])

    rows = {row["object"]: row for row in nbray.memory().rows}
    handle = rows[kept._target.ref.hex()]
    value = rows[stored.hex()]

    assert (handle["state"], handle["size_bytes"], handle["place"]) == ("actor", None, "")
    assert (handle["origin"]["kind"], handle["origin"]["name"]) == ("actor", "Keeper")
    assert {("variable", "kept"), ("actor", "Keeper")} <= {
        (h["kind"], h["name"].split(" ")[0].split(".")[0]) for h in handle["holders"]
    }
    assert ("actor", "Keeper") in {(h["kind"], h["name"]) for h in value["holders"]}
    assert handle["leak"] == ""
    assert kept._target.ref.hex() not in nbray.objects()
    assert "actor Keeper" in nbray.memory().holders().describe()


@pytest.mark.slow
def test_a_constructor_that_takes_long_is_told_with_its_stack(folder: Path) -> None:
    script = """
        nbray.init(num_cpus=1, log_to_driver=True)

        @nbray.remote
        class Slow:
            def __init__(self):
                self.load_for_ever()

            def load_for_ever(self):
                while True:
                    time.sleep(0.01)

        sys.stderr = sys.stdout = open(os.environ["NOTICE_FILE"], "w", 1)
        slow = Slow.remote()
        tell()
        hear()
        nbray.shutdown()
    """
    notice = folder / "notice"

    def told() -> str:
        text = notice.read_text()
        return text if "load_for_ever" in text else ""

    with driver(script, env={"NOTICE_FILE": str(notice)}) as running:
        running.told()
        text = until(told, "people are told", 30)
        running.say()
        running.ended()

    assert "the constructor of Actor(Slow" in text
    assert "has been running for 1" in text
    assert "nbray/worker" not in text


def test_before_init_there_is_nothing_to_list() -> None:
    script = """
        for call in (nbray.actors, nbray.shutdown):
            try:
                tell(repr(call()))
            except nbray.RayConnectionError:
                tell("no session")
        from nbray import jupyter
        tell(repr(jupyter.actors()))
        nbray.init(num_cpus=1)
        tell(repr(nbray.actors()))
        nbray.shutdown()
        try:
            nbray.actors()
        except nbray.RayConnectionError:
            tell("no session")
    """
    with driver(script) as running:
        said = [running.told() for _ in range(5)]
    assert said == [
        "no session", "nbray: was not running", "nbray: 0 actors", "nbray: 0 actors", "no session",
    ]  # fmt: skip
