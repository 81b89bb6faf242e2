"""The configuration of an embedded Redis, as text for its standard input.

Called by:  control.server, tests.
Imports:    the standard library.
Never:      writes a file or holds a secret in the clear: the password enters as its SHA-256.

Only directives that every Redis from 6.0 on (and every Valkey) knows are written, so that no
version has to be asked first. The three locks of Redis 7 (``enable-module-command`` and its kin)
are "no" by default there, and the access rules refuse those commands in any version. The one
exception, the rule for pub/sub channels (6.2), is in ``channel_rules``.
"""

from __future__ import annotations

import hashlib
import re

USER = "nbray"

_CLUSTER_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: What our user may do. -script because nothing here needs it and SCRIPT FLUSH hurts others.
_COMMANDS = "+@all -@admin -@dangerous -script +info +ping"


def key_prefix(cluster_id: str) -> str:
    """What every key and channel of a cluster starts with.

    Raises:
        ValueError: the ID has characters that mean something in a key pattern.
    """
    if not _CLUSTER_ID.fullmatch(cluster_id):
        raise ValueError(f"A cluster ID is 1 to 64 letters, digits, '-' or '_', not {cluster_id!r}.")
    return f"nbray:{cluster_id}:"


def hashed(password: str) -> str:
    """A password as access rules hold it."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def render_config(
    *, session_dir: str, socket_path: str, cluster_id: str, password: str, channel_rules: bool = True
) -> str:
    """The configuration of a server that listens on one unix socket and keeps nothing on disk.

    Args:
        session_dir: the server's working directory; it must be 0700.
        socket_path: where it listens; made 0600 by the server (its umask closes the moment before).
        cluster_id: names the only keys and channels that our user can reach.
        password: of our user.
        channel_rules: restrict pub/sub channels too. False for Redis 6.0, which cannot.

    Raises:
        ValueError: the cluster's ID cannot be part of a pattern.
    """
    prefix = key_prefix(cluster_id)
    channels = f"resetchannels &{prefix}* " if channel_rules else ""
    lines = [
        "port 0",
        f"unixsocket {quoted(socket_path)}",
        "unixsocketperm 600",
        f"dir {quoted(session_dir)}",
        "daemonize no",
        "supervised no",
        # To standard output, which the daemon opened as logs/redis.log with mode 0600. That way what
        # is said before the configuration was read is in the same file.
        'logfile ""',
        "loglevel notice",
        "always-show-logo no",
        "databases 1",
        'save ""',
        "appendonly no",
        "maxmemory-policy noeviction",
        "user default off",
        f"user {USER} on {hashed(password)} ~{prefix}* {channels}{_COMMANDS}",
    ]
    return "\n".join(lines) + "\n"


def quoted(path: str) -> str:
    """A path as one word of a configuration line, whatever characters it has."""
    plain = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in path.encode("utf-8", "surrogateescape")
    )
    return f'"{plain}"'
