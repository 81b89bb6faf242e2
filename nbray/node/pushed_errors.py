"""Errors that people should hear of: kept by job, and told to the driver.

Called by:  node.daemon.
Imports:    core.pushed_errors, wire; transport.aio for the type of a peer.
Never:      sends a driver another job's errors, or more of them than it can show.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nbray.core.pushed_errors import ErrorLog, PoolSize, Telling, shortened
from nbray.transport.aio import Peer
from nbray.wire.base import Message
from nbray.wire.error_messages import ErrorPushed, ErrorRow, Errors, GetErrors, PushError

_LEFT_OUT_AFTER_S = 1.0


class PushedErrors:
    """The board of one node.

    Args:
        job_id: the driver's job.
        tell_driver: sends it a message, if it is there.
        call_later: calls back on the loop after a delay in seconds.
        cpus: of the node.
    """

    def __init__(
        self,
        job_id: bytes,
        tell_driver: Callable[[Message], object],
        call_later: Callable[[float, Callable[[], None]], object],
        cpus: int,
    ) -> None:
        self._job_id = job_id
        self._tell_driver = tell_driver
        self._call_later = call_later
        self._log = ErrorLog()
        self._telling = Telling()
        self._pool_size = PoolSize(cpus)
        self._last = ErrorRow("", "", 0.0)  # of those that were left out
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            PushError: lambda _peer, m: self.push(m.kind, m.message, m.job_id, told=m.told),
            GetErrors: self._on_get,
        }

    def push(self, kind: str, message: str, job_id: bytes | None = None, *, told: bool = False) -> None:
        """Keep an error; ``told``: the driver hears of it in another way."""
        job_id = self._job_id if job_id is None else job_id
        row = ErrorRow(kind, shortened(message), time.time())
        self._log.push(job_id, row)
        if told or job_id != self._job_id:
            return
        if self._telling.may_tell(time.monotonic()):
            self._tell_driver(ErrorPushed(row, 0))
        else:
            self._last = row
            if self._telling.left_out == 1:
                self._call_later(_LEFT_OUT_AFTER_S, self._tell_left_out)

    def worker_started(self, workers: int) -> None:
        """There are so many now."""
        text = self._pool_size.grown(workers)
        if text is not None:
            self.push("worker_pool_large", text)

    def _tell_left_out(self) -> None:
        left_out = self._telling.take_left_out()
        self._tell_driver(ErrorPushed(self._last, left_out - 1))

    def _on_get(self, peer: Peer, message: GetErrors) -> None:
        job_id = message.job_id
        jobs = {job_id: self._log.of(job_id)} if job_id else self._log.all()
        peer.send(Errors(message.request_id, jobs))
