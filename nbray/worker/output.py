"""What a task prints: whole lines, tagged with the task, on their way to the driver.

Called by:  worker.executor.
Imports:    nbray.wire.
Never:      raises into user code because somebody does not read; output of C code goes past here,
            to the pipe on descriptors 1 and 2.
"""

from __future__ import annotations

import io
from collections.abc import Callable

_LINE_MAX = 64 * 1024
_BATCH_MAX = 1024 * 1024


class TaskStream(io.TextIOBase):
    """Stands in for ``sys.stdout`` or ``sys.stderr``.

    Args:
        name: "stdout" or "stderr".
        fd: where ``fileno`` and ``buffer`` point.
        emit: takes the stream's name and a list of whole lines.
    """

    def __init__(self, name: str, fd: int, emit: Callable[[str, list[str]], None]) -> None:
        super().__init__()
        self._name = name
        self._fd = fd
        self._emit = emit
        self._partial = ""
        self.is_used = False  # since ``end_of_task``
        self._is_cut = False  # what came before ``_partial`` on its line was too long to keep
        self.buffer = io.FileIO(fd, "w", closefd=False)

    @property
    def name(self) -> str:
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute here
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.is_used = True
        self._partial += text
        if "\n" in text or len(self._partial) > _LINE_MAX:
            *lines, self._partial = self._partial.split("\n")
            if self._is_cut and lines:
                self._is_cut = False
                if not lines[0]:  # the end of a line that went out before
                    del lines[0]
            if len(self._partial) > _LINE_MAX:
                lines.append(self._partial)
                self._partial = ""
                self._is_cut = True
            self._send(lines)
        return len(text)

    def end_of_task(self) -> None:
        """A last line without an end is a line."""
        if self._partial:
            lines, self._partial = [self._partial], ""
            self._send(lines)
        self._is_cut = self.is_used = False

    def _send(self, lines: list[str]) -> None:
        batch: list[str] = []
        size = 0
        for line in lines:
            for at in range(0, len(line) or 1, _BATCH_MAX):
                # Lone surrogates would not encode; show them as escapes instead.
                batch.append(line[at : at + _BATCH_MAX].encode("utf-8", "backslashreplace").decode())
                size += len(batch[-1]) + 1
                if size > _BATCH_MAX:  # one frame must not grow beyond what the wire takes
                    self._emit(self._name, batch)
                    batch, size = [], 0
        if batch:
            self._emit(self._name, batch)
