"""Actors, their supervisor and their callers without processes: who says what is chosen by the test.

Called by:  tests.stateful.test_actor_machine.
Imports:    nbray.core.{actors,actor_calls,tasks}: the real ones; everything around them is played here.
Never:      delivers anything by itself, or out of the order of its connection.

The daemon, callers and processes are connected by queues. A process that is dead does nothing more; what it
had sent is read, and it is reaped some time later, as by a daemon that reads a dead process to its end.

Letters name the invariants: AC1 one life at a time, AC2 order, AC3 no call more often than allowed, AC4 what
counts as an attempt or a restart, AC6 an end is an end, AC7 owners take theirs along, AC8 no actor that
nobody has a handle of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nbray.core import actor_calls, actor_record
from nbray.core.actor_calls import Route, RouteState
from nbray.core.actor_record import Actor, ActorState
from nbray.core.actors import ActorTable
from nbray.core.tasks import Task, TaskSpec, TaskState, TaskTable
from nbray.wire.actor_messages import ActorSpec, ActorUpdate

CRASHED, RAISED = b"the actor died", b"its constructor raised"
DEAD = ActorState.DEAD


class Call:
    """One call of a method: the truth about it. ``number`` counts those of its caller to its actor."""

    def __init__(self, task: Task, caller: Caller, actor_id: bytes, number: int) -> None:
        self.task = task
        self.caller = caller
        self.actor_id = actor_id
        self.number = number
        self.sent_to: list[Process] = []
        self.ran_in: list[int] = []  # incarnations, once for each time that it began
        self.outcome: object = None

    @property
    def is_over(self) -> bool:
        return self.outcome is not None


class Link:
    """A connection between a caller and a process; what was sent and not read."""

    def __init__(self, caller: Caller, process: Process) -> None:
        self.caller = caller
        self.process = process
        self.calls: deque[tuple[Call, int]] = deque()
        self.answers: deque[tuple[Call, int, object]] = deque()
        self.is_open = True


class Process:
    """One life of an actor."""

    def __init__(self, world: World, process_id: bytes, actor: Actor) -> None:
        self.world = world
        self.process_id = process_id
        self.actor_id = actor.actor_id
        self.incarnation = actor.incarnation
        self.is_alive = True
        self.is_made = False
        self.is_leaving = False
        self.links: list[Link] = []
        self.inbox: deque[tuple[Link, Call, int]] = deque()
        self.running: tuple[Link, Call, int] | None = None
        self.to_daemon: deque[Callable[[], None]] = deque()

    def receive(self, link: Link) -> None:
        call, attempt = link.calls.popleft()
        self.inbox.append((link, call, attempt))

    def begin(self) -> None:
        link, call, attempt = self.running = self.inbox.popleft()
        self.world.check_begin(self, call)
        call.ran_in.append(self.incarnation)
        self.world.log.append((self, call))
        assert link.is_open or not call.caller.is_alive
        assert attempt >= 0

    def finish(self) -> None:
        assert self.running is not None
        link, call, attempt = self.running
        self.running = None
        if link.is_open:
            link.answers.append((call, attempt, (self.incarnation, len(call.ran_in))))

    def made(self, error: bytes) -> None:
        self.is_made = not error
        self.to_daemon.append(lambda: self.world.run(self.world.table.started, self.process_id, error))
        if error:
            self.is_leaving = True

    def leave(self) -> None:
        self.is_leaving = True
        self.world.left.add(self.actor_id)
        self.to_daemon.append(lambda: self.world.run(self.world.table.left, self.process_id, "It left."))

    def die(self) -> None:
        self.is_alive = False
        self.running = None
        self.inbox.clear()
        for link in self.links:
            link.calls.clear()


class Caller:
    """A process that makes or calls actors: what ``runtime.actors`` does, without bytes."""

    def __init__(self, world: World, process_id: bytes) -> None:
        self.world = world
        self.process_id = process_id
        self.is_alive = True
        self.tasks = TaskTable()
        self.routes: dict[bytes, Route] = {}
        self.links: dict[bytes, Link] = {}
        self.handles: set[bytes] = set()
        self.calls: dict[bytes, Call] = {}
        self.numbers: dict[bytes, int] = {}
        self.to_daemon: deque[Callable[[], None]] = deque()
        self.from_daemon: deque[ActorUpdate] = deque()

    def tell(self, decide: Callable[..., object], *args: object) -> None:
        self.to_daemon.append(lambda: self.world.run(decide, *args))

    def watch(self, actor_id: bytes, owner: bytes, concurrency: int) -> None:
        self.handles.add(actor_id)
        self.routes[actor_id] = Route(actor_id, owner, concurrency)
        self.to_daemon.append(lambda: self._watched(actor_id, owner))

    def _watched(self, actor_id: bytes, owner: bytes) -> None:
        actor = self.world.table.watch(actor_id, owner, "C", self.process_id, 0.0, 0)
        self.from_daemon.append(actor.update())

    def call(self, actor_id: bytes, retries: int, is_ready: bool) -> Call:
        route = self.routes[actor_id]
        number = self.numbers[actor_id] = self.numbers.get(actor_id, 0) + 1
        task_id = b"%s %s %d" % (self.process_id, actor_id, number)
        spec = TaskSpec(1, b"", "C.m", 1, (), retries, 0, "", pooled=route)
        task = Task(task_id, spec, b"", not retries)
        call = self.calls[task_id] = Call(task, self, actor_id, number)
        if route.state is RouteState.DEAD:
            self.tasks.add_ready(task)
            self._fail(task, route.error)
        elif is_ready:
            self.tasks.add_ready(task)
            if actor_calls.place(route, task):
                self._push(route, [task])
        else:
            self.tasks.add(task, 1)
            actor_calls.hold_place(route, task)
        return call

    def argument_ready(self, call: Call) -> None:
        task = call.task
        if not self.tasks.argument_ready(task):
            return
        route = self.routes[call.actor_id]
        if route.state is RouteState.DEAD:
            self._fail(task, route.error)
        elif actor_calls.arguments_ready(route, task):
            self._push(route, [task])
        else:
            self._feed(route)

    def give_up(self, call: Call) -> None:
        """An argument of it is an error."""
        route = self.routes[call.actor_id]
        self._fail(call.task, b"an argument failed")
        if route.state is RouteState.OPEN:
            self._feed(route)

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        route = self.routes[actor_id]
        self.tell(self.world.table.kill, actor_id, route.owner, no_restart)
        actor_calls.disconnected(route)

    def read_answer(self, link: Link) -> None:
        call, attempt, value = link.answers.popleft()
        route = self.routes.get(call.actor_id)
        task = self.tasks.current(call.task.task_id, attempt)
        if task is None or route is None or not actor_calls.answered(route, task):
            return
        self.tasks.answered(task)
        self._end(call, value)
        if actor_calls.has_room(route):
            self._feed(route)

    def read_update(self) -> None:
        update = self.from_daemon.popleft()
        route = self.routes.get(update.actor_id)
        if route is None or route.state is RouteState.DEAD:
            return
        if update.state == DEAD.value or update.incarnation > route.incarnation:
            self._part(route)
        if update.state == DEAD.value:
            for task in actor_calls.died(route, update.error or CRASHED):
                self._fail(task, route.error)
            for task in list(self.tasks.tasks.values()):
                if task.spec.pooled is route and task.state is TaskState.WAITING:
                    self._fail(task, route.error)
        elif update.state == ActorState.ALIVE.value and update.incarnation > route.incarnation:
            self._connect(route, update)

    def _part(self, route: Route) -> None:
        link = self.links.pop(route.actor_id, None)
        if link is not None:
            while link.answers:
                self.read_answer(link)
            link.is_open = False
        for task in actor_calls.lost(route):
            self._fail(task, CRASHED)

    def _connect(self, route: Route, update: ActorUpdate) -> None:
        process = self.world.processes[update.process_id]
        if not process.is_alive:
            return
        link = self.links[route.actor_id] = Link(self, process)
        process.links.append(link)
        actor_calls.connected(route, update.incarnation)
        self._feed(route)

    def socket_closed(self, link: Link) -> None:
        actor_calls.disconnected(self.routes[link.process.actor_id])

    def _feed(self, route: Route) -> None:
        sent = []
        while (task := actor_calls.next_call(route)) is not None:
            actor_calls.send(route, task)
            sent.append(task)
        self._push(route, sent)

    def _push(self, route: Route, tasks: list[Task]) -> None:
        link = self.links[route.actor_id] if tasks else None
        for task in tasks:
            assert link is not None
            call = self.calls[task.task_id]
            call.sent_to.append(link.process)
            if link.process.is_alive:
                link.calls.append((call, task.attempt))

    def _fail(self, task: Task, error: bytes) -> None:
        self.tasks.given_up(task)
        self._end(self.calls[task.task_id], error)

    def _end(self, call: Call, outcome: object) -> None:
        assert call.outcome is None, "AC3: a call ended twice"
        call.outcome = outcome

    def open_calls(self, actor_id: bytes) -> list[Call]:
        return [c for c in self.calls.values() if c.actor_id == actor_id and not c.is_over]

    def let_go(self, actor_id: bytes) -> None:
        route = self.routes.pop(actor_id, None)
        if route is None:
            return
        link = self.links.pop(actor_id, None)
        if link is not None:
            link.is_open = False
        self.to_daemon.append(lambda: self.world.table.unwatch(actor_id, self.process_id))


class World:
    """All of them, and the truth."""

    def __init__(self) -> None:
        self.table = ActorTable()
        self.callers: list[Caller] = []
        self.processes: dict[bytes, Process] = {}
        self.unreaped: dict[bytes, Process] = {}
        self.requests: list[bytes] = []
        self.leases: dict[bytes, bytes] = {}
        self.log: list[tuple[Process, Call]] = []
        self.owners: dict[bytes, Caller] = {}
        self.released: set[bytes] = set()
        self.left: set[bytes] = set()  # by their own will
        self.specs: dict[bytes, ActorSpec] = {}
        self.ended: dict[bytes, ActorState] = {}
        self.deaths: dict[bytes, int] = {}  # of processes, by actor
        self.names: dict[str, bytes] = {}
        self._serial = 0

    def new_id(self, kind: str) -> bytes:
        self._serial += 1
        return f"{kind}{self._serial}".encode()

    def caller(self) -> Caller:
        made = Caller(self, self.new_id("caller"))
        self.callers.append(made)
        return made

    # --- the daemon ------------------------------------------------------------------------------

    def run(self, decide: Callable[..., object], *args: object) -> None:
        commands: list[actor_record.Command] = []
        decide(*args, 0.0, 0, commands)
        for command in commands:
            self._perform(command)

    def _perform(self, command: actor_record.Command) -> None:
        if isinstance(command, actor_record.Publish):
            actor = self.table.actors[command.actor_id]
            for caller in self.callers:
                if caller.process_id in actor.watchers and caller.is_alive:
                    caller.from_daemon.append(actor.update())
        elif isinstance(command, actor_record.Request):
            unreaped = [p for p in self.unreaped.values() if p.actor_id == command.actor_id]
            assert not unreaped, "AC1: another process is asked for before the last one was reaped"
            assert command.actor_id not in self.requests, "AC1: two processes are asked for"
            assert command.actor_id not in self.leases.values(), "AC1: two leases"
            self.requests.append(command.actor_id)
        elif isinstance(command, actor_record.Start):
            process = Process(self, command.process_id, self.table.actors[command.actor_id])
            self.processes[command.process_id] = self.unreaped[command.process_id] = process
            living = [p for p in self.unreaped.values() if p.actor_id == command.actor_id]
            assert living == [process], "AC1: two lives at once"
        elif isinstance(command, actor_record.Kill):
            self.unreaped[command.process_id].die()
        elif isinstance(command, actor_record.Dismiss):
            self._check_dismissed(self.unreaped[command.process_id])
        elif isinstance(command, actor_record.CancelLease):
            del self.leases[command.lease_id]

    def _check_dismissed(self, process: Process) -> None:
        calls = [c for caller in self.callers if caller.is_alive for c in caller.open_calls(process.actor_id)]
        assert not calls, "AC8: it is sent away although calls are under way"
        process.is_leaving = True

    def request(self, actor_id: bytes) -> None:
        self.requests.remove(actor_id)
        lease_id = self.new_id("lease")
        if self.table.requested(actor_id, lease_id):
            self.leases[lease_id] = actor_id

    def grant(self, lease_id: bytes) -> None:
        del self.leases[lease_id]
        now = 0.0, 0
        commands: list[actor_record.Command] = []
        self.table.leased(lease_id, self.new_id("process"), 7, "socket", *now, commands)
        for command in commands:
            self._perform(command)

    def refuse(self, lease_id: bytes) -> None:
        del self.leases[lease_id]
        self.run(self.table.unavailable, lease_id, "No process can be had.")

    def reap(self, process: Process) -> None:
        """A dead process: read its last words; then it is gone for good."""
        while process.to_daemon:
            process.to_daemon.popleft()()
        del self.unreaped[process.process_id]
        self.deaths[process.actor_id] = self.deaths.get(process.actor_id, 0) + 1
        self.run(self.table.lost, process.process_id, "Its process died.")

    def bury_caller(self, caller: Caller) -> None:
        """A dead caller: what it had sent counts; then its actors go."""
        while caller.to_daemon:
            caller.to_daemon.popleft()()
        self.run(self.table.process_lost, caller.process_id)

    # --- invariants ------------------------------------------------------------------------------

    def check_begin(self, process: Process, call: Call) -> None:
        """A call is about to run."""
        assert process.is_alive, "AC1: the dead run"
        assert process.is_made, "AC1: it runs before it was made"
        rivals = [p for p in self.processes.values() if p.actor_id == call.actor_id and p.is_alive]
        assert rivals == [process], "AC1: two lives answer"
        retries = call.task.spec.max_retries
        assert retries < 0 or len(call.ran_in) <= retries, "AC3: a call runs more often than it may"
        assert process.incarnation not in call.ran_in, "AC3: a call runs twice in one life"
        assert not call.is_over or not call.caller.is_alive, "AC3: a call runs whose outcome was seen"
        if self.specs[call.actor_id].max_concurrency > 1 or not call.caller.is_alive:
            return
        for other in call.caller.calls.values():
            if other.actor_id != call.actor_id or other.number == call.number:
                continue
            if other.number < call.number:
                assert other.is_over or process.incarnation in other.ran_in, "AC2: one is overtaken"
            else:
                assert process.incarnation not in other.ran_in, "AC2: a later call ran before this one"

    def check(self) -> None:
        """After each move."""
        for actor_id, actor in self.table.actors.items():
            if actor_id in self.ended:
                assert actor.state is DEAD, "AC6: the dead are dead"
            if actor.state is DEAD:
                self.ended[actor_id] = DEAD
            spec = self.specs[actor_id]
            if actor.state is not DEAD and actor.restarts_left and spec.max_restarts > 0:
                assert actor.restarts_left + actor.incarnation == spec.max_restarts, "AC4: restarts"
            assert actor.incarnation <= self.deaths.get(actor_id, 0), "AC4: a restart without a death"
            limit = spec.max_restarts
            assert limit < 0 or actor.incarnation <= limit, "AC4: restarted more often than it may be"
        for (_, name), (actor_id, _handle) in self.table._names.items():
            assert self.table.actors[actor_id].state is not DEAD, "AC6: a dead actor has a name"
            assert name in self.names
        for caller in self.callers:
            for route in caller.routes.values():
                under_way = {task.state for task in route.inflight.values()}
                assert under_way <= {TaskState.PUSHED}, "AC8: what is over keeps the actor"
            for call in caller.calls.values():
                died = sum(not process.is_alive for process in call.sent_to)
                assert call.task.attempt <= died, "AC4: an attempt that no death took"
                assert len(call.sent_to) <= call.task.attempt + 1, "AC4: sent again without an attempt"

    # --- until nothing happens any more -------------------------------------------------------------

    def settle(self) -> None:
        """Faults are over: what was sent arrives, what can run does. Then everything must be right."""
        for _ in range(10_000):
            step = next(self._steps(), None)
            if step is None:
                break
            step()
            self.check()
        else:
            raise AssertionError("it never comes to rest")
        self._check_rest()

    def _steps(self) -> Iterator[Callable[[], object]]:
        for actor_id in self.requests:
            yield partial(self.request, actor_id)
        for lease_id in self.leases:
            yield partial(self.grant, lease_id)
        for caller in self.callers:
            yield from self._steps_of_caller(caller)
        for process in self.unreaped.values():
            yield from self._steps_of(process)
        for actor_id in self.releasable():
            yield partial(self.release, actor_id)

    def _steps_of_caller(self, caller: Caller) -> Iterator[Callable[[], object]]:
        if caller.to_daemon:
            yield partial(hear, caller)
        if not caller.is_alive:
            return
        if caller.from_daemon:
            yield caller.read_update
        for link in caller.links.values():
            if link.answers:
                yield partial(caller.read_answer, link)
        for call in caller.calls.values():
            if call.task.state is TaskState.WAITING and not call.is_over:
                yield partial(caller.argument_ready, call)

    def _steps_of(self, process: Process) -> Iterator[Callable[[], object]]:
        if not process.is_alive:
            yield partial(self.reap, process)
            return
        if process.to_daemon:
            yield partial(hear, process)
        if process.is_leaving and not process.running and not process.inbox:
            yield process.die
        if not process.is_made and not process.is_leaving:
            yield partial(process.made, b"")
        for link in process.links:
            if link.calls:
                yield partial(process.receive, link)
        if process.running is not None:
            yield process.finish
        elif process.inbox and process.is_made:
            yield process.begin

    def releasable(self) -> list[bytes]:
        """Actors that nobody has a handle of, and no call under way."""
        found = []
        for actor_id, owner in self.owners.items():
            held = any(
                caller.is_alive and (actor_id in caller.handles or caller.open_calls(actor_id))
                for caller in self.callers
            )
            if not held and owner.is_alive and actor_id not in self.released:
                found.append(actor_id)
        return found

    def release(self, actor_id: bytes) -> None:
        """What counted references lead to: everybody lets go, the owner says so."""
        self.released.add(actor_id)
        for caller in self.callers:
            if caller.is_alive:
                caller.let_go(actor_id)
        self.owners[actor_id].tell(self.table.release, actor_id)

    def _check_rest(self) -> None:
        for caller in self.callers:
            for call in caller.calls.values():
                assert call.is_over or not caller.is_alive, f"AC6: call {call.number} never ends"
            assert not caller.is_alive or not caller.tasks.tasks, "AC6: tasks are left"
        for actor_id, actor in self.table.actors.items():
            detached = self.specs[actor_id].detached
            living = [p for p in self.unreaped.values() if p.actor_id == actor_id]
            if not self.owners[actor_id].is_alive and not detached:
                assert actor.state is DEAD, "AC7: it outlives its owner"
            assert actor_id not in self.left or actor.state is DEAD, "it left, and is made again"
            if actor_id in self.released and not detached:
                assert actor.state is DEAD, "AC8: nobody has a handle, and it lives"
            if actor.state is DEAD:
                assert not living, "AC6: a dead actor has a process"
            else:
                assert actor.state in (ActorState.ALIVE, ActorState.PENDING), actor.state
                assert len(living) == (actor.state is ActorState.ALIVE), "AC1: it has no life"
                assert actor.spec is None or actor.state is ActorState.ALIVE, "it is never made"


def hear(speaker: Caller | Process) -> None:
    """The daemon reads one message."""
    speaker.to_daemon.popleft()()


def spec_of(world: World, owner: Caller, restarts: int, concurrency: int, detached: bool) -> ActorSpec:
    """An actor that was not made yet."""
    actor_id = world.new_id("actor")
    spec = ActorSpec(
        actor_id, owner.process_id, b"class", "C", "", "", detached, {}, {}, restarts, concurrency, False, 0,
        b"", [], 0, "", 1,
    )  # fmt: skip
    world.specs[actor_id] = spec
    world.owners[actor_id] = owner
    return spec


def facts(world: World) -> dict[str, Any]:
    """For who looks at a failure."""
    return {a.actor_id.decode(): (a.state.value, a.incarnation, a.why) for a in world.table.actors.values()}
