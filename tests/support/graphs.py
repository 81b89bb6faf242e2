"""Random graphs of tasks and actor calls, beside plain Python that knows what each of them must give.

Called by:  tests.integration.test_random_graphs. Workers import it, too: tasks build graphs of their own.
Imports:    nbray.
Never:      draws a number from anything but the random generator that it is given.

A graph is drawn first, as data. ``Run`` submits it. ``faults`` compares what came of every node with what
came of those that it takes: a value must be the right one, an error must be that of an argument, its own
(a node that fails, or crashes too often), or one that a death or a cancel may cause.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

import nbray

#: No answer for so long is a hang.
HANG_S = 30.0
PRIME = 1_000_003
#: In the store, if its result is large.
LARGE = 20_000
#: Errors that people know by their class; the first that fits names them.
KNOWN = (
    nbray.RayCancellationError, nbray.RayWorkerError, nbray.RayActorError, nbray.OwnerDiedError,
)  # fmt: skip
LOST_WORKER, LOST_ACTOR = "RayWorkerError", "RayActorError"
LOST_OWNER, CANCELLED = "OwnerDiedError", "RayCancellationError"

#: A number, or the name of an error.
Outcome = int | str


class BoomError(Exception):
    """What a node raises that is made to fail."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed = seed


class Node(NamedTuple):
    """``kind`` of work, what it takes (numbers of earlier nodes), and how it is sent."""

    kind: str
    takes: tuple[int, ...]
    seed: int
    is_large: bool = False
    retries: int = 3
    crashes: int = 0  # attempts that end with their process
    actor: int = 0
    is_cancelled: bool = False
    is_dropped: bool = False  # nobody but its takers holds it


# --- values ----------------------------------------------------------------------------------------------


def dressed(number: int, is_large: bool) -> Any:
    return np.full(LARGE, number, dtype=np.int64) if is_large else number


def bare(value: Any) -> int:
    """The number again; an array is the same in every place."""
    if isinstance(value, int):
        return value
    assert (value == value[0]).all(), "wrong bytes"
    return int(value[0])


def mixed(seed: int, numbers: list[int]) -> int:
    total = seed
    for number in numbers:
        total = (total * 31 + number) % PRIME
    return total


def name_of(error: BaseException) -> str:
    """What an outcome calls it, wherever it was raised."""
    if isinstance(error, BoomError):
        return f"boom {error.seed}"
    if isinstance(error, nbray.RayTaskError) and error.cause_class_name in {
        known.__name__ for known in KNOWN
    }:
        return error.cause_class_name  # a task did not handle it
    return next((known.__name__ for known in KNOWN if isinstance(error, known)), repr(error))


def number_of(outcome: Outcome) -> int:
    """An outcome as a number, for tasks that handle errors."""
    return outcome if isinstance(outcome, int) else sum(outcome.encode())


def outcome_of(ref: Any) -> Outcome:
    try:
        return bare(nbray.get(ref, timeout=HANG_S))
    except nbray.RayTimeoutError:
        raise
    except (nbray.NbrayError, BoomError) as exc:
        return name_of(exc)


# --- what is run -----------------------------------------------------------------------------------------


@nbray.remote
def mix(node: Node, *values: Any) -> Any:
    return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


@nbray.remote
def boom(node: Node, *_values: Any) -> None:
    raise BoomError(node.seed)


@nbray.remote
def boxed(node: Node, box: dict[str, Any]) -> Any:
    """Its references are in containers."""
    values = nbray.get(box["refs"], timeout=HANG_S)
    return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


@nbray.remote
def handle(node: Node, refs: list[Any]) -> int:
    """Goes on with the errors of what it takes."""
    return mixed(node.seed, [number_of(outcome_of(ref)) for ref in refs])


@nbray.remote
def crash(node: Node, folder: str, *values: Any) -> Any:
    """Ends its process, so many times."""
    for attempt in range(node.crashes):
        path = Path(folder, f"{node.seed}-{attempt}")
        if not path.exists():
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


@nbray.remote
def lend(node: Node, *values: Any) -> list[Any]:
    """What it returns this worker owns."""
    return [nbray.put(dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large))]


@nbray.remote
def borrow(lent: list[Any]) -> Any:
    return nbray.get(lent[0], timeout=HANG_S)


@nbray.remote
def nest(node: Node, folder: str, *values: Any) -> Any:
    """A graph of its own."""
    run = Run(inner_graph(node), folder)
    outcomes = run.outcomes()
    assert not faults(run.nodes, outcomes, deaths=True), "a wrong value inside"
    own = [number_of(outcomes[at]) for at in sorted(outcomes)]
    return dressed(mixed(node.seed, own + [bare(value) for value in values]), node.is_large)


