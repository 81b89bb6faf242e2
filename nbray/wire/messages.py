"""Every message that nbray's processes exchange.

Called by:  core, store, runtime, node, worker, which build and match on them.
Imports:    msgspec, wire.base, wire.{actor,cancel,error,inline,memory,object,waiting}_messages.
Never:      carries a large payload (a Descriptor does) or an object that must be unpickled to route it.

Three conversations, all over frames of ``wire.codec``:

* a *process* (driver or worker) with the node daemon: leases, objects, logs, events;
* an *owner* with a *worker* that it leased: functions and tasks, directly;
* the daemon with its *zygote*: which worker to fork.

Structs are arrays on the wire and frozen in memory. Quantities are in units of 1e-4
(``model.resources``), times in the units that their names say. ``bytes`` fields named ``*_id`` are
described in ``model.ids``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nbray.model.store_plan import StorePlan
from nbray.wire.actor_messages import (
    ActorLeft,
    ActorLinkLost,
    ActorList,
    ActorNamed,
    ActorStarted,
    ActorUpdate,
    CallsCovered,
    CheckpointSaved,
    CreateActor,
    FailActor,
    FindActor,
    GetActors,
    KillActor,
    NameActor,
    ReleaseActor,
    StartActor,
    StateHas,
    UnwatchActor,
    WatchActor,
)
from nbray.wire.base import Message, Value
from nbray.wire.cancel_messages import CancelOf, CancelTask, SignalWorker
from nbray.wire.error_messages import ErrorPushed, Errors, GetErrors, PushError
from nbray.wire.inline_messages import InlineDeclined, RunInline
from nbray.wire.memory_messages import DescribeEntries, EntriesDescribed, GetMemory, MemoryReport
from nbray.wire.object_messages import (
    AbortObject,
    AdoptObject,
    CreateFailed,
    CreateObject,
    DropObjects,
    EndParcels,
    FreeObjects,
    GetObjects,
    HoldObjects,
    LetGo,
    ObjectCreated,
    ObjectGone,
    ObjectReady,
    ObjectsLost,
    ObjectsPinned,
    ObjectsYielded,
    ParcelsSettled,
    PinObjects,
    RecallObjects,
    RecallSlab,
    ReleaseHolds,
    RequestSlab,
    ReturnSlab,
    SealObject,
    SendParcel,
    SettleParcels,
    SlabGranted,
    Unheld,
    UnpinObjects,
)
from nbray.wire.waiting_messages import (
    DescribeWaits,
    EndAttempt,
    GetWaits,
    MemoryEased,
    Notice,
    WaitsDescribed,
    WaitsReport,
)


class OwnerAddress(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a process can be reached, and which life of it is meant.

    ``process_id`` is drawn anew for every process, so it never names two lives; a node keeps its ID
    when its daemon comes back, and counts ``node_incarnation`` up instead.
    """

    node_id: bytes
    node_incarnation: int
    process_id: bytes
    endpoint: str


# --- process <-> node daemon: joining ----------------------------------------------------------


class Hello(Message):
    """First message of a driver or worker. ``role`` is "driver" or "worker"."""

    protocol: int
    role: str
    process_id: bytes
    pid: int
    job_id: bytes
    endpoint: str


class Welcome(Message):
    """The daemon's answer; on first contact of a driver the arena's descriptor comes with it."""

    protocol: int
    cluster_id: str
    node_id: bytes
    node_incarnation: int
    session_dir: str
    store_capacity_bytes: int
    resources: dict[str, int]
    redis_endpoint: str
    redis_origin: str
    task_timeout_s: float = 0.0  # of tasks that say nothing else; 0: none


class StartFailed(Message):
    """The daemon could not start: ``kind`` picks the error class, ``text`` is for people."""

    kind: str
    text: str


class StartNode(Message):
    """Launcher -> new daemon, before anything else: what to be. The token travels here alone."""

    protocol: int
    cluster_id: str
    session_dir: str
    token: bytes
    node_id: bytes
    node_incarnation: int
    resources: dict[str, int]
    store: StorePlan
    redis_kind: str
    redis_location: str
    redis_origin: str
    driver_pid: int
    driver_start_ticks: int
    sys_path: list[str]
    job_id: bytes
    entrypoint: str
    cwd: str
    umask: int
    memory_threshold: float = 1.0  # above this share of the memory in use tasks are ended; 1: never
    task_timeout_s: float = 0.0


