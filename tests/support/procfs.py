"""Facts about processes, descriptors and sockets, read from /proc.

Called by:  tests/support/leaks.py, tests that ask whether something is gone.
Imports:    the standard library.
Never:      waits, signals a process, raises because a process ended while it was being read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"  # the state column of /proc/net/tcp


@dataclass(frozen=True)
class Process:
    """One process; pid and start tick together name it for good, since pids come back."""

    pid: int
    started_ticks: int
    ppid: int
    state: str  # one letter of ps: R, S, D, Z, ...
    name: str

    def __str__(self) -> str:
        what = "zombie, never waited for" if self.state == "Z" else command_line(self.pid) or self.name
        return f"{self.pid} ({what})"


def processes() -> list[Process]:
    """Every process that this user can see."""
    return [found for entry in os.listdir("/proc") if entry.isdigit() and (found := process(int(entry)))]


def process(pid: int) -> Process | None:
    """The process with this pid now, or None."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold brackets and blanks.
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, int(fields[19]), int(fields[1]), fields[0], name)


def children(pid: int) -> list[Process]:
    """The direct children of one process, zombies included; cheap."""
    pids: list[int] = []
    for task in _list(f"/proc/{pid}/task"):
        try:
            pids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return [found for child in pids if (found := process(child))]


def descendants(pid: int) -> list[Process]:
    """Children, their children, and so on."""
    return [found for child in children(pid) for found in (child, *descendants(child.pid))]


def marked(variable: str, value: str) -> list[Process]:
    """Every process that was started with ``variable=value`` in its environment, orphans included."""
    wanted = f"{variable}={value}".encode()
    found = []
    for entry in _list("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:  # another user's, or gone
            continue
        if wanted in environ.split(b"\0") and (one := process(int(entry))):
            found.append(one)
    return found


def command_line(pid: int) -> str:
    """The words that a process was started with, shortened."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    words = text.replace("\0", " ").strip()
    return words if len(words) <= 160 else words[:157] + "..."


def open_fds(pid: int | str = "self") -> dict[int, str]:
    """Each descriptor and where it points: a path, ``socket:[inode]``, ``/memfd:name (deleted)``."""
    links = {}
    for entry in _list(f"/proc/{pid}/fd"):
        try:
            links[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:  # closed meanwhile; also the descriptor that lists the folder
            continue
    return links


def shared_mappings(pid: int | str = "self") -> dict[str, str]:
    """Mapped memfds and /dev/shm segments: inode and name. They outlive the descriptor they came from."""
    found = {}
    for line in _lines(f"/proc/{pid}/maps"):
        if "/memfd:" in line or "/dev/shm/" in line:
            fields = line.split(maxsplit=5)
            found[fields[4]] = fields[5].strip()
    return found


def sockets() -> dict[str, str]:
    """Inode of each unix socket and TCP listener of this network namespace, and its address in words."""
    found = {}
    for line in _lines("/proc/net/unix")[1:]:
        fields = line.split(maxsplit=7)
        found[fields[6]] = "unix socket " + (fields[7] if len(fields) > 7 else "without a name")
    for inode, address in _tcp_listeners():
        found[inode] = f"TCP listener {address}"
    return found


def tcp_listeners(pid: int | str = "self") -> list[str]:
    """Addresses on which one process listens."""
    mine = set(open_fds(pid).values())
    return [address for inode, address in _tcp_listeners() if f"socket:[{inode}]" in mine]


def _tcp_listeners() -> Iterator[tuple[str, str]]:
    for table in ("tcp", "tcp6"):
        for line in _lines(f"/proc/net/{table}")[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                host, port = fields[1].rsplit(":", 1)
                yield fields[9], f"{table} {_host(host)}:{int(port, 16)}"


def _host(text: str) -> str:
    """The kernel writes addresses as hexadecimal words in the machine's byte order."""
    if len(text) != 8:
        return f"[{text}]"
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(text)))


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