@nbray.remote
def nap(node: Node, *values: Any) -> Any:
    time.sleep(node.seed % 50 / 1000)
    return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


class Ledger:
    """An actor with a state: what its calls gave so far."""

    def __init__(self) -> None:
        self.state = 0

    def call(self, node: Node, *values: Any) -> Any:
        self.state = mixed(node.seed, [self.state, *(bare(value) for value in values)])
        return dressed(self.state, node.is_large)


class Mixer:
    """An actor without a state, which may start again at any time."""

    def call(self, node: Node, *values: Any) -> Any:
        return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


class AsyncMixer:
    async def call(self, node: Node, *values: Any) -> Any:
        return dressed(mixed(node.seed, [bare(value) for value in values]), node.is_large)


ACTORS: tuple[tuple[type, dict[str, int]], ...] = (
    (Ledger, {}),
    (Mixer, {"max_restarts": -1, "max_task_retries": -1}),
    (AsyncMixer, {"max_restarts": -1, "max_task_retries": -1}),
)
LEDGER = 0
_TASKS = {
    "mix": mix, "boom": boom, "crash": crash, "nest": nest, "nap": nap, "lend": lend, "handle": handle,
    "boxed": boxed, "borrow": borrow,
}  # fmt: skip


# --- drawing ---------------------------------------------------------------------------------------------

KINDS = (
    "put", "mix", "mix", "mix", "boom", "boxed", "handle", "crash", "lend", "nest", "nap", "call", "call",
)  # fmt: skip
#: What a task's own graph is made of: nothing whose outcome depends on who died.
INNER_KINDS = ("put", "mix", "mix", "boom", "boxed", "handle", "crash", "nap", "call")


def draw(random: Random, size: int, *, is_inner: bool = False) -> list[Node]:
    """A graph of so many nodes, or a few more."""
    nodes: list[Node] = []
    while len(nodes) < size:
        kind = random.choice(INNER_KINDS if is_inner else KINDS)
        takes = _some(random, nodes)
        seed, is_large = random.randrange(1, PRIME), random.random() < 0.2
        node = Node(kind, takes if kind != "put" else (), seed, is_large)
        if kind == "crash":
            retries = random.randrange(1, 4)
            # Inside a task one attempt is left for a death that is none of its own.
            crashes = random.randrange(retries if is_inner else retries + 2)
            node = node._replace(retries=retries, crashes=crashes)
        elif kind == "call":
            node = node._replace(actor=random.randrange(is_inner, len(ACTORS)))
        elif kind in ("mix", "nap") and not is_inner:
            node = node._replace(is_cancelled=random.random() < 0.15, retries=random.choice((0, 3, 3)))
        nodes.append(node)
        if kind == "lend":
            nodes.append(Node("borrow", (len(nodes) - 1,), 0))
    certain: set[int] = set()
    for at, node in enumerate(nodes):
        if _is_certain(node) and certain.issuperset(node.takes):
            certain.add(at)
    return [
        node._replace(is_dropped=at in certain and _is_taken(at, nodes) and random.random() < 0.3)
        for at, node in enumerate(nodes)
    ]


def inner_graph(node: Node) -> list[Node]:
    return draw(Random(node.seed), 4, is_inner=True)


def _some(random: Random, nodes: list[Node]) -> tuple[int, ...]:
    takeable = [at for at, node in enumerate(nodes) if node.kind != "lend"]
    count = min(len(takeable), random.choice((0, 1, 1, 2, 2, 3, 8)))
    return tuple(random.sample(takeable, count))


def _is_taken(at: int, nodes: list[Node]) -> bool:
    return any(at in other.takes for other in nodes)


def _is_certain(node: Node) -> bool:
    """Its outcome follows from those of its arguments, whatever happens. Only such a node may go unseen."""
    return node.kind in ("put", "boom", "mix", "boxed") and node.retries > 0 and not node.is_cancelled


# --- running ---------------------------------------------------------------------------------------------


