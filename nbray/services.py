"""What old programs find as ``ray.services``.

Called by:  users.
Imports:    socket.
Never:      sends anything.
"""

from __future__ import annotations

import socket

_LOOPBACK = "127.0.0.1"


def get_node_ip_address(address: str = "8.8.8.8:53") -> str:
    """The IP address by which this machine reaches others; 127.0.0.1 if it reaches none.

    Args:
        address: of a machine that the route should lead to. No packet is sent there.

    Raises:
        ValueError: ``address`` is not ``host:port``.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError(f"address must be of the form host:port, not {address!r}.")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))  # of a datagram socket: it only chooses a route
            return str(probe.getsockname()[0])
        except (OSError, OverflowError):
            return _LOOPBACK
