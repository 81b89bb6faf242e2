"""How much memory the store may still take, on this machine and inside its memory cgroups.

Called by:  node (default capacity, ``available`` for the store server, ``levels`` for who watches).
Imports:    core.memory_watch for the type of a level.
Never:      takes memory, caches a reading.

A container's limit is invisible in /proc/meminfo, and an allocation beyond it is answered by
SIGKILL. So every level is asked: the machine, and each memory cgroup from ours up to the root of
what we can see, version 1 or 2. Page cache that the kernel would drop first (``inactive_file``)
counts as free. At every level a reserve stays untouched, for the processes that do the work.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, filesystems/proc.rst
(mountinfo).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nbray.core.memory_watch import Level
from nbray.model.limits import STORE_MIN_BYTES

#: The reserve is this, or this share of the level's total where that is more.
RESERVE_MIN_BYTES = 64 * 1024 * 1024
RESERVE_SHARE = 0.05

#: A store takes this share of what is available when the user names no size.
DEFAULT_SHARE = 0.3

_PAGE_BYTES = 4096
#: Version 1 writes "no limit" as the largest page-aligned number.
_UNLIMITED_FROM = 1 << 60


class _Names(NamedTuple):
    """The files of one cgroup version."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # key in memory.stat
    events: str


# memory.high does not kill but throttles to a crawl, which is no better for a notebook.
_V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file", "memory.events")
_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")


class MemoryBudget:
    """Reads the limits under ``root``, which is ``/`` except in tests.

    The directories of the cgroups are looked up once; their figures are read at every call.

    Raises:
        OSError: no readable /proc/meminfo. Cgroup files that are missing count as no limit.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._meminfo = root / "proc/meminfo"
        self._vmstat = root / "proc/vmstat"
        self._cgroups = list(_memory_cgroups(root))
        self._meminfo.read_bytes()

    def available(self) -> int:
        """Bytes that may be taken now: the least over all levels, reserves left out, never negative."""
        return max(0, min(self._rooms()))

    def default_capacity(self) -> int:
        """Size in bytes of a store that the user gave no size, in whole pages.

        At least the smallest store that is accepted, unless not even that much may be taken: then
        all that may, and the caller refuses.
        """
        available = self.available()
        capacity = int(available * DEFAULT_SHARE)
        if capacity < STORE_MIN_BYTES:
            capacity = min(STORE_MIN_BYTES, available)
        return capacity // _PAGE_BYTES * _PAGE_BYTES

    def _rooms(self) -> Iterator[int]:
        for level in self.levels():
            yield level.limit_bytes - level.used_bytes - _reserve(level.limit_bytes)

    def levels(self) -> Iterator[Level]:
        """The machine, and each cgroup that has a limit: what is in use, and how much there is."""
        info = _table(self._meminfo.read_text())
        free, total = info.get("MemAvailable", info.get("MemFree", 0)) * 1024, info.get("MemTotal", 0) * 1024
        yield Level("the machine", total - free, total)
        for directory, names in self._cgroups:
            limits = [n for n in (_number(directory / name) for name in names.limits) if n is not None]
            usage = _number(directory / names.usage)
            if limits and usage is not None:
                reclaimable = _table(_text(directory / "memory.stat")).get(names.reclaimable, 0)
                yield Level(f"cgroup {directory.name}", usage - min(reclaimable, usage), min(limits))

    def kernel_kills(self) -> int:
        """How many processes the kernel has ended for want of memory: of our cgroups, else of the machine."""
        tables = [_table(_text(directory / names.events)) for directory, names in self._cgroups]
        counts = [table["oom_kill"] for table in tables if "oom_kill" in table]
        return sum(counts) if counts else _table(_text(self._vmstat)).get("oom_kill", 0)


def _reserve(total_bytes: int) -> int:
    return max(RESERVE_MIN_BYTES, int(total_bytes * RESERVE_SHARE))


def _memory_cgroups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """Directory of our memory cgroup and of each of its ancestors that we can see."""
    paths = dict(_own_cgroups(_text(root / "proc/self/cgroup")))
    for version, mount_root, mount_point in _cgroup_mounts(_text(root / "proc/self/mountinfo")):
        path = paths.get(version)
        if path is None:
            continue
        top = root / mount_point.lstrip("/")
        directory = top / _below(path, mount_root)
        while True:
            if directory.is_dir():
                yield directory, version
            if directory == top:
                break
            directory = directory.parent


def _own_cgroups(text: str) -> Iterator[tuple[_Names, str]]:
    """From lines ``hierarchy:controllers:path``; version 2 has number 0 and no controllers."""
    for line in text.splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            yield _V2, path
        elif "memory" in controllers.split(","):
            yield _V1, path


def _cgroup_mounts(text: str) -> Iterator[tuple[_Names, str, str]]:
    """(version, root inside the hierarchy, mount point) of each mount that has memory files."""
    for line in text.splitlines():
        mount, _, source = line.partition(" - ")
        fields, kind = mount.split(" "), source.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            yield _V2, _unescape(fields[3]), _unescape(fields[4])
        elif kind[0] == "cgroup" and "memory" in kind[-1].split(","):
            yield _V1, _unescape(fields[3]), _unescape(fields[4])


def _below(path: str, mount_root: str) -> str:
    """``path`` relative to what is mounted; "" if it lies outside, as it may in a container."""
    try:
        inside = PurePosixPath(path).relative_to(mount_root)
    except ValueError:
        return ""
    return "" if ".." in inside.parts else str(inside)


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """The limit or usage in this file; None for "max", for absurdly large, and for no file."""
    text = _text(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED_FROM else None


def _table(text: str) -> dict[str, int]:
    """Lines ``key value`` or ``key: value kB`` as numbers, units dropped."""
    rows = (line.replace(":", " ").split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) >= 2 and row[1].isdigit()}
