"""Everything bound to the Linux kernel that is not a socket: death signals, subreapers, pidfds.

Called by:  node, worker, cluster, runtime.bulk_copy.
Imports:    the standard library.
Never:      is imported on a platform check's behalf: ``require_linux`` comes first there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def is_supported() -> bool:
    """True where the runtime can work: Linux (also WSL2) with pidfds and memfds."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(os, "memfd_create")


def _prctl(option: int, value: int) -> None:
    assert _libc is not None
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Ask the kernel to send ``sig`` to this process when the *thread* that is its parent ends.

    Only for children of a process whose main thread forked (the daemon's): a child of a notebook's
    worker thread would die with that thread.
    """
    _prctl(_PR_SET_PDEATHSIG, sig)


def become_subreaper() -> None:
    """Orphaned descendants become children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def start_time_of(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; tells a reused PID. None if it is gone."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else None


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on (the second, a name, may hold spaces)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def umask_of(pid: int) -> int:
    """File mode creation mask of a process. (``os.umask`` can only tell it by changing it.)"""
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "Umask":
            return int(value, 8)
    return 0o022


def is_zombie(pid: int) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] == "Z"


def children_of(pid: int) -> list[int]:
    """Direct children, zombies included."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


def descendants_of(pid: int) -> list[int]:
    """All descendants, parents before children."""
    found = children_of(pid)
    at = 0
    while at < len(found):
        found += children_of(found[at])
        at += 1
    return found


def kill_quietly(pid: int, sig: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sig)


def kill_all_descendants(deadline_s: float = 2.0) -> int:
    """SIGKILL every descendant of this process and reap them; returns how many were still there.

    For a subreaper: as parents die their children arrive here, so it goes round until none is left.
    """
    killed: set[int] = set()
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        alive = descendants_of(os.getpid())
        if not alive:
            break
        for pid in alive:
            if not is_zombie(pid):
                killed.add(pid)
                kill_quietly(pid)
        reap_children()
        time.sleep(0.002)
    return len(killed)


def reap_children() -> list[tuple[int, int]]:
    """Collect every child that has ended: pairs (pid, wait status)."""
    ended: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status))
    return ended


def processes_marked(name: str, value: str) -> list[int]:
    """Processes of this user that started with ``name=value`` in their environment."""
    mark = f"{name}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            if mark in environ.split(b"\0"):
                found.append(int(entry))
    return found


def set_process_title(title: str) -> None:
    """Name shown by ``ps -o comm`` and ``top``: at most 15 bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(title[:15])


def raise_oom_score(score: int = 800) -> None:
    """Make the kernel's out-of-memory killer prefer this process (raising needs no privilege)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))


def keep_off_this_core(thread_id: int) -> None:
    """Let a thread of this process run anywhere but on the core that the caller is on.

    For a helper that is to work at the same time: when the machine was idle a moment ago, the kernel likes
    to put both on one core, and moves one away only after milliseconds. Does nothing where there is one.
    """
    if _libc is None:  # local mode works everywhere
        return
    allowed = os.sched_getaffinity(0)
    others = allowed - {_libc.sched_getcpu()}
    if others and len(others) < len(allowed):
        with contextlib.suppress(OSError):  # the thread is over already
            os.sched_setaffinity(thread_id, others)
