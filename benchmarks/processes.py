"""Facts about processes from /proc: who descends from whom, what memory they hold, when they are gone.

Called by:  benchmarks.workloads in the child, benchmarks.runner in the parent.
Imports:    light parts of the standard library.
Never:      signals a process that does not descend from the one it was asked about.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import NamedTuple


class Process(NamedTuple):
    """One process; pid and start tick together name it for good, since pids come back."""

    pid: int
    started_ticks: int
    name: str
    state: str


def of(pid: int) -> Process | None:
    """The process with this pid now."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    # The name stands in brackets and may itself hold brackets and blanks.
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[19]), text[text.index("(") + 1 : text.rindex(")")], fields[0])


def descendants(pid: int) -> list[Process]:
    """Children, their children, and so on, zombies included."""
    found: list[Process] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children = file.read().split()
        except OSError:
            continue
        for child in map(int, children):
            if (process := of(child)) is not None:
                found += [process, *descendants(child)]
    return found


def contenders_own() -> list[Process]:
    """Called in the driver: all living processes that its contender started.

    The runner above the driver is a subreaper and starts one driver at a time, so that what detached
    itself is found, too.
    """
    return [p for p in descendants(os.getppid()) if p.pid != os.getpid() and p.state != "Z"]


def command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def pss_bytes(pid: int) -> dict[str, int]:
    """Proportional set size: ``Pss``, and its parts ``Pss_Anon``, ``Pss_File``, ``Pss_Shmem``."""
    sizes: dict[str, int] = {}
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss"):
                    key, size = line.split()[:2]
                    sizes[key.rstrip(":")] = int(size) * 1024
    except OSError:  # it ended
        return {}
    return sizes


def total_pss_bytes(pids: list[int], part: str = "Pss") -> int:
    return sum(pss_bytes(pid).get(part, 0) for pid in pids)


def resident_bytes() -> int:
    """RSS of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def shared_memory_bytes() -> int:
    """All pages of memfds and tmpfs on this machine, mapped or not."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("Shmem:"):
                return int(line.split()[1]) * 1024
    return 0


def wait_until_gone(processes: list[Process], deadline_s: float) -> list[Process]:
    """Wait for the end of processes that need not be children; returns those that stay.

    Args:
        processes: whom to wait for.
        deadline_s: on the clock of ``time.monotonic``.
    """
    left = []
    for process in processes:
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:  # gone
            continue
        try:
            now = of(process.pid)
            if now is None or now.started_ticks != process.started_ticks:
                continue
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                left.append(process)
        finally:
            os.close(pidfd)
    return left


def become_subreaper() -> None:
    """Descendants of this process whose parents end become its children."""
    import ctypes

    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_descendants(grace_s: float) -> list[str]:
    """Wait for what a finished driver left below this process, then kill it.

    Returns:
        The names of the processes that had to be killed.
    """
    deadline_s = time.monotonic() + grace_s
    wait_until_gone([p for p in descendants(os.getpid()) if p.state != "Z"], deadline_s)
    killed: list[str] = []
    for _ in range(50):  # a process may start another one while it is being killed
        found = descendants(os.getpid())
        alive = [p for p in found if p.state != "Z"]
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            killed.append(process.name)
        wait_until_gone(alive, time.monotonic() + 5)
        _reap(found)
        if not found:
            break
    return killed


def _reap(found: list[Process]) -> None:
    for process in found:
        with contextlib.suppress(
            ChildProcessError
        ):  # somebody else's child; it comes to us when that one ends
            os.waitpid(process.pid, os.WNOHANG)
