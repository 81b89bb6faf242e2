"""Actors as this process makes and calls them: constructors, connections, calls, what becomes of them.

Called by:  runtime.process, runtime.submitter, api.actors.
Imports:    core.{actor_calls,actor_record,tasks}, runtime.{links,objects,submitter}, wire.
Never:      decides: that is core.actor_calls', and of an actor's life core.actors', in the daemon.

A call is a task of ``runtime.submitter`` that stands on a ``Route`` in place of a queue for leases, and goes
straight to the actor's process. A handle holds an object of the actor's creator, whose ID is that of the
constructor's first result: so counted references (``core.references``) say when nobody has one any more.
Calls under way hold it, too.
"""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any

from nbray.core import actor_calls
from nbray.core.actor_calls import Creation, Route, RouteState
from nbray.core.actor_record import ActorState
from nbray.core.dying import CAUSE_LATE_S
from nbray.core.kept_calls import KeptCalls
from nbray.core.references import Entry
from nbray.core.tasks import Task, TaskSpec, TaskState
from nbray.model.limits import PROTOCOL_VERSION
from nbray.runtime.actor_creation import Creations
from nbray.runtime.links import Link
from nbray.runtime.refs import ObjectRef, make_ref
from nbray.runtime.replay import Replays
from nbray.runtime.task_arguments import BULKY_BYTES, MANY
from nbray.runtime.task_errors import serialize_system_error
from nbray.runtime.worker_errors import actor_error, tell_nobody, tell_unborn
from nbray.wire.actor_messages import (
    ActorLinkLost,
    ActorSpec,
    ActorUpdate,
    KillActor,
    ReleaseActor,
    UnwatchActor,
    WatchActor,
)
from nbray.wire.base import Message
from nbray.wire.codec import encode
from nbray.wire.messages import DefineTask, OwnerHello, TaskCall, TasksDone

if TYPE_CHECKING:
    from nbray.runtime.context import Place
    from nbray.runtime.process import Process

_monotonic = time.monotonic
#: So long after its last call an actor is held, in case there comes another.
_QUIET_S = 0.025


_DEAD = RouteState.DEAD


class Contact:
    """What this process knows of an actor beside the route: ``Route.host``."""

    __slots__ = ("class_name", "entry", "is_unborn", "is_unhandled", "link", "numbers", "ref", "specs")

    def __init__(self, class_name: str, entry: Entry | None) -> None:
        self.class_name = class_name
        self.entry = entry  # of the object that its handles hold; None: they hold none
        self.is_unborn = False  # its constructor failed
        self.is_unhandled = False  # no handle is left here; it is watched for the sake of kept calls
        self.ref: ObjectRef | None = None  # while calls are under way
        self.link: Link | None = None
        self.specs: dict[Any, TaskSpec] = {}
        self.numbers = count(1)


