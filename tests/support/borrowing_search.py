"""Every way in which a small program of several processes can go.

Called by:  tests.stateful.test_borrowing_{exhaustive,mutations}.
Imports:    tests.support.borrowing_world, where nbray.core.{references,holds} run and the truth is known.
Never:      samples, or stops early.

Every process runs a script, one step after the other; a worker begins one with each task. At any time a
message may arrive on any wire, somebody may take a step, and a process may die. States that were seen
before are not followed again.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from tests.support.borrowing_world import Process, World

#: What may happen next, or a step of a script: a name, and what it takes.
Move = tuple[Any, ...]

O, A, B = b"O", b"A", b"B"  # noqa: E741  # the owner


class Program(NamedTuple):
    """What the owner does, and what a worker does for the task of each number.

    Steps are ``("put", refs)``, ``("submit", worker, refs, number)``, ``("read", object)``,
    ``("drop", object)``, ``("give_back", worker)`` and ``("finish", results, dropped, stored)``. Where
    somebody died each does what still can be done.
    """

    owner: list[Move]
    tasks: list[list[Move]]
    crashes: int = 1


class State:
    """A world, how far everybody is, and how many may still die."""

    def __init__(self, program: Program) -> None:
        self.world = World([O, A, B])
        self.scripts: dict[bytes, tuple[Move, ...]] = {O: tuple(program.owner), A: (), B: ()}
        self.begun: dict[bytes, bytes] = {}  # worker -> the attempt whose script it runs
        self.crashes = program.crashes

    def moves(self, program: Program) -> Iterator[Move]:
        for wire in self.world.deliverable():
            yield ("deliver", wire)
        for name, process in self.world.processes.items():
            if process.alive:
                if self.scripts[name] and _can(process, self.scripts[name][0]):
                    yield ("step", name)
                for result in process.given_up():
                    yield ("fail", name, result)
                    for worker in (A, B):
                        if not process.tasks_of(worker):  # else it might wait behind what waits for it
                            yield ("retry", name, result, worker)

    def deaths(self) -> Iterator[Move]:
        if self.crashes:
            yield from (("crash", name) for name, process in self.world.processes.items() if process.alive)

    def make(self, move: Move, program: Program) -> None:
        match move:
            case ("deliver", wire):
                self.world.deliver(wire)
            case ("crash", name):
                self.crashes -= 1
                self.world.crash(name)
            case ("step", name):
                step, *rest = self.scripts[name]
                self.scripts[name] = tuple(rest)
                _take(self.world.processes[name], step)
            case (kind, name, *arguments):
                getattr(self.world.processes[name], kind)(*arguments)
        for name, process in self.world.processes.items():
            task = process.running
            if task is not None and self.begun.get(name) != task.parcel_id:
                self.begun[name] = task.parcel_id
                self.scripts[name] += tuple(program.tasks[task.program])
        self.world.check()

    def digest(self) -> bytes:
        """The same for states with the same future."""
        left = [len(script) for name, script in self.scripts.items() if self.world.processes[name].alive]
        everything = (self.crashes, left, self.world.freeze())
        return blake2b(msgspec.msgpack.encode(everything), digest_size=16).digest()

    def check_end(self) -> None:
        """Nothing can happen any more: once all variables are dropped, nothing is left."""
        self.world.check_exactly()
        for process in self.world.processes.values():
            if process.alive:
                for object_id in process.all_handles():
                    process.drop(object_id)
        self.world.settle()
        self.world.check_empty()


def _can(process: Process, step: Move) -> bool:
    """Whether it need not wait: for a value that is still to come, or for the daemon's reply."""
    match step:
        case ("finish", *_):
            return process.answer is None
        case ("read", object_id):
            daemon, owner = process.world.daemon, process.world.owners.get(object_id)
            return (
                object_id not in process.handles
                or process.value(object_id) is not None
                or (owner != process.name and (owner in daemon.lost or object_id in daemon.gone))
            )
    return True


def _take(process: Process, step: Move) -> None:
    """As far as it makes sense: somebody may have died."""

    def mine(refs: tuple[bytes, ...]) -> list[bytes]:
        return [object_id for object_id in refs if object_id in process.handles]

    match step:
        case ("put", refs):
            process.put(mine(refs))
        case ("submit", worker, refs, number):
            process.submit(worker, mine(refs), program=number)
        case ("read", object_id):
            if object_id in process.handles:
                process.read(object_id)
        case ("drop", object_id):
            process.drop(object_id)
        case ("give_back", worker):
            process.give_back(worker)
        case ("finish", results, dropped, stored):
            process.finish(mine(results), mine(dropped), stored=stored)
        case _:
            raise AssertionError(f"no such step: {step}")


def search(program: Program, limit: int = 10**6) -> int:
    """Go all ways, the shortest first; returns how many states there are.

    Raises:
        AssertionError: a promise was broken; the text has the moves that led there.
    """
    first = State(program)
    digest = first.digest()
    came_from: dict[bytes, tuple[bytes, Move]] = {digest: (b"", ())}
    frontier = deque([(digest, pickle.dumps(first))])
    while frontier:
        digest, pickled = frontier.popleft()
        state: State = pickle.loads(pickled)
        moves = list(state.moves(program))
        move: Move = ("end",)
        try:
            if not moves:
                state.check_end()
                state = pickle.loads(pickled)
            for move in [*moves, *state.deaths()]:
                after: State = pickle.loads(pickled)
                after.make(move, program)
                key = after.digest()
                if key not in came_from:
                    came_from[key] = (digest, move)
                    frontier.append((key, pickle.dumps(after)))
        except (AssertionError, KeyError) as exc:
            exc.args = (f"{exc}, after {_path(came_from, digest)} and {move}",)
            raise
        assert len(came_from) <= limit, "a program that is too large to be searched"
    return len(came_from)


def _path(came_from: dict[bytes, tuple[bytes, Move]], digest: bytes) -> list[Move]:
    path: list[Move] = []
    while came_from[digest][1]:
        digest, move = came_from[digest]
        path.insert(0, move)
    return path