class Run:
    """A graph that is on its way.

    Args:
        folder: where crashing tasks note their attempts.
    """

    def __init__(self, nodes: list[Node], folder: str) -> None:
        self.nodes = nodes
        self._folder = folder
        self._actors: dict[int, Any] = {}
        self.refs: dict[int, Any] = {}
        for at, node in enumerate(nodes):
            self.refs[at] = self._submit(node)
        for node, ref in zip(nodes, list(self.refs.values()), strict=True):
            if node.is_cancelled:
                nbray.cancel(ref)
        for at, node in enumerate(nodes):
            if node.is_dropped:
                del self.refs[at]

    def _submit(self, node: Node) -> Any:
        given = [self.refs[at] for at in node.takes]
        if node.kind == "put":
            return nbray.put(dressed(mixed(node.seed, []), node.is_large))
        if node.kind == "call":
            return self._actor(node.actor).call.remote(node, *given)
        task = _TASKS[node.kind].options(max_retries=node.retries)
        if node.kind == "boxed":
            return task.remote(node, {"refs": given})
        if node.kind == "handle":
            return task.remote(node, given)
        if node.kind == "borrow":
            return task.remote(*given)
        if node.kind in ("crash", "nest"):
            return task.remote(node, self._folder, *given)
        return task.remote(node, *given)

    def _actor(self, number: int) -> Any:
        if number not in self._actors:
            kind, options = ACTORS[number]
            self._actors[number] = nbray.remote(num_cpus=0, **options)(kind).remote()
        return self._actors[number]

    def outcomes(self) -> dict[int, Outcome]:
        """What came of the nodes: of those that nobody dropped, and that are no lists of references."""
        seen = {}
        for at, ref in self.refs.items():
            if self.nodes[at].kind != "lend":
                seen[at] = outcome_of(ref)
            else:
                with contextlib.suppress(nbray.NbrayError, BoomError):
                    nbray.get(ref, timeout=HANG_S)
        return seen


# --- the oracle ------------------------------------------------------------------------------------------


def faults(nodes: list[Node], seen: dict[int, Outcome], *, deaths: bool) -> list[str]:
    """What is wrong with these outcomes, in words. ``deaths``: a process was killed meanwhile."""
    outcomes: dict[int, Outcome] = {}
    ledger = 0
    found = []
    for at, node in enumerate(nodes):
        given = [outcomes[i] for i in node.takes]
        if node.kind == "lend":
            # Its taker gives what it lent, or its error.
            outcomes[at] = _expected(node, given, 0)
            continue
        expected = _expected(node, given, ledger)
        outcome = outcomes[at] = seen.get(at, expected)
        errors = {name for name in given if isinstance(name, str)} if node.kind != "handle" else set()
        if outcome != expected and not (outcome in errors or outcome in _may_end(node, deaths)):
            found.append(f"node {at} {node}: {outcome!r} instead of {expected!r}, given {given}")
        if node.kind == "call" and node.actor == LEDGER:
            if isinstance(outcome, int):
                ledger = outcome
            elif outcome == LOST_ACTOR and LOST_ACTOR not in errors:
                ledger = -1  # dead
    return found


def _expected(node: Node, given: list[Outcome], ledger: int) -> Outcome:
    """Without deaths and cancels."""
    if node.kind == "handle":
        return mixed(node.seed, [number_of(outcome) for outcome in given])
    errors = [outcome for outcome in given if isinstance(outcome, str)]
    if errors:
        return errors[0]
    numbers = [outcome for outcome in given if isinstance(outcome, int)]
    if node.kind == "borrow":
        return numbers[0]
    if node.kind == "boom":
        return f"boom {node.seed}"
    if node.kind == "crash" and node.crashes > node.retries:
        return LOST_WORKER
    if node.kind == "nest":
        return mixed(node.seed, _of_inner(node) + numbers)
    if node.kind == "call" and node.actor == LEDGER:
        return LOST_ACTOR if ledger < 0 else mixed(node.seed, [ledger, *numbers])
    return mixed(node.seed, numbers)


def _of_inner(node: Node) -> list[int]:
    nodes = inner_graph(node)
    outcomes: dict[int, Outcome] = {}
    for at, inner in enumerate(nodes):
        outcomes[at] = _expected(inner, [outcomes[i] for i in inner.takes], 0)
    return [number_of(outcomes[at]) for at, inner in enumerate(nodes) if not inner.is_dropped]


def _may_end(node: Node, deaths: bool) -> list[str]:
    """Errors that are nobody's fault."""
    names = [CANCELLED] if node.is_cancelled else []
    if deaths and node.kind == "borrow":
        names.append(LOST_OWNER)
    if deaths and node.kind == "call" and node.actor == LEDGER:
        names.append(LOST_ACTOR)
    if deaths and (node.retries == 0 or (node.kind == "crash" and node.crashes == node.retries)):
        names.append(LOST_WORKER)
    return names
