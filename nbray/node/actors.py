"""The hands of the actors' supervisor: leases and processes for them, and news for who calls them.

Called by:  node.daemon.
Imports:    core.{actors,actor_record,scheduler,workers}, node.{event_feed,workers}, transport.aio, wire.
Never:      decides what becomes of an actor (core.actors does), or reads what its constructor takes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nbray.core import actor_record, lease_requests, worker_process
from nbray.core.actor_record import Actor, ActorState
from nbray.core.actors import ActorTable
from nbray.core.memory_watch import Loss
from nbray.core.scheduler import Scheduler
from nbray.core.workers import WorkerPool
from nbray.events.schema import ACTOR
from nbray.model.errors import last_lines, signal_name
from nbray.model.ids import short
from nbray.model.limits import CHECKPOINTS_FOLDER
from nbray.model.resources import describe, to_shape
from nbray.node.event_feed import EventFeed
from nbray.node.workers import WorkerExit, WorkerHandle, Workers
from nbray.transport.aio import Peer
from nbray.wire.actor_messages import (
    ActorEnd,
    ActorLeft,
    ActorLinkLost,
    ActorList,
    ActorNamed,
    ActorSpec,
    ActorStarted,
    CheckpointSaved,
    CreateActor,
    FailActor,
    FindActor,
    GetActors,
    KillActor,
    NameActor,
    ReleaseActor,
    StartActor,
    UnwatchActor,
    WatchActor,
)
from nbray.wire.base import Message
from nbray.wire.messages import DefineFunction, LeaseInfeasible
from nbray.wire.waiting_messages import BY_MEMORY, LifeFacts

#: How long an actor may take to leave that nobody has a handle of: it may finish what it runs.
_LEAVE_DEADLINE_S = 10.0
_LEASE_ID_BYTES = 16


class Push(Protocol):
    """Tells people of an error; ``told``: they hear of it in another way."""

    def __call__(self, kind: str, message: str, *, told: bool = False) -> None: ...


class Leases(Protocol):
    """Who performs what the scheduler and the pool order."""

    def perform(self, commands: list[lease_requests.Command]) -> None: ...
    def perform_pool(self, commands: list[worker_process.Command]) -> None: ...


class ActorHost:
    """Hosts ``core.actors.ActorTable``.

    Args:
        leases: performs what the scheduler and the pool order.
        workers: the processes.
        resources: of the node.
        send: delivers a message to a process, and drops what a lost one would get.
        driver_id: of the process that detached actors belong to.
        call_later: calls back on the loop after a delay in seconds.
        session_dir: has the states that actors saved.
        push: tells people of an error, with a kind for programs.
    """

    def __init__(
        self,
        leases: Leases,
        workers: Workers,
        scheduler: Scheduler,
        pool: WorkerPool,
        events: EventFeed,
        resources: Mapping[str, int],
        send: Callable[[bytes, Message], object],
        driver_id: Callable[[], bytes],
        call_later: Callable[[float, Callable[[], None]], object],
        session_dir: Path,
        push: Push,
    ) -> None:
        self._push = push
        self._leases = leases
        self._workers = workers
        self._scheduler = scheduler
        self._pool = pool
        self._events = events
        self._resources = resources
        self._send = send
        self._driver_id = driver_id
        self._call_later = call_later
        self._session_dir = session_dir
        self._table = ActorTable()
        self._classes: dict[bytes, DefineFunction] = {}
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            DefineFunction: self._on_class,
            CreateActor: self._on_create,
            FailActor: self._on_fail,
            ActorStarted: self._on_started,
            ActorLeft: self._on_left,
            CheckpointSaved: self._on_saved,
            KillActor: self._on_kill,
            ReleaseActor: self._on_release,
            WatchActor: self._on_watch,
            UnwatchActor: lambda peer, m: self._table.unwatch(m.actor_id, peer.process_id),
            ActorLinkLost: self._on_link_lost,
            NameActor: self._on_name,
            FindActor: self._on_find,
            GetActors: lambda peer, m: peer.send(ActorList(m.request_id, self._table.facts())),
        }

    # --- messages --------------------------------------------------------------------------------

    def _on_class(self, _peer: Peer, message: DefineFunction) -> None:
        self._classes.setdefault(message.function_id, message)

    def _on_create(self, _peer: Peer, message: CreateActor) -> None:
        self._run(partial(self._table.create, message.spec))

    def _on_fail(self, peer: Peer, message: FailActor) -> None:
        self._run(partial(self._table.fail, message.actor_id, peer.process_id, message.error))

    def _on_started(self, peer: Peer, message: ActorStarted) -> None:
        self._run(partial(self._table.started, peer.process_id, message.error))

    def _on_left(self, peer: Peer, message: ActorLeft) -> None:
        self._run(partial(self._table.left, peer.process_id, message.why))
        self._call_later(_LEAVE_DEADLINE_S, partial(self._workers.kill, peer.process_id))

    def _on_saved(self, peer: Peer, message: CheckpointSaved) -> None:
        self._table.saved(peer.process_id, message.incarnation, message.checkpoint)

    def _on_kill(self, _peer: Peer, message: KillActor) -> None:
        self._run(partial(self._table.kill, message.actor_id, message.owner, message.no_restart))

    def _on_release(self, _peer: Peer, message: ReleaseActor) -> None:
        self._run(partial(self._table.release, message.actor_id))

    def _on_watch(self, peer: Peer, message: WatchActor) -> None:
        now = _now()
        actor = self._table.watch(message.actor_id, message.owner, message.class_name, peer.process_id, *now)
        peer.send(actor.update())

    def _on_link_lost(self, _peer: Peer, message: ActorLinkLost) -> None:
        if self._table.is_alive_in(message.actor_id, message.process_id):
            self._workers.cut_off(message.process_id)

    def _on_name(self, peer: Peer, m: NameActor) -> None:
        actor_id, handle = self._table.give_name(
            (m.namespace, m.name), m.actor_id, m.owner, m.handle, *_now()
        )
        peer.send(ActorNamed(m.request_id, actor_id, handle))

    def _on_find(self, peer: Peer, message: FindActor) -> None:
        actor_id, handle = self._table.find((message.namespace, message.name))
        peer.send(ActorNamed(message.request_id, actor_id, handle))

    # --- what the daemon tells ---------------------------------------------------------------------

    def is_actors(self, lease_id: bytes) -> bool:
        """Whether a lease is for an actor."""
        return self._table.serves(lease_id) is not None

    def granted(self, lease_id: bytes, handle: WorkerHandle) -> None:
        """A process serves an actor's lease."""
        commands: list[worker_process.Command] = []
        self._pool.dedicate(handle.process_id, commands)
        self._run(partial(self._table.leased, lease_id, handle.process_id, handle.pid, handle.endpoint))
        self._leases.perform_pool(commands)

    def waiting(self) -> int:
        """How many processes are on their way to be actors."""
        return self._table.waiting()

    def unavailable(self, lease_id: bytes, text: str) -> None:
        """There will be no process for an actor's lease."""
        self._run(partial(self._table.unavailable, lease_id, text))

    def lost(self, ended: WorkerExit, cause: str, facts: dict[str, Any], ran: str) -> bool:
        """A process is gone, and all that worked for it. False: it was no actor.

        ``cause`` and ``facts``: why the node ended it; ``ran``: the call that ran there, as far as is known.
        """
        process_id = ended.handle.process_id
        actor = self._table.runs_in(process_id)
        if actor is None:
            return False
        end = ActorEnd(ended.handle.pid, ended.exit_code, ended.term_signal, ended.stderr_tail, cause, facts)
        how = _how(ended, cause)

        told: list[tuple[str, bool]] = []

        def decide(now_s: float, now_ns: int, out: list[actor_record.Command]) -> None:
            self._table.lost(process_id, how, now_s, now_ns, out, end)
            if actor.end is not None:  # else somebody wanted it
                told.append((_death_notice(actor, ran), actor.state is ActorState.DEAD))

        self._run(decide)
        # After its callers: who reads of a restart, and calls it, must not call the process that is gone.
        for notice, is_dead in told:
            self._push("worker_died", notice, told=not is_dead)
        return True

    def name_in(self, process_id: bytes) -> str:
        """What people call the actor that a process is; "" if it is none."""
        actor = self._table.runs_in(process_id)
        return "" if actor is None else f"Actor {actor.name} {short(actor.actor_id)}"

    def process_lost(self, process_id: bytes) -> None:
        """A process is gone: what it owned follows."""
        self._run(partial(self._table.process_lost, process_id))

    def stake(self, process_id: bytes) -> tuple[Loss, int] | None:
        """What would be lost with this process, and what it may hold in bytes; None: it is no actor."""
        actor = self._table.runs_in(process_id)
        if actor is None or actor.spec is None:
            return None
        loss = Loss.STATE if self._table.survives(process_id) else Loss.ACTOR
        return loss, actor.spec.memory_bytes

    def lives(self, up_in: set[bytes]) -> list[LifeFacts]:
        """Those that are not dead, for who asks what does not go on; see ``ActorTable.lives``."""
        now_s = time.monotonic()
        return [
            LifeFacts(
                actor.actor_id, actor.name, actor.owner, actor.state.value, actor.process_id,
                {} if actor.spec is None else dict(to_shape(actor.spec.resources)), actor.spec is not None,
                now_s - actor.since_s, "" if actor.spec is None else self._unplaced(actor.spec),
            )
            for actor in self._table.lives(up_in)
        ]  # fmt: skip

    def counts(self) -> dict[str, int]:
        """How many are in which state."""
        return self._table.counts()

    # --- commands ------------------------------------------------------------------------------------

    def _run(self, decide: Callable[[float, int, list[actor_record.Command]], object]) -> None:
        commands: list[actor_record.Command] = []
        decide(*_now(), commands)
        for command in commands:
            if isinstance(command, actor_record.Publish):
                self._publish(self._table.actors.get(command.actor_id))
            elif isinstance(command, actor_record.Request):
                self._request_later(command)
            elif isinstance(command, actor_record.Start):
                self._start(command)
            elif isinstance(command, actor_record.Kill):
                self._workers.kill(command.process_id)
            elif isinstance(command, actor_record.Dismiss):
                self._workers.dismiss(command.process_id)
                self._call_later(_LEAVE_DEADLINE_S, partial(self._workers.kill, command.process_id))
            elif isinstance(command, actor_record.DropCheckpoints):
                folder = self._session_dir / CHECKPOINTS_FOLDER / command.actor_id.hex()
                shutil.rmtree(folder, ignore_errors=True)
            else:
                self._cancel(command.lease_id)

    def _publish(self, actor: Actor | None) -> None:
        if actor is None:
            return
        update = actor.update()
        for process_id in list(actor.watchers):
            self._send(process_id, update)
        self._events.record(ACTOR, actor.actor_id, actor.state.value.lower(), actor.name, {"pid": actor.pid})

    def _request_later(self, command: actor_record.Request) -> None:
        if command.delay_s:
            self._call_later(command.delay_s, partial(self._request, command.actor_id))
        else:
            self._request(command.actor_id)

    def _request(self, actor_id: bytes) -> None:
        lease_id = os.urandom(_LEASE_ID_BYTES)
        if not self._table.requested(actor_id, lease_id):
            return
        actor = self._table.actors[actor_id]
        spec = actor.spec
        assert spec is not None
        owner = self._driver_id() if spec.detached else actor.owner
        unplaced = self._unplaced(spec)
        if unplaced:
            self._send(self._driver_id(), LeaseInfeasible(lease_id, unplaced))
            self._push("infeasible_task", unplaced, told=True)
            return
        commands: list[lease_requests.Command] = []
        name = f"Actor {spec.class_name}"
        self._scheduler.request(lease_id, owner, spec.resources, spec.depth, 1, name, commands, for_life=True)
        self._leases.perform(commands)

    def _unplaced(self, spec: ActorSpec) -> str:
        """Why this node can never have it, though it may need nothing for itself; "" if it can."""
        lacking = {n: a for n, a in spec.placement.items() if self._resources.get(n, 0) < a}
        if not lacking:
            return ""
        return (
            f"Actor {spec.class_name} can only be on a node with {describe(lacking)}, and there is none: it "
            "waits. Give init() what it asks for, or ask for less (num_cpus=0 needs no CPU)."
        )

    def _cancel(self, lease_id: bytes) -> None:
        commands: list[lease_requests.Command] = []
        self._pool.abandon(lease_id)
        self._scheduler.ended(lease_id, commands)
        self._leases.perform(commands)

    def _start(self, command: actor_record.Start) -> None:
        actor = self._table.actors[command.actor_id]
        assert actor.spec is not None
        code = self._classes.get(actor.spec.class_id)
        if code is not None:
            self._send(command.process_id, code)
        self._send(command.process_id, StartActor(actor.spec, actor.incarnation, list(actor.checkpoints)))


def _now() -> tuple[float, int]:
    return time.monotonic(), time.time_ns()


def _how(ended: WorkerExit, cause: str) -> str:
    """How a process ended, as a sentence."""
    pid = ended.handle.pid
    if cause == BY_MEMORY:
        return f"Its process (pid {pid}) was ended for want of memory."
    how = (
        f"died of {signal_name(ended.term_signal)}"
        if ended.term_signal
        else (f"ended with exit code {ended.exit_code}")
    )
    return f"Its process (pid {pid}) {how}." + (f" {ended.why}" if ended.why else "")


def _death_notice(actor: Actor, ran: str) -> str:
    """For people, of a process that nobody had told to end."""
    assert actor.end is not None
    name = f"Actor {actor.name} {short(actor.actor_id)}"
    what = f"{ran} of {name}" if ran else name
    text = (
        f"A worker died or was killed while executing {what}. {actor.why}{last_lines(actor.end.stderr_tail)}"
    )
    if actor.state is ActorState.DEAD:
        return text.rstrip()
    left = "without end" if actor.restarts_left < 0 else f"{actor.restarts_left} more times"
    return f"{text.rstrip()}\nIt is restarted, and may be {left}."
