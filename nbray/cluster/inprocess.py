"""A session without a cluster: ``init(local_mode=True)``.

Called by:  api.session.
Imports:    runtime.local.
Never:      starts a process or opens a socket.
"""

from __future__ import annotations

import os

from nbray.model.errors import RayConnectionError
from nbray.model.ids import PROCESS_ID_BYTES
from nbray.runtime.local import LocalProcess


class InProcess:
    """What ``LocalCluster`` is for a cluster, for this process alone.

    Args:
        resources: what the one node is said to have, in units of 1e-4; nothing is limited by it.
        job_id: of the driver's work; None for a new one.
    """

    def __init__(self, resources: dict[str, int], job_id: bytes | None = None) -> None:
        self._driver_pid = os.getpid()
        self.job_id = os.urandom(PROCESS_ID_BYTES) if job_id is None else job_id
        self.process = LocalProcess(self.job_id, resources)
        self.process.attach(None)

    def stop(self) -> int:
        """End the session; no process ends with it. Inert in a forked child."""
        if not self.is_other_process():
            with self.process.loop.guard:
                self.process.failure = RayConnectionError(
                    "The session was shut down. Call nbray.init() to start another."
                )
                self.process.detach()
        return 0

    def abandon(self) -> None:
        """In a forked child: nothing is held that others could miss."""

    def is_other_process(self) -> bool:
        """Whether this is a forked child of the driver that started it."""
        return os.getpid() != self._driver_pid
