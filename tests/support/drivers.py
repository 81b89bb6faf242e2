"""Drivers in processes of their own, for tests that kill or question them.

Called by:  integration tests.
Imports:    the standard library, tests.support.procfs.
Never:      leaves a driver running: it ends with the ``with`` block.

A driver is a script. What it wants the test to know it prints, one JSON value a line, by ``tell``;
what it waits for comes on its standard input, a line each, by ``hear``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support import procfs

ROOT = Path(__file__).resolve().parents[2]
SESSION_MARK = "NBRAY_SESSION"

_PREAMBLE = """\
import json, os, signal, subprocess, sys, time
import nbray
def tell(value=None):
    os.write(1, (json.dumps(value) + "\\n").encode())
def hear():
    return sys.stdin.readline().strip()
"""


class Driver:
    """One running script. ``pid`` is the driver's."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._unread = b""
        self.pid = process.pid

    def told(self, within_s: float = 20.0) -> Any:
        """The next value that the script tells.

        Raises:
            AssertionError: it ended before, or took too long.
        """
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline_s = time.monotonic() + within_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))
            assert ready, f"the driver said nothing for {within_s:g} s"
            data = os.read(fd, 65536)
            assert data, f"the driver ended (code {self._process.wait(5)}) before it said anything more"
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def say(self, word: str = "") -> None:
        """Let the script go on from ``hear``."""
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, also wait for the end of this one process."""
        self._process.send_signal(sig)
        if sig == signal.SIGKILL:
            self._process.wait(5)

    def ended(self, within_s: float = 20.0) -> int:
        """Wait for the driver's end; its exit code, or minus the signal."""
        return self._process.wait(within_s)

    def close(self) -> None:
        """End it, if it runs, and its pipes."""
        self._process.kill()
        self._process.wait(5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@contextlib.contextmanager
def driver(
    script: str, *, env: Mapping[str, str] | None = None, new_session: bool = False
) -> Iterator[Driver]:
    """Run a script that has ``nbray``, ``tell`` and ``hear``.

    Args:
        script: Python, indented as you like.
        env: set beside this process's own variables.
        new_session: give it a process group of its own.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    process = subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + textwrap.dedent(script)],
        env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=new_session,
    )  # fmt: skip
    running = Driver(process)
    try:
        yield running
    finally:
        running.close()


def session_processes(session_dir: str) -> list[procfs.Process]:
    """Every process that carries the mark of this session, orphans included."""
    return procfs.marked(SESSION_MARK, os.path.basename(session_dir))


def is_gone(process: procfs.Process) -> bool:
    """Ended; what waits only for an orphan's new parent to collect it has ended, too."""
    now = procfs.process(process.pid)
    return now is None or now.started_ticks != process.started_ticks or now.state == "Z"


def recorded(pids: list[int]) -> list[procfs.Process]:
    """These processes as they are now, so that their end can be told from a reuse of their PID."""
    found = [procfs.process(pid) for pid in pids]
    assert all(found), f"one of {pids} has ended already"
    return [process for process in found if process]


def is_stopped(session_dir: str, before: list[procfs.Process], *, with_directory: bool = True) -> bool:
    """Nothing is left of a session: neither the processes seen before, nor others, nor its directory."""
    return (
        all(map(is_gone, before))
        and not [p for p in session_processes(session_dir) if p.state != "Z"]
        and not (with_directory and os.path.exists(session_dir))
    )


def remains(session_dir: str, before: list[procfs.Process]) -> str:
    """What ``is_stopped`` complains about, for a failure's text."""
    alive = [str(p) for p in before if not is_gone(p)]
    marked = [str(p) for p in session_processes(session_dir)]
    return f"alive: {alive}; marked: {marked}; directory: {os.path.exists(session_dir)}"


def memory_holders(inode: str) -> list[procfs.Process]:
    """Processes that map this memory file or have it open: while there is one, its pages live."""
    return [
        process
        for process in procfs.processes()
        if inode in procfs.shared_mappings(process.pid) or _has_open(process.pid, inode)
    ]


def _has_open(pid: int, inode: str) -> bool:
    for fd, link in procfs.open_fds(pid).items():
        with contextlib.suppress(OSError):
            if "memfd:" in link and str(os.stat(f"/proc/{pid}/fd/{fd}").st_ino) == inode:
                return True
    return False