class Shutdown(Message):
    """Driver -> daemon: end the session (embedded clusters only)."""


class Stopped(Message):
    """Daemon -> driver, last words: so many processes were ended."""

    processes: int


class JobContext(Message):
    """Daemon -> worker: which job it now belongs to, sent before its first lease is granted."""

    job_id: bytes
    sys_path: list[str]
    cwd: str
    umask: int  # the driver's: files that tasks make are made as its own would be


# --- process <-> node daemon: leases -------------------------------------------------------------


class RequestLease(Message):
    """An owner asks for one worker. ``lease_id`` makes it idempotent: the same ID, the same answer."""

    lease_id: bytes
    resources: dict[str, int]
    backlog: int  # tasks of this shape that are queued at the owner, a hint
    depth: int  # 0 for a driver's tasks, 1 for their children, ...
    name: str  # a task that waits for it, for messages to people


class CancelLease(Message):
    """The owner has no more use for a request that was not granted yet."""

    lease_id: bytes


class LeaseGranted(Message):
    lease_id: bytes
    worker: OwnerAddress
    worker_pid: int


class LeaseInfeasible(Message):
    """No node can ever run this shape as things are; the request stays queued all the same."""

    lease_id: bytes
    text: str


class ReturnLease(Message):
    lease_id: bytes


class ReclaimLease(Message):
    """Daemon -> owner: others wait; give this lease back when its running task is done, or when it idles."""

    lease_id: bytes
    when_idle: bool = False


class WorkerLost(Message):
    """Daemon -> lease owner: the worker's process is gone. ``term_signal`` 0 means it exited.

    ``why``: a sentence, if the daemon ended it. ``cause``: the kind of that, as in ``wire.waiting_messages``,
    with the fields of the error; "" if unknown.
    """

    lease_id: bytes
    process_id: bytes
    pid: int
    exit_code: int
    term_signal: int
    stderr_tail: str
    why: str = ""
    cause: str = ""
    facts: dict[str, Any] = {}  # noqa: RUF012  # msgspec copies it


class LinkLost(Message):
    """Owner -> daemon: the worker of this lease closed our connection; if it lives, it is of no use."""

    lease_id: bytes


class Blocked(Message):
    """Worker -> daemon: my running task waits in get/wait; its CPUs may be lent."""

    lease_id: bytes


class Unblocked(Message):
    lease_id: bytes


class Leaving(Message):
    """Worker -> daemon: I take no more tasks. Daemon -> worker: nobody sends you any, go when you like."""


# --- process <-> node daemon: functions, logs, events, status ------------------------------------------


class PutFunction(Message):
    """Owner -> daemon: keep this code in Redis, for workers on other nodes.

    ``pickled`` is empty when the owner has sent that code before: then only the definition is counted,
    which stands at ``place`` in the source.
    """

    function_id: bytes
    name: str
    pickled: bytes
    place: str = ""


class Advice(Message):
    """Daemon -> driver: a line for the log of the program."""

    text: str


class LogLines(Message):
    """Worker -> daemon -> driver. ``sequence`` counts a worker's batches, so order can be kept."""

    process_id: bytes
    pid: int
    task_name: str
    stream: str  # "stdout" or "stderr"
    sequence: int
    cell: str
    lines: list[str]


class EventBatch(Message):
    """State changes since the last batch; rows as in ``events.schema``. ``dropped`` were lost.

    ``folded`` counts, as (name, state, number), short tasks whose rows were left out since they were many.
    """

    process_id: bytes
    dropped: int
    folded: list[tuple[str, str, int]]
    rows: list[list[Any]]


class GetStatus(Message):
    request_id: int


class Status(Message):
    """A snapshot of the node, plain data, for people and monitors."""

    request_id: int
    data: dict[str, Any]


# --- owner <-> worker, direct --------------------------------------------------------------------


class OwnerHello(Message):
    """First message on a direct connection: who I am, for which lease, which job."""

    protocol: int
    lease_id: bytes
    owner: OwnerAddress
    job_id: bytes


class DefineFunction(Message):
    """Sent once per worker, before the first task that needs it."""

    function_id: bytes
    name: str
    pickled: bytes


