"""``nbray.why`` tells what a result waits for, across processes, and what is stuck is said by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, resources={"tool": 1}, log_to_driver=False, object_store_memory=80 << 20):
        yield


@nbray.remote
def until_there(path: str) -> str:
    Path(path + ".began").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


@nbray.remote
def takes(*_values: Any) -> int:
    return 1


def began(path: Path) -> None:
    until(Path(f"{path}.began").exists, "the task began")


def last(ref: Any) -> dict[str, Any]:
    """The end of the chain."""
    return nbray.why(ref).links[-1]


def test_value_that_is_there_needs_no_reason() -> None:
    ref = nbray.put(1)

    (link,) = nbray.why(ref).links

    assert (link["kind"], link["state"]) == ("object", "inline")


def test_chain_leads_over_arguments_and_nested_gets_to_the_line_that_runs(folder: Path) -> None:
    @nbray.remote
    def parent(path: str) -> Any:
        return nbray.get(until_there.remote(path))

    ref = takes.remote(parent.remote(str(folder / "go")))
    began(folder / "go")
    until(lambda: last(ref)["state"] == "running", "the chain reaches what runs")
    why = nbray.why(ref)

    tasks = [(link["name"], link["state"]) for link in why.links if link["kind"] == "task"]
    assert tasks == [("takes", "waiting"), ("parent", "blocked"), ("until_there", "running")]
    assert why.links[-1]["facts"]["stack"][-1].startswith("until_there at test_why.py:")
    assert why.links[-1]["since_s"] >= 0
    assert "until_there runs on worker pid" in str(why)

    (folder / "go").touch()
    assert nbray.get(ref, timeout=10) == 1
    assert nbray.why(ref).links[-1]["state"] == "inline"


def test_object_on_the_disk_is_said_to_lie_there() -> None:
    refs = [nbray.put(np.ones(4 << 20)) for _ in range(5)]  # 32 MiB each, the store has 80

    links = [last(ref) for ref in refs]

    assert "spilled" in {link["state"] for link in links}
    assert all("is there" in link["text"] for link in links)


def test_queued_task_names_who_holds_what_it_needs(folder: Path) -> None:
    holder = until_there.options(resources={"tool": 1}).remote(str(folder / "go"))
    began(folder / "go")
    ref = takes.options(resources={"tool": 1}).remote()

    until(lambda: [link for link in nbray.why(ref).links if link["kind"] == "resources"], "it waits")
    links = nbray.why(ref).links

    (busy,) = [link for link in links if link["kind"] == "resources"]
    assert [each["task"] for each in busy["facts"]["holders"]] == ["until_there"]
    assert "1 tool" in busy["text"]
    (folder / "go").touch()
    assert nbray.get([holder, ref], timeout=10) == [str(folder / "go"), 1]


def test_worker_explains_what_its_own_tasks_wait_for(folder: Path) -> None:
    @nbray.remote
    def asks(path: str) -> Any:
        ref = takes.remote(until_there.remote(path))
        until(Path(path + ".began").exists, "the child began")
        links = nbray.why(ref).links
        Path(path).touch()
        nbray.get(ref)
        return [(link["kind"], link["name"]) for link in links if link["kind"] == "task"]

    assert nbray.get(asks.remote(str(folder / "go")), timeout=20) == [
        ("task", "takes"),
        ("task", "until_there"),
    ]


def test_infeasible_task_says_what_the_node_has_in_a_warning_and_in_the_chain() -> None:
    with pytest.warns(RuntimeWarning, match="GPU") as caught:  # noqa: PT031  (it comes while we wait)
        refs = [takes.options(num_gpus=2).remote() for _ in range(50)]
        nbray.wait(refs, timeout=0.5)
        link = last(refs[0])

    assert (link["kind"], link["state"]) == ("resources", "infeasible")
    assert "2 GPU; this node has 0 GPU" in link["text"]
    assert len(caught) == 1


def test_infeasible_task_of_a_task_is_told_in_the_driver() -> None:
    @nbray.remote
    def parent() -> int:
        return len(nbray.wait([takes.options(resources={"pears": 3}).remote()], timeout=0.5)[0])

    with pytest.warns(RuntimeWarning, match="3 pears"):
        assert nbray.get(parent.remote(), timeout=10) == 0


@pytest.mark.slow
def test_parent_that_waits_long_for_its_child_is_no_cycle(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    @nbray.remote
    def parent(path: str) -> Any:
        return nbray.get(until_there.remote(path))

    ref = parent.remote(str(folder / "go"))
    nbray.wait([ref], timeout=5.0)
    (folder / "go").touch()

    assert nbray.get(ref, timeout=10) == str(folder / "go")
    assert [str(warning.message) for warning in recwarn] == []


def test_only_references_can_be_asked_about() -> None:
    with pytest.raises(TypeError, match="reference"):
        nbray.why([nbray.put(1)])  # type: ignore[arg-type]
