"""The life of actors at their supervisor, the node daemon: made, watched, restarted, named, ended.

Called by:  node.actors, with what owners, callers and workers said and what became of processes.
Imports:    nbray.core.actor_record, nbray.wire.actor_messages.
Never:      knows a socket, reads a clock (times arrive as arguments: of a steady clock in seconds, of the
            wall clock in nanoseconds).

An actor is a process with a lease for life. There is one process of it at a time: another is asked for
only when the host has reaped the last one. Whoever calls it watches it here, and is told of each change.

The daemon and not the owner supervises: it is the first to know that a process is gone, it answers while the
owner computes, and actors that outlive their owners need no other code.

Methods append commands to the list that the caller passes.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from nbray.core.actor_record import (
    Actor,
    ActorEvent,
    ActorState,
    CancelLease,
    Command,
    Dismiss,
    DropCheckpoints,
    Kill,
    Publish,
    Request,
    Start,
)
from nbray.wire.actor_messages import ActorEnd, ActorFacts, ActorSpec, SavedCheckpoint

#: Dead actors that are remembered: for ``actors()``, and for calls that come late.
DEAD_REMEMBERED = 10_000
#: So many more of which only that is known.
DEAD_KNOWN = 200_000
#: So many times in a row it may die in its constructor before there is a delay, which grows.
EARLY_DEATHS = 3
DELAY_S = 0.1
DELAY_MAX_S = 5.0

#: Checkpoints of one actor that are kept where it saves its state itself; and where we do: one more than is
#: needed, in case the last one turns out to be damaged.
CHECKPOINTS_KEPT, STATES_KEPT = 20, 2

_Name = tuple[str, str]


class ActorTable:
    """All actors of one node's processes."""

    def __init__(self) -> None:
        self.actors: dict[bytes, Actor] = {}
        self._of_lease: dict[bytes, Actor] = {}
        self._of_process: dict[bytes, Actor] = {}
        self._names: dict[_Name, tuple[bytes, bytes]] = {}  # -> actor ID, pickled handle
        self._names_of: dict[bytes, list[_Name]] = {}
        self._of_owner: dict[bytes, dict[bytes, None]] = {}
        self._watched_by: dict[bytes, set[bytes]] = {}
        self._dead: OrderedDict[bytes, None] = OrderedDict()
        self._forgotten: OrderedDict[bytes, None] = OrderedDict()
        self._lost_owners: OrderedDict[bytes, None] = OrderedDict()

    # --- what owners and callers say -------------------------------------------------------------

    def create(self, spec: ActorSpec, now_s: float, now_ns: int, out: list[Command]) -> None:
        """Its owner declares it, with all that its constructor needs. Said again, it changes nothing."""
        actor = self._known(spec.actor_id, spec.owner, now_s, now_ns)
        if actor.spec is not None or actor.state is not ActorState.PENDING:
            return
        actor.spec = spec
        actor.restarts_left = spec.max_restarts
        out.append(Request(actor.actor_id, 0.0))
        out.append(Publish(actor.actor_id))

    def fail(
        self, actor_id: bytes, owner: bytes, error: bytes, now_s: float, now_ns: int, out: list[Command]
    ) -> None:
        """It cannot be made: an argument of its constructor is this error."""
        actor = self._known(actor_id, owner, now_s, now_ns)
        if actor.state is ActorState.PENDING:
            actor.error = error
            self._end(actor, "An argument of its constructor is an error.", now_s, now_ns, out)

    def release(self, actor_id: bytes, now_s: float, now_ns: int, out: list[Command]) -> None:
        """No handle is left anywhere, and no call is under way: it leaves once it was constructed."""
        actor = self.actors.get(actor_id)
        if actor is None or (actor.spec is not None and actor.spec.detached):
            return
        actor.is_released = True
        if actor.state is ActorState.ALIVE:
            self._leave(actor, "Nobody had a handle of it any more.", now_s, now_ns, out)
        elif actor.state is ActorState.RESTARTING:
            self._end(actor, "Nobody had a handle of it any more.", now_s, now_ns, out)

    def kill(
        self, actor_id: bytes, owner: bytes, no_restart: bool, now_s: float, now_ns: int, out: list[Command]
    ) -> None:
        """Somebody ends its process by force. One that has none yet, and had none, will not be made."""
        actor = self._known(actor_id, owner, now_s, now_ns)
        if actor.state is ActorState.DEAD:
            return
        if no_restart:
            actor.restarts_left = 0
        if not actor.process_id or not actor.restarts_left or actor.is_released:
            if actor.state is not ActorState.RESTARTING or no_restart:  # else its process is gone already
                self._end(actor, "It was killed by nbray.kill().", now_s, now_ns, out)
        else:
            actor.why = "It was killed by nbray.kill()."
            out.append(Kill(actor.process_id))

    def watch(
        self, actor_id: bytes, owner: bytes, class_name: str, process_id: bytes, now_s: float, now_ns: int
    ) -> Actor:
        """A process wants to call it; its owner may not have declared it yet. Returns it as it is now."""
        actor = self._known(actor_id, owner, now_s, now_ns)
        actor.called = class_name
        actor.watchers[process_id] = None
        self._watched_by.setdefault(process_id, set()).add(actor_id)
        return actor

    def is_alive_in(self, actor_id: bytes, process_id: bytes) -> bool:
        """Whether it lives there, and has not said that it is about to end."""
        actor = self._of_process.get(process_id)
        return actor is not None and actor.actor_id == actor_id and actor.state is ActorState.ALIVE

    def unwatch(self, actor_id: bytes, process_id: bytes) -> None:
        actor = self.actors.get(actor_id)
        if actor is not None:
            actor.watchers.pop(process_id, None)
        self._watched_by.get(process_id, set()).discard(actor_id)

    # --- names -----------------------------------------------------------------------------------

    def give_name(
        self, name: _Name, actor_id: bytes, owner: bytes, handle: bytes, now_s: float, now_ns: int
    ) -> tuple[bytes, bytes]:
        """Let a name find it, unless it finds another. Returns whom it finds: (actor ID, handle)."""
        found = self._names.get(name)
        if found is not None:
            return found
        actor = self._known(actor_id, owner, now_s, now_ns)
        if actor.state is ActorState.DEAD:
            return b"", b""
        self._names[name] = (actor_id, handle)
        self._names_of.setdefault(actor_id, []).append(name)
        return actor_id, handle

    def find(self, name: _Name) -> tuple[bytes, bytes]:
        """Which actor has a name: (actor ID, handle), both empty if none has."""
        return self._names.get(name, (b"", b""))

    # --- what the node says ----------------------------------------------------------------------

    def requested(self, actor_id: bytes, lease_id: bytes) -> bool:
        """The host is about to ask for this lease. False: do not, it needs none any more."""
        actor = self.actors.get(actor_id)
        if actor is None or actor.state not in (ActorState.PENDING, ActorState.RESTARTING) or actor.lease_id:
            return False
        actor.lease_id = lease_id
        self._of_lease[lease_id] = actor
        return True

    def serves(self, lease_id: bytes) -> Actor | None:
        """The actor that a lease is for."""
        return self._of_lease.get(lease_id)

    def runs_in(self, process_id: bytes) -> Actor | None:
        """The actor that a process is."""
        return self._of_process.get(process_id)

    def leased(
        self, lease_id: bytes, process_id: bytes, pid: int, endpoint: str, now_s: float, now_ns: int,
        out: list[Command],
    ) -> None:  # fmt: skip
        """A process is there for it."""
        actor = self._of_lease[lease_id]
        actor.move(ActorEvent.LEASED, now_s, now_ns)
        actor.process_id, actor.pid, actor.endpoint = process_id, pid, endpoint
        actor.why, actor.end = "", None
        self._of_process[process_id] = actor
        out.append(Start(actor.actor_id, process_id))
        out.append(Publish(actor.actor_id))

    def started(
        self, process_id: bytes, error: bytes, now_s: float, now_ns: int, out: list[Command]
    ) -> Actor | None:
        """Its constructor is done, or raised ``error``. Returns it; None if that is nobody's any more."""
        actor = self._of_process.get(process_id)
        if actor is None or actor.state is not ActorState.STARTING:
            return None
        if error:
            actor.error = error
            self._end(actor, "Its constructor raised.", now_s, now_ns, out)
            return actor
        actor.move(ActorEvent.READY, now_s, now_ns)
        out.append(Publish(actor.actor_id))
        if actor.is_released:
            self._leave(actor, "Nobody had a handle of it any more.", now_s, now_ns, out)
        return actor

    def saved(self, process_id: bytes, incarnation: int, checkpoint: SavedCheckpoint) -> bool:
        """Its process saved its state. False: nobody will be restarted from that."""
        actor = self._of_process.get(process_id)
        if actor is None or actor.state is not ActorState.ALIVE or actor.incarnation != incarnation:
            return False
        assert actor.spec is not None
        actor.checkpoints.insert(0, checkpoint)
        del actor.checkpoints[checkpoints_kept(actor.spec) :]
        return True

    def left(self, process_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command]) -> None:
        """Its process says that it will end by itself."""
        actor = self._of_process.get(process_id)
        if actor is not None and actor.state is not ActorState.DEAD:
            actor.move(ActorEvent.LEFT, now_s, now_ns)
            if not actor.why:
                actor.why = why
            out.append(Publish(actor.actor_id))

    def lost(
        self, process_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command],
        end: ActorEnd | None = None,
    ) -> Actor | None:  # fmt: skip
        """Its process is gone and reaped, and all that worked for it. Returns the actor, if it was one.

        ``why`` and ``end`` say how, and count if nobody had ended it before.
        """
        actor = self._of_process.pop(process_id, None)
        if actor is None:
            return None
        del self._of_lease[actor.lease_id]
        actor.lease_id, actor.process_id, actor.endpoint = b"", b"", ""
        if actor.state is ActorState.DEAD:
            _drop_checkpoints(actor, out)
            return actor
        was_killed = bool(actor.why)
        actor.why = actor.why or why
        actor.end = None if was_killed else end
        restarts = actor.state in (ActorState.STARTING, ActorState.ALIVE) and not actor.is_released
        if not (restarts and actor.restarts_left):
            self._end(actor, actor.why, now_s, now_ns, out)
            return actor
        if actor.state is ActorState.ALIVE:
            actor.early_deaths = 0
        elif not was_killed:  # its constructor did nothing wrong then
            actor.early_deaths += 1
        actor.move(ActorEvent.LOST, now_s, now_ns)
        actor.restarts_left -= actor.restarts_left > 0
        actor.incarnation += 1
        out.append(Publish(actor.actor_id))  # first: a process may be there at once, and all this be past
        out.append(Request(actor.actor_id, _delay_s(actor.early_deaths)))
        return actor

    def unavailable(self, lease_id: bytes, why: str, now_s: float, now_ns: int, out: list[Command]) -> None:
        """There will be no process for this lease."""
        actor = self._of_lease.pop(lease_id, None)
        if actor is not None:
            actor.lease_id = b""
            if actor.state is not ActorState.DEAD:
                self._end(actor, why, now_s, now_ns, out)

    def process_lost(self, process_id: bytes, now_s: float, now_ns: int, out: list[Command]) -> None:
        """A process is gone: what it owned goes, and it watches nobody any more."""
        self._lost_owners[process_id] = None
        while len(self._lost_owners) > DEAD_REMEMBERED:
            self._lost_owners.popitem(last=False)
        for actor_id in self._watched_by.pop(process_id, ()):
            if actor_id in self.actors:
                self.actors[actor_id].watchers.pop(process_id, None)
        for actor_id in self._of_owner.pop(process_id, ()):
            actor = self.actors.get(actor_id)
            if actor is None or actor.state is ActorState.DEAD or (actor.spec and actor.spec.detached):
                continue
            self._end(actor, "The process that made it is gone.", now_s, now_ns, out)

    def waiting(self) -> int:
        """How many of them have asked for a process and have none yet."""
        return len(self._of_lease) - len(self._of_process)

    # --- for people ------------------------------------------------------------------------------

    def facts(self) -> list[ActorFacts]:
        """All that are known, in the order in which they were made; the dead, too."""
        return [_facts(actor, self._names_of.get(actor.actor_id, ())) for actor in self.actors.values()]

    def survives(self, process_id: bytes) -> bool:
        """Whether the actor in this process would be made again if that were killed."""
        actor = self._of_process.get(process_id)
        return actor is not None and actor.restarts_left != 0 and not actor.is_released

    def lives(self, up_in: set[bytes]) -> list[Actor]:
        """Those that are not dead: of those that are up only the ones in these processes."""
        return [
            actor
            for actor in self.actors.values()
            if actor.state is not ActorState.DEAD
            and (actor.state is not ActorState.ALIVE or actor.process_id in up_in)
        ]

    def counts(self) -> dict[str, int]:
        """How many are in which state; the dead that are remembered, too."""
        return dict(Counter(actor.state.value.lower() for actor in self.actors.values()))

    # --- inside ----------------------------------------------------------------------------------

    def _known(self, actor_id: bytes, owner: bytes, now_s: float, now_ns: int) -> Actor:
        actor = self.actors.get(actor_id)
        if actor is None:
            actor = self.actors[actor_id] = Actor(actor_id, owner, now_s, now_ns)
            self._of_owner.setdefault(owner, {})[actor_id] = None
            out: list[Command] = []  # nobody watches it yet
            if actor_id in self._forgotten:
                self._end(actor, "It died long ago.", now_s, now_ns, out)
            elif owner in self._lost_owners:
                self._end(actor, "The process that made it is gone.", now_s, now_ns, out)
        return actor

    def _leave(self, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]) -> None:
        actor.move(ActorEvent.LEFT, now_s, now_ns)
        actor.why = why
        out.append(Dismiss(actor.process_id))
        out.append(Publish(actor.actor_id))

    def _end(self, actor: Actor, why: str, now_s: float, now_ns: int, out: list[Command]) -> None:
        """It is dead from now on. Its process, if there is one, is on its way out."""
        actor.move(ActorEvent.ENDED, now_s, now_ns)
        actor.why = why
        actor.restarts_left = 0
        if actor.process_id:
            out.append(Kill(actor.process_id))
        else:
            _drop_checkpoints(actor, out)
            if actor.lease_id:
                del self._of_lease[actor.lease_id]
                out.append(CancelLease(actor.lease_id))
                actor.lease_id = b""
        actor.early_deaths = 0
        for name in self._names_of.pop(actor.actor_id, ()):
            del self._names[name]
        self._dead[actor.actor_id] = None
        if len(self._dead) > DEAD_REMEMBERED:
            self._forget(self._dead.popitem(last=False)[0])
        out.append(Publish(actor.actor_id))

    def _forget(self, actor_id: bytes) -> None:
        actor = self.actors.pop(actor_id)
        self._forgotten[actor_id] = None
        if len(self._forgotten) > DEAD_KNOWN:
            self._forgotten.popitem(last=False)
        self._of_owner.get(actor.owner, {}).pop(actor_id, None)
        for process_id in actor.watchers:
            self._watched_by.get(process_id, set()).discard(actor_id)


