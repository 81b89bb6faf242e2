"""Session directories: private, short, and gone when their session is.

Called by:  cluster.launch.
Imports:    nbray.model.
Never:      trusts a directory that others could have made or can write to.

While a session lives its processes hold a shared lock on ``<session>/lock``. A directory whose lock can
be had exclusively belongs to nobody any more: the next ``init`` removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

from nbray.model.errors import SessionStartError, SocketPathError
from nbray.model.limits import SOCKET_PATH_MAX_BYTES

PREFIX = "nbray-"
_LONGEST_NAME = "/nbray-00000000/w-00000000"


class SessionDir:
    """A new session directory, 0700, and this process's lock on it."""

    def __init__(self, parent: str | None = None) -> None:
        base = _parent(parent)
        remove_stale(base)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self.path.chmod(0o700)
        (self.path / "logs").mkdir(mode=0o700)
        self.token = os.urandom(32)
        # It gets its name when it is locked: between, another driver's ``remove_stale`` would find it free.
        unnamed = self.path / "lock.new"
        self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(self._lock, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        unnamed.rename(self.path / "lock")
        self._write_token()

    def _write_token(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path / "token", flags, 0o600)
        os.fchmod(fd, 0o600)
        os.write(fd, self.token)
        os.close(fd)

    def release(self) -> None:
        """Give the lock up, and remove what the daemon left."""
        self.abandon()
        shutil.rmtree(self.path, ignore_errors=True)

    def abandon(self) -> None:
        """Give the lock up and leave the rest: a forked child must not keep a dead session's directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _parent(chosen: str | None) -> Path:
    """Where sessions live: what the user says, $XDG_RUNTIME_DIR, else the temporary directory.

    Raises:
        SocketPathError: what the user says is too long for a socket in it.
        SessionStartError: none of them is usable; says why.
    """
    if chosen and _is_too_long(Path(chosen)):
        raise SocketPathError(
            f"temp_dir {chosen} is too long for a unix socket, whose path may have {SOCKET_PATH_MAX_BYTES} "
            "bytes. Choose a shorter one."
        )
    if chosen:
        with contextlib.suppress(OSError):  # what is wrong with it, the checks below say
            os.mkdir(chosen, 0o700)
    problems = []
    for path in [Path(chosen)] if chosen else _usual_parents():
        problem = _problem(path)
        if not problem:
            return path
        problems.append(f"{path} {problem}")
    raise SessionStartError(
        "There is no place for the session's sockets: " + "; ".join(problems) + ". Set TMPDIR or temp_dir."
    )


def _usual_parents() -> list[Path]:
    candidates = (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp")  # noqa: S108  # last resort
    return [Path(candidate) for candidate in dict.fromkeys(candidates) if candidate]


def _is_too_long(path: Path) -> bool:
    return len(os.fsencode(path)) + len(_LONGEST_NAME) > SOCKET_PATH_MAX_BYTES


def _problem(path: Path) -> str:
    if _is_too_long(path):
        return "is too long for a unix socket"
    try:
        info = path.stat()
    except OSError as exc:
        return f"cannot be used ({exc.strerror})"
    if not stat.S_ISDIR(info.st_mode) or not os.access(path, os.W_OK | os.X_OK):
        return "is not a directory that this user can write to"
    shared = info.st_mode & 0o022
    if shared and not info.st_mode & stat.S_ISVTX:
        return "can be written to by others, who could replace the session"
    if info.st_uid not in (0, os.getuid()):
        return f"belongs to user {info.st_uid}"
    return ""


def living(parents: list[Path] | None = None) -> list[Path]:
    """The directories of this user's sessions that run now, in the usual places or in these."""
    found = []
    for base in _usual_parents() if parents is None else parents:
        for path in sorted(base.glob(PREFIX + "*")):
            with contextlib.suppress(OSError):
                if not path.is_symlink() and path.lstat().st_uid == os.getuid() and not _is_stale(path):
                    found.append(path)
    return found


def remove_stale(base: Path) -> int:
    """Remove this user's session directories that no process holds; returns how many."""
    removed = 0
    for path in base.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.lstat().st_uid != os.getuid():
                continue
            if _is_stale(path):
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
    return removed


def _is_stale(path: Path) -> bool:
    # A directory without a lock is somebody's that is just being made, or not a session's at all.
    fd = os.open(path / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
