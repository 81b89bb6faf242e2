"""One worker process as the node sees it: its states, and what the pool orders.

Called by:  core.workers; node, which performs the commands.
Imports:    nbray.model.
Never:      decides which process serves whom (core.workers does).
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from nbray.model.errors import ProtocolError
from nbray.model.ids import short


class WorkerState(Enum):
    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    BLOCKED = "blocked"
    RETIRING = "retiring"
    DEAD = "dead"


class WorkerEvent(Enum):
    REGISTER = "registered"
    ASSIGN = "assigned"
    BLOCK = "blocked"
    UNBLOCK = "unblocked"
    RELEASE = "released"
    RETIRE = "retired"
    LOSE = "lost"


_S, _E = WorkerState, WorkerEvent

#: A dead process is forgotten, so it has no row: whatever reaches it does nothing.
# fmt: off
TABLE: dict[tuple[WorkerState, WorkerEvent], WorkerState] = {
    # state,       event        : next state
    (_S.STARTING, _E.REGISTER): _S.IDLE,
    (_S.STARTING, _E.LOSE):     _S.DEAD,
    (_S.IDLE,     _E.ASSIGN):   _S.LEASED,
    (_S.IDLE,     _E.RELEASE):  _S.IDLE,      # said twice
    (_S.IDLE,     _E.RETIRE):   _S.RETIRING,
    (_S.IDLE,     _E.LOSE):     _S.DEAD,
    (_S.LEASED,   _E.BLOCK):    _S.BLOCKED,
    (_S.LEASED,   _E.UNBLOCK):  _S.LEASED,
    (_S.LEASED,   _E.RELEASE):  _S.IDLE,
    (_S.LEASED,   _E.LOSE):     _S.DEAD,
    (_S.BLOCKED,  _E.BLOCK):    _S.BLOCKED,
    (_S.BLOCKED,  _E.UNBLOCK):  _S.LEASED,
    (_S.BLOCKED,  _E.RELEASE):  _S.IDLE,
    (_S.BLOCKED,  _E.LOSE):     _S.DEAD,
    (_S.RETIRING, _E.RELEASE):  _S.RETIRING,
    (_S.RETIRING, _E.LOSE):     _S.DEAD,
}
# fmt: on


class Assign(NamedTuple):
    """This process serves this lease; ``new_to_job``: tell it its job first."""

    lease_id: bytes
    process_id: bytes
    new_to_job: bool


class Start(NamedTuple):
    """Start so many processes."""

    number: int


class Retire(NamedTuple):
    """Let this idle process end."""

    process_id: bytes


class Dismiss(NamedTuple):
    """This process wanted to leave, and serves nobody now: it ends when it is ready to."""

    process_id: bytes


class Kill(NamedTuple):
    """This process did not register in time."""

    process_id: bytes


class StartsFailing(NamedTuple):
    """So many processes in a row died before they registered; no more are started by themselves.

    Fail the leases that wait for one. The next lease that needs one tries again, once.
    """

    number: int


Command = Assign | Start | Retire | Dismiss | Kill | StartsFailing


class Worker:
    """One process. ``since`` is when it started, or became idle.

    ``leaving``: it takes no more leases, and ends with the one that it serves. ``dedicated``: that one is for
    life, and the process does not count against the cap.
    """

    __slots__ = (
        "dedicated",
        "job_id",
        "lease_id",
        "leaving",
        "overdue",
        "pid",
        "process_id",
        "since",
        "state",
    )

    def __init__(self, process_id: bytes, now: float) -> None:
        self.process_id = process_id
        self.state = WorkerState.STARTING
        self.pid = 0
        self.job_id: bytes | None = None
        self.lease_id: bytes | None = None
        self.since = now
        self.overdue = False
        self.leaving = False
        self.dedicated = False

    def move(self, event: WorkerEvent) -> None:
        """Follow the table.

        Raises:
            ProtocolError: the table has no such row.
        """
        after = TABLE.get((self.state, event))
        if after is None:
            allowed = ", ".join(e.value for s, e in TABLE if s is self.state)
            raise ProtocolError(
                f"Worker {short(self.process_id)} (pid {self.pid}, {self.state.value}) cannot be "
                f"{event.value}; possible is: {allowed}. A process sent messages out of order: this is a "
                "bug in nbray."
            )
        self.state = after
