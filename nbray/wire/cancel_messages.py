"""Messages that end tasks before their time.

Called by:  runtime, node, worker, which build and match on them; wire.messages gives them their numbers.
Imports:    wire.base.
Never:      names a worker without the lease or the attempt that is meant.
"""

from __future__ import annotations

from nbray.wire.base import Message


class CancelTask(Message, frozen=True):
    """Owner -> worker: end this attempt, if it has not ended. ``force``: by ending the process.

    Answered like every attempt: by ``HandBack`` if it was not started, else by ``TasksDone``.
    """

    task_id: bytes
    attempt: int
    force: bool


class CancelOf(Message, frozen=True):
    """Borrower -> daemon -> owner: cancel this task of ``owner``'s."""

    owner: bytes
    task_id: bytes
    force: bool


class SignalWorker(Message, frozen=True):
    """Lease owner -> daemon: send this signal to the process that serves the lease."""

    lease_id: bytes
    number: int
