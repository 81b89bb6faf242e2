"""An owner's connection to a worker.

Called by:  runtime.submitter.
Imports:    core.leases, transport.channel.
Never:      sends by itself.
"""

from __future__ import annotations

from nbray.core.leases import Lease
from nbray.transport.channel import Channel


class Link:
    """A connection to one worker. It stays open between leases."""

    __slots__ = ("channel", "functions", "lease", "process_id", "specs")

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.channel: Channel | None = None
        self.functions: set[bytes] = set()  # that it was told
        self.specs: set[int] = set()
        self.lease: Lease | None = None
