"""Values that init and shutdown return."""

from __future__ import annotations

import copy
import pickle

import pytest

from nbray.observe import renderer
from nbray.observe.cards import SessionInfo, Stopped


@pytest.fixture
def info() -> SessionInfo:
    return SessionInfo(
        {"redis_address": "unix:/run/s/redis.sock", "session_dir": "/run/s<1>"},
        nodes=1,
        resources={"CPU": 40_000},
        settings={"num_cpus": 4},
        store_capacity_bytes=2 << 30,
        redis_origin="path",
    )


def test_a_session_is_the_classic_dict(info: SessionInfo) -> None:
    assert isinstance(info, dict)
    assert info["redis_address"] == "unix:/run/s/redis.sock"
    assert dict(info) == {"redis_address": "unix:/run/s/redis.sock", "session_dir": "/run/s<1>"}


def test_a_session_shows_itself_in_fixed_text(info: SessionInfo) -> None:
    assert repr(info) == str(info) == "nbray: 1 node, 4 CPUs"


def test_a_session_tells_people_where_its_logs_are(info: SessionInfo) -> None:
    assert info.describe().splitlines() == [
        "nbray: 1 node, 4 CPUs",
        "  store      2 GiB",
        "  redis      server found on PATH",
        "  logs       /run/s<1>",
    ]
    page = info._repr_html_()
    assert page is not None
    assert "/run/s&lt;1&gt;" in page


def test_a_session_without_more_facts_is_one_line() -> None:
    assert SessionInfo({}, nodes=1, resources={}).describe() == "nbray: 1 node, 0 CPUs"


def test_a_session_can_be_copied_and_pickled_with_its_facts(info: SessionInfo) -> None:
    for twin in (copy.copy(info), pickle.loads(pickle.dumps(info))):
        assert type(twin) is SessionInfo
        assert twin == info
        assert twin.describe() == info.describe()
        assert twin.settings == {"num_cpus": 4}


def test_a_shutdown_is_a_number_whose_text_is_fixed() -> None:
    stopped = Stopped(7)

    assert stopped == 7
    assert repr(stopped) == str(stopped) == "nbray: stopped"
    assert "7 ended" in (stopped._repr_html_() or "")
    assert "7 ended" in stopped.describe()


def test_a_shutdown_of_nothing_says_so() -> None:
    assert repr(Stopped(0)) == "nbray: was not running"
    assert "ended" not in (Stopped(0)._repr_html_() or "")


def test_text_mode_has_no_cards(info: SessionInfo) -> None:
    renderer.choose("text")

    assert info._repr_html_() is None
    assert Stopped(1)._repr_html_() is None
