"""Messages about running a task in the process that waits for it, where no other one can be had.

Called by:  node, worker, which build and match on them; wire.messages gives them their numbers.
Imports:    wire.base.
Never:      says which task: only the worker knows what it waits for.
"""

from __future__ import annotations

from nbray.wire.base import Message


class RunInline(Message, frozen=True):
    """Daemon -> blocked worker: no process will come for this lease of yours; run what you wait for."""

    lease_id: bytes


class InlineDeclined(Message, frozen=True):
    """Worker -> daemon: what I wait for is not mine to run. (Who can takes ``lease_id`` back instead.)"""

    lease_id: bytes
