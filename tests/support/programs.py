"""Random programs over references, which know what every reference must lead to.

Called by:  tests.integration.test_random_programs.
Imports:    nbray. Workers import it, too: what tasks stash lies in a global of this module.
Never:      draws a number from anything but the seed.

A program is a list of steps, and some steps are tasks with steps of their own: values are put, large and
small; references are put into values, handed to tasks, returned, kept by a worker for a later task, handed
on by borrowers, dropped in any order, and read. A ``Spec`` says what a reference must lead to.
"""

from __future__ import annotations

import os
import signal
from random import Random
from typing import Any, NamedTuple

import numpy as np

import nbray

#: Bytes: in a message, in the store. ``NBRAY_PROGRAMS_LARGE=12000000`` makes more than the store holds.
SMALL, LARGE = 40, int(os.environ.get("NBRAY_PROGRAMS_LARGE", "150000"))


class Spec(NamedTuple):
    """What is behind a reference: a leaf with this seed and size, or a box of others. ``pid`` owns it."""

    seed: int
    size: int
    pid: int
    inside: tuple[Spec, ...]


class Held(NamedTuple):
    ref: Any
    spec: Spec


_STASH: list[Held] = []


def stash() -> list[Held]:
    """What this worker keeps. (A task's own globals are copies: its code travels by value.)"""
    return _STASH


def leaf(seed: int, size: int) -> Any:
    return np.frombuffer(Random(seed).randbytes(8) * (size // 8), dtype=np.uint8)


def check(held: Held, depth: int = 3) -> None:
    """Read it, and what is in it: every byte is right."""
    value = nbray.get(held.ref, timeout=30)
    if not held.spec.inside:
        assert (value == leaf(held.spec.seed, held.spec.size)).all(), f"wrong bytes in {held}"
    elif depth:
        assert [inner.spec for inner in value] == list(held.spec.inside), f"wrong references in {held}"
        for inner in value:
            check(inner, depth - 1)


def put_leaf(random: Random) -> Held:
    seed, size = random.getrandbits(32), random.choice([SMALL, SMALL, LARGE])
    return Held(nbray.put(leaf(seed, size)), Spec(seed, size, os.getpid(), ()))


def put_box(held: list[Held]) -> Held:
    return Held(nbray.put(held), Spec(0, 0, os.getpid(), tuple(h.spec for h in held)))


@nbray.remote(num_cpus=0.5)
def child(seed: int, depth: int, given: list[Held], direct: Any) -> list[Held]:
    """A task: has what it was given, goes some steps, returns some of what it has then."""
    random = Random(seed)
    bag = list(given)
    kept = stash()
    if random.random() < 0.3:
        kept.extend(random.sample(bag, min(len(bag), 2)))
    if kept and random.random() < 0.4:
        check(kept[random.randrange(len(kept))])
    if kept and random.random() < 0.3:
        bag.append(kept.pop(random.randrange(len(kept))))
    walk(random, depth, bag, 5)
    return random.sample(bag, min(len(bag), random.randrange(4)))


@nbray.remote(num_cpus=0)
def clear(folder: str, everybody: int) -> int:
    """Forget the stash of one worker: waits until as many of these run as there are workers."""
    import time
    from pathlib import Path

    stash().clear()
    (Path(folder) / f"{os.getpid()}").touch()
    until_s = time.monotonic() + 5
    while len(os.listdir(folder)) < everybody and time.monotonic() < until_s:
        time.sleep(0.002)
    return os.getpid()


def walk(random: Random, depth: int, bag: list[Held], steps: int) -> None:
    """Go so many steps with these references."""
    for _ in range(steps):
        step = random.random()
        if step < 0.2 or not bag:
            bag.append(put_leaf(random))
        elif step < 0.35:
            bag.append(put_box(random.sample(bag, min(len(bag), random.randrange(1, 4)))))
        elif step < 0.6 and depth:
            bag.append(call(random, depth, bag))
        elif step < 0.8:
            check(random.choice(bag))
        else:
            del bag[random.randrange(len(bag))]


def call(random: Random, depth: int, bag: list[Held]) -> Held:
    """Start a task with some of these, wait for it, and have what it returned in a box."""
    given = random.sample(bag, min(len(bag), random.randrange(4)))
    direct = random.choice(bag).ref
    ref = child.remote(random.getrandbits(32), depth - 1, given, direct)
    if random.random() < 0.4:
        del bag[random.randrange(len(bag))]  # while it runs
    returned = nbray.get(ref, timeout=30)
    return (
        Held(ref, Spec(0, 0, os.getpid(), tuple(h.spec for h in returned))) if returned else put_leaf(random)
    )


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
