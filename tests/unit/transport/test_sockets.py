"""Unix sockets: private from the first moment, with peers that are who they say.

Called by:  pytest.
Imports:    nbray.transport.sockets.
Never:      listens anywhere but in a temporary folder.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from nbray.model.errors import RayConnectionError, SessionStartError
from nbray.model.limits import SOCKET_PATH_MAX_BYTES
from nbray.transport.sockets import (
    check_peer,
    connect,
    listen,
    receive_with_descriptors,
    send_with_descriptors,
    tuned,
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


# --- listening -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_listener_is_for_its_user_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        listener = listen(tmp_path / "s")
    finally:
        os.umask(before)

    with listener:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_a_listener_does_not_block_and_is_not_inherited(tmp_path: Path) -> None:
    with listen(tmp_path / "s") as listener:
        assert not listener.getblocking()
        assert not listener.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_path_that_the_kernel_would_not_take_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / ("x" * SOCKET_PATH_MAX_BYTES)

    with pytest.raises(SessionStartError, match=r"longer than the 107 bytes.*temp_dir"):
        listen(path)


def test_the_longest_path_is_taken(tmp_path: Path) -> None:
    room = SOCKET_PATH_MAX_BYTES - len(os.fsencode(tmp_path)) - 1
    if room < 1:
        pytest.skip(f"{tmp_path} is longer than a socket path may be")
    path = tmp_path / ("x" * room)

    with listen(path):
        assert path.is_socket()


def test_a_path_in_use_is_refused_and_nothing_is_left_open(tmp_path: Path) -> None:
    with listen(tmp_path / "s"), pytest.raises(OSError, match="in use"):
        listen(tmp_path / "s")


# --- connecting ------------------------------------------------------------------------------------------


def test_both_ends_know_each_other(tmp_path: Path) -> None:
    with listen(tmp_path / "s") as listener, connect(str(tmp_path / "s")) as client:
        server, _address = listener.accept()
        with server:
            assert check_peer(server) == check_peer(client) == os.getpid()


def test_a_connection_does_not_block_and_holds_a_pipeline(tmp_path: Path) -> None:
    with listen(tmp_path / "s"), connect(str(tmp_path / "s")) as client:
        assert not client.getblocking()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 200_000


@pytest.mark.parametrize("name", ["nobody", "was here"])
def test_a_connection_to_nobody_is_refused_and_nothing_is_left_open(tmp_path: Path, name: str) -> None:
    if name == "was here":
        listen(tmp_path / name).close()

    with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        connect(str(tmp_path / name))


class Foreign:
    """A socket whose other end belongs to somebody else."""

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def getsockopt(self, *_which: int) -> bytes:
        return struct.pack("3i", 4321, self.uid, 0)


def test_another_user_is_refused_by_name() -> None:
    stranger = cast("socket.socket", Foreign(os.getuid() + 1))

    with pytest.raises(RayConnectionError, match=rf"user {os.getuid() + 1} \(pid 4321\)"):
        check_peer(stranger)


@pytest.mark.parametrize("uid", [0, os.getuid()])
def test_root_and_we_ourselves_may_connect(uid: int) -> None:
    assert check_peer(cast("socket.socket", Foreign(uid))) == 4321


# --- descriptors -----------------------------------------------------------------------------------------


def test_descriptors_travel_with_their_message(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    left, right = pair
    (tmp_path / "file").write_text("content")
    with (tmp_path / "file").open() as file:
        send_with_descriptors(left, b"here", [file.fileno()])

        data, (fd,) = receive_with_descriptors(right, 100, 4)

        assert data == b"here"
        assert os.path.sameopenfile(fd, file.fileno())
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_a_message_without_descriptors_arrives_as_well(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    send_with_descriptors(left, b"alone", [])

    assert receive_with_descriptors(right, 100, 4) == (b"alone", [])


def test_the_end_of_the_conversation_is_empty(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.close()

    assert receive_with_descriptors(right, 100, 4) == (b"", [])


def test_tuning_returns_the_same_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    assert tuned(pair[0]) is pair[0]
