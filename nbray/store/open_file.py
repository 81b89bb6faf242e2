"""Files without a name, and descriptors that are closed when nobody refers to them any more.

Called by:  store.{arena,mapping,spill_file,disk_jobs}, runtime.writing.
Imports:    the standard library.
Never:      closes a descriptor that a thread still uses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path

_NO_SUCH_FLAG = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class OpenFile:
    """A descriptor of its own for an open file.

    Closed not sooner than nobody refers to it: another thread may be writing through it, and the number
    would soon be another file's.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = -1
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def nameless_file(directory: str | Path) -> int:
    """The descriptor of a new file, for this user alone, that nobody can open by a name.

    Raises:
        OSError: the directory is missing, or nothing may be written there.
    """
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in _NO_SUCH_FLAG or not Path(directory).is_dir():
            raise
    path = Path(directory) / f"nbray-{secrets.token_hex(8)}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd
