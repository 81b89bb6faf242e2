"""Session directories: which of them are in use, and where they may be."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.cluster.session import SessionDir, living
from nbray.model.errors import SessionStartError, SocketPathError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        yield Path(name)


def test_living_sessions_are_those_whose_lock_is_held(folder: Path) -> None:
    assert living([folder]) == []
    one, two = SessionDir(str(folder)), SessionDir(str(folder))
    (folder / "nbray-notes").mkdir()

    assert living([folder]) == sorted([one.path, two.path])
    one.abandon()
    assert living([folder]) == [two.path]
    two.release()
    assert living([folder]) == []
    one.release()


def test_a_place_that_is_missing_is_made_for_its_owner_alone(folder: Path) -> None:
    made = SessionDir(str(folder / "new"))

    assert made.path.parent == folder / "new"
    assert (folder / "new").stat().st_mode & 0o777 == 0o700
    made.release()


def test_a_place_whose_parent_is_missing_is_refused(folder: Path) -> None:
    with pytest.raises(SessionStartError, match="No such file or directory"):
        SessionDir(str(folder / "a" / "b"))


def test_a_place_too_long_for_a_socket_is_an_os_error(folder: Path) -> None:
    with pytest.raises(OSError, match="too long for a unix socket") as caught:
        SessionDir(str(folder / ("d" * 90)))

    assert isinstance(caught.value, SocketPathError)
    assert list(folder.iterdir()) == []