def checkpoints_kept(spec: ActorSpec) -> int:
    """How many checkpoints of such an actor are kept."""
    return STATES_KEPT if spec.checkpoint_interval > 0 else CHECKPOINTS_KEPT


def _drop_checkpoints(actor: Actor, out: list[Command]) -> None:
    actor.checkpoints = []
    if actor.spec is not None and actor.spec.checkpoint_interval:
        out.append(DropCheckpoints(actor.actor_id))


def _delay_s(early_deaths: int) -> float:
    """Between a death and the next start: nothing at first, then longer and longer."""
    if early_deaths <= EARLY_DEATHS:
        return 0.0
    return float(min(DELAY_MAX_S, DELAY_S * 2.0 ** min(early_deaths - EARLY_DEATHS - 1, 10)))


def _facts(actor: Actor, names: Sequence[_Name]) -> ActorFacts:
    spec = actor.spec
    namespace, name = names[0] if names else ("", "")
    if spec is not None and spec.name:
        namespace, name = spec.namespace, spec.name
    return ActorFacts(
        actor.actor_id, actor.name, name, namespace, spec is not None and spec.detached, actor.state.value,
        actor.owner, actor.process_id, actor.pid, actor.endpoint, actor.incarnation, actor.restarts_left,
        dict(spec.resources) if spec is not None else {}, spec.cell if spec is not None else "", actor.why,
        actor.created_ns, actor.since_ns,
    )  # fmt: skip
