"""Unix sockets: private listeners, checked peers, descriptors that travel along.

Called by:  runtime, node, worker, cluster.
Imports:    nbray.model.
Never:      listens on TCP, or accepts a peer of another user.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from nbray.model.errors import RayConnectionError, SessionStartError
from nbray.model.limits import SOCKET_PATH_MAX_BYTES

_UCRED = struct.Struct("3i")
_BUFFER_BYTES = 1 << 20


def listen(path: Path) -> socket.socket:
    """A non-blocking listener, mode 0600 whatever the umask.

    The mode is set on the descriptor before ``bind`` makes the file, so that it never exists with
    a wider one.

    Raises:
        SessionStartError: the path is longer than the kernel takes.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise SessionStartError(
            f"The socket path {path} is longer than the {SOCKET_PATH_MAX_BYTES} bytes that Linux "
            "allows. Set TMPDIR or temp_dir to a shorter directory."
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def connect(path: str, timeout_s: float = 5.0) -> socket.socket:
    """Connect to a listener of the same user; the socket comes back non-blocking."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
        check_peer(sock)
    except BaseException:
        sock.close()
        raise
    return tuned(sock)


def tuned(sock: socket.socket) -> socket.socket:
    """Non-blocking, with buffers that hold a full pipeline of small tasks."""
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return sock


def check_peer(sock: socket.socket) -> int:
    """PID of the process at the other end.

    Raises:
        RayConnectionError: it belongs to another user (root may always connect).
    """
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid not in (os.getuid(), 0):
        raise RayConnectionError(
            f"A process of user {uid} (pid {pid}) tried to talk to this session of user {os.getuid()}."
        )
    return int(pid)


def send_with_descriptors(sock: socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send one small frame with file descriptors attached; for the first message of a conversation."""
    sent = socket.send_fds(sock, [data], descriptors)
    if sent != len(data):
        sock.sendall(data[sent:])


def receive_with_descriptors(sock: socket.socket, size: int, count: int) -> tuple[bytes, list[int]]:
    data, descriptors, _flags, _address = socket.recv_fds(sock, size, count)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return data, descriptors