class DefineTask(Message):
    """Sent once per worker, before the first task of the kind. ``spec_id`` is this owner's number for it."""

    spec_id: int
    function_id: bytes
    name: str
    num_returns: int
    depth: int
    cell: str
    threads: int  # that numeric libraries may use in it
    max_retries: int = 0


class TaskCall(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt of one task. ``args`` is a serialized ``(args, kwargs)``; top-level references
    in it are markers that count into ``dependencies``.
    """

    task_id: bytes
    attempt: int
    spec_id: int
    args: Value
    dependencies: list[Value]
    seal_results: bool  # a result has escaped already: write it to the store, whatever its size


class RunTasks(Message):
    """Attempts that were pushed together, in the order in which they run."""

    calls: list[TaskCall]


class TaskAnswer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``failed`` results all hold the same serialized error.

    ``inner``: of each result the references that its value holds, (object, owner); empty if none holds one.
    They are a parcel (``SendParcel``), whose ID is that of the task and the attempt.
    """

    task_id: bytes
    attempt: int
    failed: bool
    results: list[Value]
    execution_us: int
    log_sequence: int
    inner: tuple[list[tuple[bytes, bytes]], ...] = ()


class TasksDone(Message):
    """Attempts that ended, in their order. One message of many costs a fifth of many messages."""

    answers: list[TaskAnswer]


class HandBack(Message):
    """Worker -> owner: these were not started and will not be."""

    lease_id: bytes
    tasks: list[tuple[bytes, int]]  # (task ID, attempt)


class TakeBack(Message):
    """Owner -> worker: hand back up to ``count`` tasks that you have not started, newest first."""

    lease_id: bytes
    count: int


class LeasePaused(Message):
    """Worker -> owner: the running task blocks; push nothing until LeaseResumed."""

    lease_id: bytes


class LeaseResumed(Message):
    lease_id: bytes


# --- daemon <-> zygote -------------------------------------------------------------------------------


class ForkWorker(Message):
    """The worker's end of its daemon connection, stdout and stderr come along as descriptors."""

    process_id: bytes
    endpoint: str
    env: dict[str, str]


class WorkerForked(Message):
    """``pid`` 0: the system refused the fork."""

    process_id: bytes
    pid: int


class ZygoteReady(Message):
    pid: int


#: Position + 1 is the type byte. Append only: the order is the protocol.
ALL: tuple[type[Message], ...] = (
    StartNode, Hello, Welcome, StartFailed, Shutdown, Stopped, JobContext,
    RequestLease, CancelLease, LeaseGranted, LeaseInfeasible, ReturnLease, ReclaimLease,
    WorkerLost, Blocked, Unblocked,
    CreateObject, ObjectCreated, CreateFailed, SealObject, AbortObject, FreeObjects,
    GetObjects, ObjectReady, ObjectGone, PinObjects, ObjectsPinned, UnpinObjects,
    PutFunction, LogLines, EventBatch, GetStatus, Status,
    OwnerHello, DefineFunction, DefineTask, RunTasks, TasksDone, HandBack, TakeBack, LeasePaused,
    LeaseResumed, ForkWorker, WorkerForked, ZygoteReady, Leaving, Advice,
    RequestSlab, SlabGranted, AdoptObject, RecallSlab, ReturnSlab,
    HoldObjects, ReleaseHolds, SendParcel, EndParcels, SettleParcels, ParcelsSettled, LetGo, Unheld,
    RecallObjects, ObjectsYielded, DropObjects, ObjectsLost,
    GetMemory, DescribeEntries, EntriesDescribed, MemoryReport,
    PushError, ErrorPushed, GetErrors, Errors, LinkLost,
    CreateActor, FailActor, StartActor, ActorStarted, ActorLeft, KillActor, ReleaseActor, WatchActor,
    UnwatchActor, ActorUpdate, NameActor, FindActor, ActorNamed, GetActors, ActorList,
    CancelTask, CancelOf, SignalWorker, RunInline, InlineDeclined,
    GetWaits, DescribeWaits, WaitsDescribed, WaitsReport, Notice, EndAttempt, MemoryEased,
    CheckpointSaved, StateHas, CallsCovered, ActorLinkLost,
)  # fmt: skip