class Actors:
    """All actors that this process made or calls. Methods: lock held, unless they say otherwise."""

    def __init__(self, process: Process) -> None:
        self.routes: dict[bytes, Route] = {}
        self._process = process
        self._loop = process.loop
        self._objects = process.objects
        self._submitter = process.submitter
        self._tasks = process.submitter.tasks
        self._arguments = process.submitter.arguments
        self._of_entry: dict[bytes, bytes] = {}  # object that handles hold -> actor
        self._quiet: list[Route] = []
        self._closed: list[tuple[float, Route, bytes]] = []  # when a connection to which process closed
        self._replays = Replays(process)
        self._creations = Creations(process, self)
        self._objects.handle_objects = self._of_entry
        self._objects.on_handles_gone = self._on_handles_gone
        in_use_of_tasks = self._objects.in_use
        self._objects.in_use = lambda: {*in_use_of_tasks(), *self._in_use()}

    # --- making one ----------------------------------------------------------------------------

    def create(
        self, template: ActorSpec, keeps_calls: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, ObjectRef | None]:
        """See ``Creations.create``."""
        return self._creations.create(template, keeps_calls, args, kwargs)

    def gave_up(self, task: Task, error: bytes) -> None:
        """A constructor or a call ends with this error: an argument is one, or found no room."""
        route = task.spec.pooled
        if type(route) is Route:
            self._replays.gave_up(route, task)
            if route.state is RouteState.OPEN:
                self._feed(route)  # others may have waited behind it
            if not route.is_quiet:
                self._quieten(route)
        else:
            self._creations.gave_up(task, error)

    # --- calling one ---------------------------------------------------------------------------

    def route(
        self, actor_id: bytes, owner: bytes, class_name: str, concurrency: int, keeps_calls: bool,
        entry: Entry | None,
    ) -> Route:  # fmt: skip
        """The way to an actor.

        ``keeps_calls``: it has checkpoints, and calls are tried again. ``entry``: of the object that the
        caller's handle holds.
        """
        route = self.routes.get(actor_id)
        if route is None:
            route = self.routes[actor_id] = Route(actor_id, owner, concurrency)
            route.kept = KeptCalls() if keeps_calls else None
            route.host = Contact(class_name, entry)
            if entry is not None:
                self._of_entry[entry.object_id] = actor_id
            self._process.tell_daemon(WatchActor(actor_id, owner, class_name))
        contact: Contact = route.host
        if contact.is_unhandled and entry is not None:
            contact.entry, contact.is_unhandled = entry, False
            self._of_entry[entry.object_id] = actor_id
        return route

    def call_spec(self, route: Route, method: str, num_returns: int, retries: int, place: Place) -> TaskSpec:
        """What ``Process.submit`` takes, for calls of a method from this place. Takes the lock."""
        contact: Contact = route.host
        kind = (method, num_returns, retries, place.depth, place.cell)
        spec = contact.specs.get(kind)
        if spec is None:
            name = f"{contact.class_name}.{method}"
            with self._loop.guard, self._loop.lock:
                spec = contact.specs[kind] = TaskSpec(
                    next(contact.numbers), b"", name, num_returns, (), retries, place.depth, place.cell,
                    pooled=route,
                )  # fmt: skip
        return spec

    def place(self, task: Task) -> None:
        """A constructor or a call whose arguments are there."""
        route = task.spec.pooled
        if type(route) is Creation:
            self._creations.declare(task)
            return
        if (task.dependencies or route.state is _DEAD) and not self._may_go(route, task):
            return
        if task.holds and self.fetch(task):
            actor_calls.hold_place(route, task)
        elif actor_calls.place(route, task):
            self._push(route, [task])
        if route.host.ref is None:
            self._hold(route)

    def hold_place(self, task: Task) -> None:
        """A call that waits for its arguments."""
        route = task.spec.pooled
        if type(route) is Route:
            if route.state is RouteState.DEAD:  # whatever the arguments will be
                self._dead(route, task)
                return
            actor_calls.hold_place(route, task)
            self._hold(route)

    def arguments_ready(self, task: Task) -> None:
        """A call, or a constructor, that waited has its arguments now."""
        route = task.spec.pooled
        if type(route) is Creation:
            self._creations.declare(task)
        elif self._may_go(route, task) and not (task.holds and self.fetch(task)):
            if actor_calls.arguments_ready(route, task):
                self._push(route, [task])
            else:
                self._feed(route)

    def _may_go(self, route: Route, task: Task) -> bool:
        if route.state is RouteState.DEAD:
            self._dead(route, task)
            return False
        if task.dependencies:
            error = self._arguments.error(task)
            if error is not None:
                self._submitter.pass_on(task, error)
                return False
            if len(task.dependencies) > MANY and self._arguments.move(task):
                if task not in route.queue:
                    actor_calls.hold_place(route, task)
                return False
        return True

    def fetch(self, task: Task) -> bool:
        """Have arguments that were yielded, or lost, brought back; the call waits. False: all are here."""
        away = self._arguments.late(task) if self._arguments.is_doubtful(task) else None
        if not away:
            return False
        self._tasks.arguments_move(task, len(away))
        for entry in away:
            if entry.dependents is None:
                entry.dependents = []
            entry.dependents.append(task)
        self._objects.ask(away)
        return True

    def _hold(self, route: Route) -> None:
        """While calls are under way the actor lives, whoever drops a handle."""
        contact: Contact = route.host
        if contact.ref is None and contact.entry is not None:
            self._objects.table.add_handle(contact.entry.object_id)
            contact.ref = make_ref(contact.entry, self._objects.home)

    def _feed(self, route: Route) -> None:
        sent = actor_calls.take(route)
        while (task := actor_calls.next_call(route)) is not None:
            if task.holds and self.fetch(task):
                actor_calls.put_back(route, task)
            else:
                actor_calls.send(route, task)
                sent.append(task)
        if sent:
            self._push(route, sent)

    def _push(self, route: Route, tasks: list[Task]) -> None:
        contact: Contact = route.host
        link = contact.link
        if link is None or link.channel is None:  # it closed this moment: they are dealt with as lost
            return
        now = len(route.inflight) == len(tasks)
        rows: list[TaskCall] = []
        for task in tasks:
            spec = task.spec
            if spec.spec_id not in link.specs:
                self._loop.send_rows(link.channel, rows, now=False)
                rows = []
                self._introduce(link, spec)
            if task.holds:
                args, values, bulky = self._arguments.values(task)
                now = now or bulky
            else:
                args, values = task.args, []
                now = now or len(args) > BULKY_BYTES  # type: ignore[arg-type]  # it holds nothing in a store
            rows.append(TaskCall(task.task_id, task.attempt, spec.spec_id, args, values, task.seal_results))
        self._loop.send_rows(link.channel, rows, now=now)

    def _introduce(self, link: Link, spec: TaskSpec) -> None:
        link.specs.add(spec.spec_id)
        told = DefineTask(spec.spec_id, b"", spec.name, spec.num_returns, spec.depth, spec.cell, 0)
        assert link.channel is not None
        self._loop.send(link.channel, encode(told), now=False)

    def kill(self, actor_id: bytes, owner: bytes, no_restart: bool) -> None:
        """End its process by force. What is called from now on does not run there."""
        self._process.tell_daemon(KillActor(actor_id, owner, no_restart))
        route = self.routes.get(actor_id)
        if route is not None:
            actor_calls.disconnected(route)  # the daemon will say what comes next

    # --- answers and news ----------------------------------------------------------------------

    def _on_message(self, link: Link, message: Message) -> None:
        route: Route | None = link.lease
        if type(message) is not TasksDone:
            if route is not None and route.kept is not None:
                self._on_word(route, message)
            return
        if route is None or route.kept is None:
            self._submitter.deliver(link, route, message.answers, actor_calls.answered)
        else:
            self._submitter.deliver(link, route, message.answers, self._replays.answered)
            self._replays.strays(route, message.answers)
        if route is not None:
            if actor_calls.has_room(route):
                self._feed(route)
            if not route.inflight and not route.is_quiet:
                self._quieten(route)

    def _on_word(self, route: Route, message: Message) -> None:
        """What an actor with checkpoints says beside its answers."""
        if self._replays.heard(route, message):
            self._feed(route)
        elif route.host.is_unhandled and not self._replays.is_needed(route):
            self._leave(route)

    def _quieten(self, route: Route) -> None:
        if not route.is_quiet:
            route.is_quiet = True
            self._quiet.append(route)
        self._loop.arm(_monotonic() + _QUIET_S)

    def _on_closed(self, link: Link) -> None:
        """Its process is gone, or about to be: the daemon will say what comes next."""
        route: Route | None = link.lease
        if route is not None:
            actor_calls.disconnected(route)
            self._suspect(route, link.process_id)

    def _suspect(self, route: Route, process_id: bytes) -> None:
        """It does not talk to us: dead, as a rule. If the daemon says nothing of it soon it is to look."""
        now_s = _monotonic()
        self._closed.append((now_s, route, process_id))
        self._loop.arm(now_s + CAUSE_LATE_S)

    def on_update(self, update: ActorUpdate) -> None:
        """The daemon tells how an actor is."""
        is_dead = update.state == ActorState.DEAD.value
        is_alive = update.state == ActorState.ALIVE.value
        if is_dead or (is_alive and not update.restarts_left):
            self._creations.need_no_arguments(update.actor_id)
        route = self.routes.get(update.actor_id)
        if route is None or route.state is RouteState.DEAD:
            return
        if is_dead or update.incarnation > route.incarnation:
            self._part(route, update)
        if is_dead:
            self._on_death(route, update)
        elif is_alive and update.incarnation > route.incarnation:
            self._connect(route, update)

    def _part(self, route: Route, update: ActorUpdate) -> None:
        """The process that it was connected to is gone."""
        contact: Contact = route.host
        self._closed = [each for each in self._closed if each[1] is not route]
        if contact.link is not None:
            self._submitter.links.bury(contact.link)
            contact.link.lease = None
            contact.link = None
        actor_calls.disconnected(route)  # also when this comes before the connection is seen to close
        if not route.inflight:
            return
        for task in route.inflight.values():
            for entry in task.results:
                entry.doubtful = True
        failed = actor_calls.lost(route)
        if failed:
            error = self._death_of(route, update)
            for task in failed:
                self._submitter.pass_on(task, error, tell_nobody)
            self._quieten(route)

    def _on_death(self, route: Route, update: ActorUpdate) -> None:
        error = update.error or self._death_of(route, update)
        route.host.is_unborn = bool(update.error)
        self._replays.died(route)
        calls = actor_calls.died(route, error)
        if not route.in_order:  # those that wait for arguments stand in no queue
            calls += [
                task
                for task in self._tasks.tasks.values()
                if task.spec.pooled is route and task.state is TaskState.WAITING
            ]
        for task in calls:
            self._dead(route, task)
        if route.host.is_unhandled:
            self._leave(route)
        else:
            self._quieten(route)

    def _dead(self, route: Route, task: Task) -> None:
        """A call of a dead actor ends."""
        contact: Contact = route.host
        # A process that died was told of by the daemon, and an end that was wanted is no news.
        self._submitter.pass_on(task, route.error, tell_unborn if contact.is_unborn else tell_nobody)

    def _death_of(self, route: Route, update: ActorUpdate) -> bytes:
        contact: Contact = route.host
        return serialize_system_error(actor_error(contact.class_name, route.actor_id, update))

    def _connect(self, route: Route, update: ActorUpdate) -> None:
        contact: Contact = route.host
        try:
            link = self._submitter.links.connect(
                update.process_id, update.endpoint, self._on_message, self._on_closed
            )
        except OSError:  # it died this moment: there will be news
            self._suspect(route, update.process_id)
            return
        link.lease = route
        contact.link = link
        hello = OwnerHello(PROTOCOL_VERSION, b"", self._process.address, self._process.job_id)
        assert link.channel is not None
        self._loop.send(link.channel, encode(hello), now=False)
        if route.kept is not None:  # it answers, and then calls may be sent
            actor_calls.connecting(route, update.incarnation)
        else:
            actor_calls.connected(route, update.incarnation)
            self._feed(route)
        self._loop.soon()

    # --- handles go ----------------------------------------------------------------------------

    def _on_handles_gone(self, object_ids: list[bytes]) -> None:
        """Nobody here has a handle of these any more, nor is a call under way."""
        for object_id in object_ids:
            actor_id = self._of_entry.pop(object_id)
            route = self.routes[actor_id]
            contact: Contact = route.host
            contact.entry = None
            is_own = actor_id in self._creations
            if is_own:
                self._process.tell_daemon(ReleaseActor(actor_id))
            elif self._replays.is_needed(route) and route.state is not RouteState.DEAD:
                contact.is_unhandled = True  # others may have handles
                continue
            self._leave(route)

    def _leave(self, route: Route) -> None:
        """Nothing here needs the actor any more."""
        actor_id = route.actor_id
        contact: Contact = route.host
        del self.routes[actor_id]
        self._replays.died(route)
        contact.specs.clear()
        if contact.link is not None:
            contact.link.lease = None
            self._submitter.links.close(contact.link)
        if actor_id not in self._creations:
            self._process.tell_daemon(UnwatchActor(actor_id))
        else:
            self._creations.released(actor_id)

    def housekeeping(self, now_s: float) -> None:
        """Let go of actors that were not called for a moment; have those looked at that do not talk to us."""
        if self._closed:
            self._ask_for_causes(now_s)
        if not self._quiet:
            return
        quiet, self._quiet = self._quiet, []
        for route in quiet:
            route.is_quiet = False
            contact: Contact = route.host
            actor_calls.prune(route)
            if not len(route):
                contact.ref = None
        self._objects.drain()

    def _ask_for_causes(self, now_s: float) -> None:
        closed, self._closed = self._closed, []
        for since_s, route, process_id in closed:
            if now_s >= since_s + CAUSE_LATE_S:
                self._process.tell_daemon(ActorLinkLost(route.actor_id, process_id))
            else:
                self._closed.append((since_s, route, process_id))
                self._loop.arm(since_s + CAUSE_LATE_S)

    def _in_use(self) -> set[bytes]:
        """Objects whose bytes stay where they are: of calls that were sent."""
        used: set[bytes] = set()
        for route in self.routes.values():
            for task in route.inflight.values():
                used.update(task.holds)
        return used
