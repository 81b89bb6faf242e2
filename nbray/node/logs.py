"""What workers write: into files of the session, and on to the driver.

Called by:  node.workers (pipes), node.daemon (LogLines of workers).
Imports:    the standard library.
Never:      blocks a worker: the pipes are read whenever the loop turns; files are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

_READ_BYTES = 64 * 1024
_LINE_MAX_BYTES = 64 * 1024
_FILE_MAX_BYTES = 16 * 1024 * 1024
#: Enough for all frames of a crash: ``node.last_words`` picks from them.
_TAIL_LINES = 160
_TAIL_LINE_MAX = 1000


class LogFile:
    """One worker's log. When it is full it becomes ``.1``, and what was that before is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._fd = -1
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def write(self, stream: str, lines: list[str]) -> None:
        if stream == "stderr":
            self.tail.extend([line[:_TAIL_LINE_MAX] for line in lines[-_TAIL_LINES:]])
        if self._fd < 0:  # most workers never write anything
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # a full disk must not end the work
            self._size += os.write(self._fd, data)
        if self._size > _FILE_MAX_BYTES:
            self.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._size = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PipeReader:
    """Splits what arrives on a pipe into lines.

    Args:
        on_lines: takes whole lines, decoded; bytes that are not UTF-8 come as escapes.
        on_end: told when nobody can write any more.
    """

    def __init__(
        self, fd: int, on_lines: Callable[[list[str]], None], on_end: Callable[[], object] = lambda: None
    ) -> None:
        self._fd = fd
        self._on_lines = on_lines
        self._on_end = on_end
        self._partial = b""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self.read)

    def read(self) -> bool:
        """Take what is there. False when there was nothing, or the pipe has ended."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.close()
            self._on_end()
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LINE_MAX_BYTES:
            lines.append(self._partial)
            self._partial = b""
        if lines:
            self._on_lines([line.decode("utf-8", "backslashreplace") for line in lines])
        return True

    def drain(self) -> None:
        """The writer is dead: read the rest. Bounded, for its children may write on."""
        for _ in range(64):
            if not self.read():
                break
        if self._partial:
            line, self._partial = self._partial, b""
            self._on_lines([line.decode("utf-8", "backslashreplace")])

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
