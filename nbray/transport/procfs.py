"""What the kernel tells of processes: whether they run, what they use, how they are called.

Called by:  node.{watching,memory_watch,waits}.
Imports:    the standard library, transport.linux.
Never:      fails because a process went away meanwhile: it is nothing, and uses nothing, then.
"""

from __future__ import annotations

import heapq
import os
from pathlib import Path
from typing import NamedTuple

from nbray.transport import linux

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """``state`` is a letter: R runs, S sleeps, D waits for a device, T is stopped, Z is dead."""

    state: str
    cpu_s: float


def process(pid: int) -> Process | None:
    """How a process is now; None if it is gone."""
    fields = linux.stat_fields(pid)
    return (
        Process(fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_S) if len(fields) > 12 else None
    )


def private_bytes(pid: int) -> int:
    """Memory that nobody shares with a process, and that its end would free; with all its descendants."""
    return sum(anonymous_bytes(each) for each in (pid, *linux.descendants_of(pid)))


def anonymous_bytes(pid: int) -> int:
    """The same, without descendants; with what it was forked with and has not written to since."""
    for line in _text(pid, "status").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def private_bytes_of_self() -> int:
    """The same of this process, without descendants; a tenth of the work."""
    words = _text("self", "statm").split()
    return (int(words[1]) - int(words[2])) * _PAGE_BYTES if len(words) > 2 else 0


def largest(number: int) -> list[tuple[str, int, int]]:
    """The processes with the largest resident memory: name, PID, bytes. Looks at every one there is."""
    sizes = ((_resident_bytes(int(entry)), int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    found = heapq.nlargest(number, sizes)
    return [(_text(pid, "comm").strip(), pid, size) for size, pid in found if size]


def _resident_bytes(pid: int) -> int:
    words = _text(pid, "statm").split()
    return int(words[1]) * _PAGE_BYTES if len(words) > 1 else 0


def _text(pid: int | str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
