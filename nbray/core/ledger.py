"""A node's resources in fixed point: what there is, what is leased, what is lent, what is free.

Called by:  core.scheduler, core.reclaim.
Imports:    nbray.model.resources.
Never:      knows a lease: it books shapes, and its caller books each once.

For each resource ``free + leased - lent == total`` at any time. Only CPUs are lent, while the worker
that leased them waits. When it goes on it takes them back at once, even if they are in use: ``free``
is then negative, and that much is the *overshoot*. It is never more than what was lent before, and
while it lasts nothing that needs a CPU fits.
"""

from __future__ import annotations

from collections.abc import Iterable

from nbray.model.resources import CPU, Quantities, Shape


class Ledger:
    """The books of one node. Quantities are in units of 1e-4."""

    __slots__ = ("_held_back", "free", "leased", "lent", "total")

    def __init__(self, total: Quantities) -> None:
        self.total: Quantities = {}
        self.free: Quantities = {}
        self.leased: Quantities = {}
        self.lent: Quantities = {}
        # What blocked workers keep (all but CPUs): it may come back only after others have run. And what
        # is leased for life.
        self._held_back: Quantities = {}
        self.set_total(total)

    def set_total(self, total: Quantities) -> None:
        """Another capacity; what is leased stays leased, so ``free`` may become negative."""
        for name in total.keys() | self.total.keys():
            change = total.get(name, 0) - self.total.get(name, 0)
            self.free[name] = self.free.get(name, 0) + change
        self.total = {name: amount for name, amount in total.items() if amount}

    def take(self, shape: Shape) -> None:
        """Lease it."""
        for name, amount in shape:
            self.free[name] -= amount
            self.leased[name] = self.leased.get(name, 0) + amount

    def give(self, shape: Shape) -> None:
        """A lease ended whose CPUs are not lent."""
        for name, amount in shape:
            self.free[name] += amount
            self.leased[name] -= amount

    def keep(self, shape: Shape) -> None:
        """What was just taken is not expected back."""
        for name, amount in shape:
            self._held_back[name] = self._held_back.get(name, 0) + amount

    def keep_no_more(self, shape: Shape) -> None:
        """It comes back all the same."""
        for name, amount in shape:
            self._held_back[name] -= amount

    def lend(self, shape: Shape) -> None:
        """The worker that holds ``shape`` waits: lend its CPUs, and only those."""
        for name, amount in shape:
            if name == CPU:
                self.free[name] += amount
                self.lent[name] = self.lent.get(name, 0) + amount
            else:
                self._held_back[name] = self._held_back.get(name, 0) + amount

    def unlend(self, shape: Shape) -> None:
        """The worker goes on: take its CPUs back, free or not."""
        for name, amount in shape:
            if name == CPU:
                self.free[name] -= amount
                self.lent[name] -= amount
            else:
                self._held_back[name] -= amount

    def overshoot(self) -> Quantities:
        """By how much more is in use than there is; empty as a rule."""
        return {name: -amount for name, amount in self.free.items() if amount < 0}

    def fits(self, shape: Shape) -> bool:
        """Whether it can be leased now."""
        free = self.free
        return all(free.get(name, 0) >= amount for name, amount in shape)

    def possible(self, shape: Shape) -> bool:
        """Whether it could be leased if nothing else were."""
        return all(self.total.get(name, 0) >= amount for name, amount in shape)

    def comes_free(self, shape: Shape) -> bool:
        """Whether it could be leased once all workers that run now are done.

        False when a blocked worker keeps a part of it: that worker may wait for whatever would be
        held back in favour of ``shape``.
        """
        held = self._held_back
        return all(self.total.get(name, 0) - held.get(name, 0) >= amount for name, amount in shape)

    def missing(self, shape: Shape) -> list[str]:
        """Names of the resources of which ``shape`` needs more than is free."""
        return [name for name, amount in shape if self.free.get(name, 0) < amount]

    def delays(self, taken: Shape, waiting: Shape) -> bool:
        """Whether leasing ``taken`` now would leave ``waiting`` short of something that both need."""
        for name, amount in taken:
            left = self.free.get(name, 0) - amount
            for other, need in waiting:
                if other == name and left < need:
                    return True
        return False


def shares(shape: Shape, names: Iterable[str]) -> bool:
    """Whether ``shape`` needs any of the named resources."""
    return any(name in names for name, _ in shape)
