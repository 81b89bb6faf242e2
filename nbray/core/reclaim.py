"""Fairness between owners: who waits without a lease, and whose lease to ask for.

Called by:  core.scheduler, which reports every change of a request's state.
Imports:    nbray.core.ledger, nbray.core.lease_requests.
Never:      takes a lease away: it asks, and the owner returns it after the running task.

An owner keeps a lease while it has tasks for it, so another could wait for as long as that takes. An
owner *starves* while it has queued requests of a kind and no lease of that kind. For each, one
lease at a time is asked for: one that holds what is missing, no deeper than the request (children
finish before new parents start), from the owner with the most of them. No lease is asked for twice,
nor while its worker is blocked: that one may wait for the very request. Where there is none, the owners
of deeper ones are asked not to linger: a lease that is idle helps no child.
"""

from __future__ import annotations

from collections import OrderedDict

from nbray.core.lease_requests import Command, Kind, Reclaim, Request, Spare
from nbray.core.ledger import Ledger, shares

_Owners = OrderedDict[bytes, None]


class Reclaimer:
    """Counts who waits and who holds; costs nothing per request that waits in a long queue."""

    __slots__ = ("_askable", "_asks", "_holds", "_outstanding", "_starving", "_waits")

    def __init__(self) -> None:
        self._waits: dict[tuple[Kind, bytes], int] = {}
        self._holds: dict[tuple[Kind, bytes], int] = {}
        self._starving: dict[Kind, _Owners] = {}
        #: Granted leases that were not asked for yet, by kind and owner, oldest first.
        self._askable: dict[Kind, dict[bytes, OrderedDict[bytes, Request]]] = {}
        #: Lease that was asked for and still runs -> for whom.
        self._asks: dict[bytes, tuple[Kind, bytes]] = {}
        self._outstanding: set[tuple[Kind, bytes]] = set()

    def waits(self, request: Request) -> None:
        """It joined the queue and is feasible."""
        self._count(self._waits, request, 1)

    def waits_no_more(self, request: Request) -> None:
        """It left the queue, or became infeasible."""
        self._count(self._waits, request, -1)

    def holds(self, request: Request) -> None:
        """Its resources are taken."""
        self._count(self._holds, request, 1)

    def runs(self, request: Request) -> None:
        """It was granted, or goes on after it was blocked."""
        if not request.asked:
            owners = self._askable.setdefault(request.kind, {})
            owners.setdefault(request.owner, OrderedDict())[request.lease_id] = request

    def runs_no_more(self, request: Request) -> None:
        """Its worker is blocked, or it is about to end."""
        owners = self._askable.get(request.kind, {})
        leases = owners.get(request.owner)
        if leases is not None and leases.pop(request.lease_id, None) is not None and not leases:
            del owners[request.owner]
            if not owners:
                del self._askable[request.kind]
        pair = self._asks.pop(request.lease_id, None)
        if pair is not None:
            self._outstanding.discard(pair)
            self._look(pair)

    def ended(self, request: Request) -> None:
        """A lease that held resources is over."""
        self.runs_no_more(request)
        self._count(self._holds, request, -1)

    def ask(self, ledger: Ledger, out: list[Command]) -> None:
        """Ask for one lease for every owner that starves, as far as there are any to ask for."""
        if not self._starving or not self._askable:
            return
        for kind in sorted(self._starving, key=lambda kind: -kind[0]):
            missing = ledger.missing(kind[1])
            while missing and kind in self._starving:
                victim = self._victim(kind[0], missing)
                if victim is None:
                    self._spare_deeper(kind[0], missing, out)
                    break
                self._ask_for(victim, (kind, next(iter(self._starving[kind]))), out)

    def _ask_for(self, victim: Request, pair: tuple[Kind, bytes], out: list[Command]) -> None:
        self.runs_no_more(victim)
        victim.asked = True
        self._asks[victim.lease_id] = pair
        self._outstanding.add(pair)
        self._look(pair)
        out.append(Reclaim(victim.lease_id, victim.owner))

    def _victim(self, depth: int, missing: list[str]) -> Request | None:
        counts: dict[bytes, int] = {}
        first: dict[bytes, Request] = {}
        for (other_depth, shape), owners in self._askable.items():
            if other_depth > depth or not shares(shape, missing):
                continue
            for owner, leases in owners.items():
                counts[owner] = counts.get(owner, 0) + len(leases)
                first.setdefault(owner, next(iter(leases.values())))
        if not counts:
            return None
        return first[max(counts, key=counts.__getitem__)]

    def _spare_deeper(self, depth: int, missing: list[str], out: list[Command]) -> None:
        for (other_depth, shape), owners in self._askable.items():
            if other_depth > depth and shares(shape, missing):
                for leases in owners.values():
                    for request in leases.values():
                        if not request.spared:
                            request.spared = True
                            out.append(Spare(request.lease_id, request.owner))

    def _count(self, counter: dict[tuple[Kind, bytes], int], request: Request, change: int) -> None:
        pair = (request.kind, request.owner)
        counter[pair] = counter.get(pair, 0) + change
        if not counter[pair]:
            del counter[pair]
        self._look(pair)

    def _look(self, pair: tuple[Kind, bytes]) -> None:
        """Note whether this owner starves for this kind, now that something about it changed."""
        kind, owner = pair
        if pair in self._waits and pair not in self._holds and pair not in self._outstanding:
            self._starving.setdefault(kind, OrderedDict())[owner] = None
        elif kind in self._starving:
            owners = self._starving[kind]
            owners.pop(owner, None)
            if not owners:
                del self._starving[kind]
