"""Messages about errors that people should hear of, whether or not anybody gets a result.

Called by:  runtime.pushed_errors, node.pushed_errors; wire.messages gives them their numbers.
Imports:    msgspec, wire.base.
Never:      carries an exception: a text is all that travels here.
"""

from __future__ import annotations

import msgspec

from nbray.wire.base import Message


class ErrorRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One error of a job. ``timestamp_s`` is the daemon's clock, seconds since 1970."""

    kind: str
    message: str
    timestamp_s: float


class PushError(Message, frozen=True):
    """Process -> daemon: keep this among the errors of a job. Its driver hears of it unless ``told``."""

    kind: str
    message: str
    job_id: bytes
    told: bool = False


class ErrorPushed(Message, frozen=True):
    """Daemon -> driver: one of its job's errors. ``left_out`` more came before, too fast to be told."""

    row: ErrorRow
    left_out: int


class GetErrors(Message, frozen=True):
    """Process -> daemon: the errors of one job; of all jobs if ``job_id`` is empty."""

    request_id: int
    job_id: bytes


class Errors(Message, frozen=True):
    """The answer, by job; oldest first."""

    request_id: int
    jobs: dict[bytes, list[ErrorRow]]
