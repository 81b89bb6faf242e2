"""Which cluster to join: what ``init(address=...)`` and the environment say.

Called by:  api.session.
Imports:    cluster.session, model.errors.
Never:      connects: it only reads what was written, and looks at session directories.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping

from nbray.cluster import session
from nbray.model.errors import ClusterNotFoundError

ENVIRONMENT = ("NBRAY_ADDRESS", "RAY_ADDRESS")
AUTO = "auto"
_UNIX = "unix:"
_PORTS = range(1024, 65536)


def chosen(
    address: str | None, redis_address: str | None, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The address to join, or None to start a cluster on this machine.

    Args:
        address: as ``init`` was given it, checked here: ``host:port``, ``unix:/path``, or ``"auto"``.
        redis_address: its older name.
        environment: may name one where the caller did not.

    Raises:
        ValueError: both were given, or it is not an address.
        RuntimeError: the environment names another one.
        ClusterNotFoundError: ``"auto"``, and there is no cluster on this machine, or more than one.
    """
    if address is not None and redis_address is not None:
        raise ValueError("address and redis_address are two names of one setting; give init() only address.")
    given = address if address is not None else redis_address
    name = next((name for name in ENVIRONMENT if environment.get(name)), None)
    if given is not None and given != AUTO:
        if name is not None:
            raise RuntimeError(
                f"init() was given address={given!r}, and ${name} says {environment[name]!r}. "
                "Leave one of them out."
            )
        return checked(given)
    if name is not None and environment[name] != AUTO:
        return checked(environment[name])
    if given is None and name is None:
        return None
    return _the_only_one()


def checked(address: str) -> str:
    """The address with its host as a number: ``localhost:6379`` -> ``127.0.0.1:6379``.

    Raises:
        TypeError: not a string.
        ValueError: not ``host:port`` with a port from 1024 to 65535, and no ``unix:/path`` either.
        ClusterNotFoundError: nobody knows the host.
    """
    if not isinstance(address, str):
        raise TypeError(f"address must be a string like 'host:6379', not {type(address).__name__}.")
    if address.startswith(_UNIX):
        return address
    parts = address.split(":")
    if len(parts) != 2 or not parts[0]:
        raise ValueError(f"address must be of the form host:port, or 'auto', not {address!r}.")
    try:
        port = int(parts[1])
    except ValueError:
        raise ValueError(f"The port of address {address!r} must be an integer, not {parts[1]!r}.") from None
    if port not in _PORTS:
        raise ValueError(f"The port of address {address!r} must be between 1024 and 65535.")
    try:
        return f"{resolved(parts[0])}:{port}"
    except ValueError as exc:
        raise ClusterNotFoundError(f"There is no cluster at address {address!r}: {exc}") from None


def resolved(host: str) -> str:
    """The IP address of a host.

    Raises:
        ValueError: nobody knows it.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.gethostbyname(host)
    except OSError as exc:
        raise ValueError(f"the host {host!r} cannot be resolved ({exc}). Give its IP address.") from None


def _the_only_one() -> str:
    found = session.living()
    if not found:
        raise ClusterNotFoundError(
            "address='auto' joins the cluster that runs on this machine, and there is none. "
            "Leave address out to start one."
        )
    addresses = [f"{_UNIX}//{path}/redis.sock" for path in found]
    if len(found) > 1:
        raise ClusterNotFoundError(
            f"address='auto' joins the one cluster that runs on this machine, and there are {len(found)}: "
            f"{', '.join(addresses)}. Name one of them."
        )
    return addresses[0]
