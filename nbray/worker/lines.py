"""Lines that tasks print, numbered, on their way to the driver.

Called by:  worker.executor.
Imports:    runtime.{context,process}, wire.
Never:      waits: the answer of a task says how many batches of lines belong before it (runtime.log_order).
"""

from __future__ import annotations

import os

from nbray.runtime.context import TaskContext
from nbray.runtime.process import Process
from nbray.wire.messages import LogLines


class Lines:
    """Of one worker. ``sequence`` counts the batches."""

    def __init__(self, process: Process) -> None:
        self.sequence = 0
        self._process = process

    def print(self, stream: str, lines: list[str]) -> None:
        """Send what the running task printed."""
        self.send(self._process.context, stream, lines)

    def send(self, context: TaskContext, stream: str, lines: list[str]) -> int:
        """Send what the task of this context printed; returns the number of the batch."""
        process = self._process
        with process.loop.lock:
            self.sequence += 1
            process.tell_daemon(
                LogLines(
                    process.process_id, os.getpid(), context.name, stream, self.sequence, context.cell, lines
                )
            )
            return self.sequence
