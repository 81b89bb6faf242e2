"""Requests that wait for what others keep for their lives: nobody will give it back by itself.

Called by:  node.watching, once a second while somebody waits.
Imports:    nbray.model.resources.
Never:      reads a clock (times arrive as arguments, in seconds), or says more than is certain.

A task's lease comes back when the task is over. An actor's comes back when the actor ends, which may be
never: so who waits for nothing else is told, once, and again when it has waited much longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from nbray.model.resources import Shape, describe

#: Who has waited for so long is worth a line; again when that is so many times as long ago.
AFTER_S = 3.0
_AGAIN_FACTOR = 10.0
_NAMES_MAX = 4


class Holding(NamedTuple):
    """A lease: ``lasting`` if it is for an actor's life."""

    name: str
    shape: Shape
    lasting: bool


class Wanting(NamedTuple):
    """Requests of one kind. ``request_id`` is of the first, ``lacking`` is what too little is free of."""

    request_id: bytes
    name: str
    number: int
    shape: Shape
    lacking: tuple[str, ...]


def keepers(wanting: Wanting, holdings: Iterable[Holding]) -> list[str]:
    """Who keeps what is wanted for life; empty if anybody else has of it, and may give it back."""
    of_it = [each for each in holdings if any(name in wanting.lacking for name, _ in each.shape)]
    return [each.name for each in of_it] if all(each.lasting for each in of_it) else []


class Starving:
    """Who waits in vain, and since when."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, tuple[float, float]] = {}  # since when, and told at that age next

    def look(self, now_s: float, wanting: Iterable[Wanting], holdings: Iterable[Holding]) -> list[str]:
        """What is to be told now."""
        known = list(holdings)
        before, self._waiting = self._waiting, {}
        texts = []
        for each in wanting:
            names = keepers(each, known)
            if not names:
                continue
            since_s, due_s = before.get(each.request_id, (now_s, AFTER_S))
            age_s = now_s - since_s
            if age_s >= due_s:
                due_s = age_s * _AGAIN_FACTOR
                texts.append(_words(each, names, age_s))
            self._waiting[each.request_id] = (since_s, due_s)
        return texts


def _words(wanting: Wanting, names: list[str], age_s: float) -> str:
    lacking = describe({name: amount for name, amount in wanting.shape if name in wanting.lacking})
    more = f", and {wanting.number - 1} like it," if wanting.number > 1 else ""
    return (
        f"{wanting.name}{more} has waited for {lacking} for {age_s:.0f} s. {named(names)} of this node for "
        "life, so nothing comes free until one of them ends. Drop the handles of actors that you no longer "
        "need, let them hold less (num_cpus=0 holds no CPU), or give init() more."
    )


def named(names: list[str]) -> str:
    """``Actor A (twice) and Actor B keep all``, with the most frequent first."""
    counts = Counter(names)
    shown = [name if n == 1 else f"{name} ({n} of them)" for name, n in counts.most_common(_NAMES_MAX)]
    if len(counts) > _NAMES_MAX:
        shown.append(f"{len(counts) - _NAMES_MAX} other kinds")
    keep = "keeps" if len(names) == 1 else "keep"
    return (" and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]) + f" {keep} all"
