"""What a piece of code does, counted: calls of Python, calls into C, system calls. No clock.

Called by:  tests/integration/test_budget.py, in the driver and inside tasks.
Imports:    the standard library.
Never:      slows what it does not count: the hook is there only between ``start`` and ``stop``.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

#: C functions of ours that enter the kernel, by the names that the profiler sees.
SYSTEM_CALLS = (
    "send",
    "sendall",
    "sendmsg",
    "recv",
    "recv_into",
    "recvmsg",
    "poll",
    "write",
    "read",
    "pwrite",
)
#: A poll that only looks, while somebody spins, is followed by one of these.
LOOKS = "sched_yield"


class Count:
    """Counts in the thread that starts it."""

    def __init__(self) -> None:
        self.python = 0
        self.c = 0
        self.names: Counter[str] = Counter()

    def start(self) -> None:
        sys.setprofile(self._note)

    def stop(self) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            self.python += 1
        elif event == "c_call":
            self.c += 1
            self.names[arg.__name__] += 1

    def system_calls(self) -> int:
        """Without the looks of a thread that spins."""
        return sum(self.names[name] for name in SYSTEM_CALLS) - self.names[LOOKS]
