"""What names a cluster to join, and what does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from nbray.api import addresses
from nbray.cluster import session
from nbray.model.errors import ClusterNotFoundError, SessionStartError

NOTHING: dict[str, str] = {}


def test_nothing_said_means_no_address() -> None:
    assert addresses.chosen(None, None, NOTHING) is None
    assert addresses.chosen(None, None, {"RAY_ADDRESS": "", "NBRAY_ADDRESS": ""}) is None


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.1:1024", "10.0.0.1:1024"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("unix:///run/x/redis.sock", "unix:///run/x/redis.sock"),
    ],
)
def test_an_address_is_host_and_port_or_a_unix_socket(said: str, understood: str) -> None:
    assert addresses.chosen(said, None, NOTHING) == understood
    assert addresses.chosen(None, said, NOTHING) == understood
    assert addresses.chosen(None, None, {"RAY_ADDRESS": said}) == understood


def test_a_host_name_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostbyname", {"head": "10.1.2.3"}.__getitem__)

    assert addresses.checked("head:6379") == "10.1.2.3:6379"


def test_a_host_that_nobody_knows_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str) -> str:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "gethostbyname", unknown)

    with pytest.raises(ConnectionError, match=r"'head:6379'.*cannot be resolved"):
        addresses.checked("head:6379")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("head", "of the form host:port"), ("a:b:1", "of the form host:port"),
        (":6379", "of the form host:port"), ("", "of the form host:port"),
        ("10.0.0.1:redis", "must be an integer"), ("10.0.0.1:", "must be an integer"),
        ("10.0.0.1:1023", "between 1024 and 65535"), ("10.0.0.1:65536", "between 1024 and 65535"),
        ("10.0.0.1:-1", "between 1024 and 65535"),
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(said: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        addresses.chosen(said, None, NOTHING)


def test_an_address_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="must be a string"):
        addresses.chosen(6379, None, NOTHING)  # type: ignore[arg-type]


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="two names of one setting"):
        addresses.chosen("10.0.0.1:6379", "10.0.0.1:6379", NOTHING)


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "NBRAY_ADDRESS"])
def test_an_address_beside_that_of_the_environment_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match=rf"\${name} says '10\.0\.0\.2:6379'"):
        addresses.chosen("10.0.0.1:6379", None, {name: "10.0.0.2:6379"})


def test_auto_takes_the_environments_and_ours_goes_first() -> None:
    both = {"RAY_ADDRESS": "10.0.0.1:6379", "NBRAY_ADDRESS": "10.0.0.2:6379"}

    assert addresses.chosen("auto", None, both) == "10.0.0.2:6379"
    assert addresses.chosen(None, None, both) == "10.0.0.2:6379"


@pytest.mark.parametrize("said", [("auto", NOTHING), (None, {"RAY_ADDRESS": "auto"})])
def test_auto_finds_the_one_session_of_this_machine(
    said: tuple[str | None, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Path] = []
    monkeypatch.setattr(session, "living", lambda: running)

    with pytest.raises(ConnectionError, match="there is none"):
        addresses.chosen(said[0], None, said[1])
    running.append(Path("/run/nbray-1"))
    assert addresses.chosen(said[0], None, said[1]) == "unix:///run/nbray-1/redis.sock"
    running.append(Path("/run/nbray-2"))
    with pytest.raises(ClusterNotFoundError, match=r"there are 2: unix:///run/nbray-1/.*nbray-2") as caught:
        addresses.chosen(said[0], None, said[1])
    assert isinstance(caught.value, SessionStartError)
