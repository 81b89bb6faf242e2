"""A descriptor that is closed when nobody refers to it any more.

Called by:  store.{arena,mapping,spill_file,disk_jobs}, runtime.writing.
Imports:    the standard library.
Never:      closes a descriptor that a thread still uses.
"""

from __future__ import annotations

import fcntl
import os


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
