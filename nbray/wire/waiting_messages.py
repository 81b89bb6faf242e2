"""Messages about who waits for what, attempts that are ended, and memory: plain facts again.

Called by:  core, runtime, node, which build and read them; wire.messages gives them their numbers.
Imports:    wire.base.
Never:      carries a value of a user, only names, numbers and lines of source.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbray.wire.base import Message

#: ``TaskFacts.state``.
WAITING, QUEUED, PUSHED, HELD_BACK = "waiting", "queued", "pushed", "held back"
#: ``TaskFacts.kind``. A call, and a constructor, wait for their actor, not for a lease.
TASK, CALL, CONSTRUCTOR = "task", "call", "constructor"
#: ``WorkerLost.cause``: why the daemon, or the kernel, ended a worker.
BY_MEMORY, BY_TIMEOUT = "memory", "timeout"

#: An object and its owner.
Pair = tuple[bytes, bytes]


class TaskFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An unfinished task, as its owner sees it.

    ``missing`` are the first of ``missing_count`` arguments that are not there. ``process_id`` is the worker
    that it was pushed to, where ``ahead`` others run before it. ``max_attempts`` is 0 without a limit.

    Of a call of an actor ``ahead`` counts the calls of the same caller that were made before it and are not
    over; ``behind``, if not empty, is one of these that it certainly waits for.
    """

    task_id: bytes
    kind: str
    name: str
    state: str
    attempt: int  # from 1
    max_attempts: int
    shape: dict[str, int]
    missing: list[Pair]
    missing_count: int
    process_id: bytes
    ahead: int
    again: bool = False  # it was done, and what it made was lost
    actor_id: bytes = b""  # whose call it is
    behind: bytes = b""


class ObjectFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one process knows of an object: ``state`` as in ``wire.memory_messages``.

    ``owner_id`` is empty if that process owns it, ``task_id`` if no unfinished task of it makes it.
    """

    object_id: bytes
    owner_id: bytes
    state: str
    task_id: bytes


class RunningFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The task that runs in a process.

    ``awaited`` are the first of ``awaited_count`` objects that its get, wait or await waits for; it goes on
    when ``enough`` of them are there. ``stack`` are lines of user code, the innermost last.
    """

    task_id: bytes
    name: str
    attempt: int  # from 1
    age_s: float
    blocked: bool
    awaited: list[Pair]
    awaited_count: int
    enough: int
    stack: list[str]


class WaitFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One process: what runs there, and what it knows of objects that somebody waits for.

    ``heads``: of each worker that it leased the process ID and the name of the task that should run there.
    """

    process_id: bytes
    pid: int
    role: str
    running: list[RunningFacts]
    objects: list[ObjectFacts]
    tasks: list[TaskFacts]
    heads: list[tuple[bytes, str]] = []  # msgspec copies it


class LeaseFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Resources that are taken. ``lasting``: its holder keeps them for its life, as actors do."""

    process_id: bytes  # empty: no worker yet
    name: str
    shape: dict[str, int]
    blocked: bool
    lasting: bool


class LifeFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An actor that is not dead: ``state`` is a ``core.actor_record.ActorState``, ``shape`` what it needs.

    ``declared``: its owner has said all that its constructor takes.
    """

    actor_id: bytes
    class_name: str
    owner: bytes
    state: str
    process_id: bytes
    shape: dict[str, int]
    declared: bool
    age_s: float  # of the state
    infeasible: str = ""  # why this node can never have it


class QueueFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Lease requests of one kind that wait. ``lacking`` names resources of which too little is free."""

    shape: dict[str, int]
    count: int
    name: str
    feasible: bool
    reason: str
    lacking: list[str]
    age_s: float


class WorkerFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A process as the kernel sees it: ``state`` is its letter in /proc/PID/stat."""

    process_id: bytes
    pid: int
    state: str


class GetWaits(Message, frozen=True):
    """Process -> daemon: what is known of these objects, and who waits? Answered by ``WaitsReport``."""

    request_id: int
    object_ids: list[bytes]
    with_stacks: bool


class DescribeWaits(Message, frozen=True):
    """Daemon -> process: say what you run, what that waits for, and what you know of these objects."""

    number: int
    object_ids: list[bytes]
    with_stacks: bool


class WaitsDescribed(Message, frozen=True):
    """The answer. It comes from whichever thread reads, also while a task runs."""

    number: int
    facts: WaitFacts


class WaitsReport(Message, frozen=True):
    """Daemon -> asker: all that was answered within a second, and the daemon's own books.

    ``paused`` says why no lease is given for the moment, if so.
    """

    request_id: int
    total: dict[str, int]
    processes: list[WaitFacts]
    workers: list[WorkerFacts]
    leases: list[LeaseFacts]
    queues: list[QueueFacts]
    paused: str
    stored: list[tuple[bytes, str]]  # what the store knows of the objects that were asked for
    actors: list[LifeFacts]


class Notice(Message, frozen=True):
    """Daemon -> driver: something does not go on. ``kind`` is for programs, ``text`` for people."""

    kind: str
    text: str


class EndAttempt(Message, frozen=True):
    """Owner -> daemon: kill the worker of this lease. ``WorkerLost`` repeats the cause and its facts."""

    lease_id: bytes
    cause: str
    facts: dict[str, Any]


class MemoryEased(Message, frozen=True):
    """Daemon -> owner: there is room again for tasks that were ended for want of memory."""
