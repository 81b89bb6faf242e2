"""Does a test leave something behind? Processes, descriptors, threads, shared memory, session directories.

Called by:  tests/conftest.py for every test; notebooks/conftest.py.
Imports:    the standard library, tests.support.procfs.
Never:      fails for what was there before, or for what another program on this machine does.

Threads that C libraries start are not looked at: BLAS starts its pool at the first use and keeps it.
A process that this one forks without exec *and* that detaches by a second fork carries no mark and
has no parent here, so it escapes; nbray starts its daemon by exec.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import procfs

MARK = "NBRAY_TEST"
SETTLE_S = 2.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Watch:
    """What existed at one moment. ``mark`` names the processes that are started from then on.

    Marks of one test run begin alike, up to the first "-": processes with others are of another run.

    ``deep`` also looks for orphans through the environment of every process on the machine, which takes
    some milliseconds; without it only descendants of this process are seen.
    """

    mark: str
    deep: bool
    processes: frozenset[procfs.Process] = field(default_factory=lambda: frozenset(_family()))
    fds: dict[int, str] = field(default_factory=procfs.open_fds)
    threads: frozenset[threading.Thread] = field(default_factory=lambda: frozenset(threading.enumerate()))
    mappings: dict[str, str] = field(default_factory=procfs.shared_mappings)
    paths: frozenset[str] = field(default_factory=lambda: frozenset(_paths()))

    def new_processes(self) -> list[procfs.Process]:
        """Those alive, or unwaited for, that were started after this watch began."""
        known = {(p.pid, p.started_ticks) for p in self.processes} | {(os.getpid(), _own_start())}
        found = {(p.pid, p.started_ticks): p for p in _family()}
        if self.deep:
            found |= {(p.pid, p.started_ticks): p for p in procfs.marked(MARK, self.mark)}
        return [p for key, p in found.items() if key not in known]

    def leaks(self) -> list[str]:
        """What is there now and was not then, one line each."""
        fds = {fd: link for fd, link in procfs.open_fds().items() if self.fds.get(fd) != link}
        names = procfs.sockets() if any(link.startswith("socket:") for link in fds.values()) else {}
        mappings = {k: name for k, name in procfs.shared_mappings().items() if k not in self.mappings}
        return [
            *(f"process {p}" for p in self.new_processes()),
            *(f"fd {fd} -> {_describe(link, names)}" for fd, link in fds.items()),
            *(f"thread {t.name!r}" for t in threading.enumerate() if t not in self.threads),
            *(f"mapping of {name} (inode {inode})" for inode, name in mappings.items()),
            *(f"left on disk or in memory: {p}" for p in self._new_paths()),
        ]

    def _new_paths(self) -> list[str]:
        run = self.mark.partition("-")[0]
        return [path for path in _paths() - self.paths if not _used_by_others(path, run)]

    def settled_leaks(self, settle_s: float = SETTLE_S) -> list[str]:
        """The leaks that remain after ``settle_s`` seconds; returns at once when there are none."""
        if not (found := self.leaks()):
            return []
        gc.collect()  # costs more than the rest of the check, hence only now
        deadline_s = time.monotonic() + settle_s
        while (found := self.leaks()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return found

    def end_processes(self) -> None:
        """Kill what was left running, so that one leak fails one test."""
        for process in self.new_processes():
            now = procfs.process(process.pid)
            if now and now.started_ticks == process.started_ticks and now.state != "Z":
                os.kill(process.pid, signal.SIGKILL)


def report(leaks: list[str]) -> str:
    """The sentence a failing test shows."""
    lines = "".join(f"\n  - {leak}" for leak in leaks)
    return f"{len(leaks)} leaked and still there after {SETTLE_S:g} s:{lines}"


def _family() -> list[procfs.Process]:
    return procfs.descendants(os.getpid())


def _own_start() -> int:
    myself = procfs.process(os.getpid())
    assert myself is not None
    return myself.started_ticks


def _describe(link: str, sockets: dict[str, str]) -> str:
    if link.startswith("socket:["):
        return f"{link}, {sockets.get(link[8:-1], 'connected or other socket')}"
    return link


def _paths() -> set[str]:
    """Session directories and named shared memory."""
    found = {str(path) for path in Path(tempfile.gettempdir()).glob("nbray-*")}
    if runtime_dir := os.environ.get("XDG_RUNTIME_DIR"):
        found |= {str(path) for path in Path(runtime_dir).glob("nbray*")}
    try:
        found |= {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
    except OSError:
        pass
    return found


def _used_by_others(path: str, run: str) -> bool:
    """Does a process that is none of ours hold this path open, mapped or as its folder?

    Temporary folders and /dev/shm are shared with other programs, among them other sessions of nbray and
    other runs of these tests. ``run``: how the marks of this one begin.
    """
    ours = {process.pid for process in _family()} | {os.getpid()}
    for process in procfs.processes():
        if process.pid not in ours and not _is_marked(process.pid, run) and _uses(process.pid, path):
            return True
    return False


def _is_marked(pid: int, run: str) -> bool:
    try:
        return f"{MARK}={run}-".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def _uses(pid: int, path: str) -> bool:
    links = list(procfs.open_fds(pid).values())
    try:
        links.append(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        pass
    return any(link == path or link.startswith(path + "/") for link in links) or any(
        name.startswith(path) for name in procfs.shared_mappings(pid).values()
    )
