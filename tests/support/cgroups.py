"""A cgroup for one test: versions 1 and 2, below the cgroup that this process is in.

Called by:  tests of limits on memory and processes.
Imports:    the standard library.
Never:      changes a cgroup that it did not make, or leaves one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import until


class MemoryCgroup:
    """A group whose processes may use ``limit_bytes`` together."""

    def __init__(self, path: Path, version: int, limit_bytes: int) -> None:
        self.path = path
        self._version = version
        if version == 1:
            (path / "memory.limit_in_bytes").write_text(str(limit_bytes))
        else:
            (path / "memory.max").write_text(str(limit_bytes))
            (path / "memory.oom.group").write_text("0")

    def enter(self) -> None:
        """Move the calling process into the group; for ``preexec_fn``."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        name = "memory.oom_control" if self._version == 1 else "memory.events"
        for line in (self.path / name).read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
        return 0

    def is_empty(self) -> bool:
        """Whether no process is left in it."""
        return not (self.path / "cgroup.procs").read_text().split()


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[MemoryCgroup]:
    """Make a group and remove it when its processes have ended.

    Raises:
        OSError: memory cgroups cannot be made here.
    """
    parent, version = _own("memory")
    path = parent / f"nbray-test-{os.getpid()}"
    path.mkdir()
    try:
        group = MemoryCgroup(path, version, limit_bytes)
        yield group
        until(group.is_empty, "the cgroup's processes have ended")
    finally:
        path.rmdir()


@contextmanager
def process_cgroup(limit: int) -> Iterator[Path]:
    """Make a group whose processes and threads may be ``limit`` together, and remove it in the end.

    Raises:
        OSError: such cgroups cannot be made here.
    """
    parent, _version = _own("pids")
    path = parent / f"nbray-test-{os.getpid()}"
    path.mkdir()
    try:
        (path / "pids.max").write_text(str(limit))
        yield path
        until(lambda: not (path / "cgroup.procs").read_text().split(), "the cgroup's processes have ended")
    finally:
        path.rmdir()


def _own(controller: str) -> tuple[Path, int]:
    """This process's cgroup for a controller, and its version.

    Raises:
        OSError: there is none in the usual place.
    """
    unified = ""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return _existing(Path(f"/sys/fs/cgroup/{controller}{path}")), 1
        if not controllers:
            unified = path
    return _existing(Path(f"/sys/fs/cgroup{unified}")), 2


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not mounted here")
    return path
