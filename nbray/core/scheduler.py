"""Which lease request gets a node's resources, and when.

Called by:  node, with what owners and workers said; it performs the commands.
Imports:    nbray.core.ledger, nbray.core.lease_requests, nbray.core.reclaim, nbray.model.
Never:      knows a socket or a process (core.workers finds the process), reads a clock.

Order: deeper requests first (children before new parents, so that nested work on one CPU needs few
processes), then first come, first served; what does not fit now is passed over. But not for ever: a
request that was delayed by ``bypass_limit`` admissions of requests that come after it gets a
*reservation*: nothing that comes after it and would delay it is admitted any more. The
reservation rests while a blocked worker keeps (other than CPUs) what the request needs, since
that worker may wait for one of those held back, and both would wait for ever.

Requests stand in one queue per kind (depth and shape), so a decision costs by the number of kinds,
not of requests. After each method no queued request can be admitted.

Methods append commands to the list that the caller passes.
Source: reservations for large jobs among backfilled small ones are EASY backfilling (Lifka,
JSSPP 1995), here with a count of admissions in place of estimated run times.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

from nbray.core.lease_requests import Admit, Command, Infeasible, Kind, Recent, Request, RequestQueue
from nbray.core.lease_requests import RequestEvent as Event
from nbray.core.lease_requests import RequestState as State
from nbray.core.ledger import Ledger, shares
from nbray.core.reclaim import Reclaimer
from nbray.model.errors import ProtocolError
from nbray.model.ids import short
from nbray.model.resources import UNIT, Quantities, describe, to_shape

#: Admissions that may delay a request before it gets a reservation.
BYPASS_LIMIT = 64

#: Ended leases and lost owners whose IDs are kept, so that a late repeat does not start them anew.
REMEMBERED = 8192


class Waiting(NamedTuple):
    """Requests of one kind that wait. ``lacking`` names resources of which too little is free."""

    head: Request
    number: int
    feasible: bool
    reason: str
    lacking: list[str]


class Scheduler:
    """The leases of one node.

    Args:
        total: the node's resources, in units of 1e-4.
        bypass_limit: admissions that may delay a request before it gets a reservation.
    """

    def __init__(self, total: Quantities, bypass_limit: int = BYPASS_LIMIT) -> None:
        self._ledger = Ledger(total)
        self._bypass_limit = bypass_limit
        self._reclaimer = Reclaimer()
        self._requests: dict[bytes, Request] = {}
        self._of_owner: dict[bytes, dict[bytes, Request]] = {}
        self._queues: dict[Kind, RequestQueue] = {}
        self._arrivals = 0
        self._ended = Recent(REMEMBERED)
        self._lost_owners = Recent(REMEMBERED)

    # --- what owners say -----------------------------------------------------------------------

    def request(
        self, lease_id: bytes, owner: bytes, quantities: Quantities, depth: int, backlog: int, name: str,
        out: list[Command], *, for_life: bool = False,
    ) -> None:  # fmt: skip
        """An owner asks for a lease. Asking again with the same ID never makes a second one.

        ``for_life``: an actor's. It is not asked back for others, its CPUs are not lent, and what it holds
        is no part of what others may count on.

        The answer to a repeat is the first one: nothing yet while it waits, the grant again, or
        again that it is infeasible. Of a lease that ended its owner was told then; silence.

        Raises:
            ProtocolError: a negative quantity, or another owner's lease ID.
        """
        known = self._requests.get(lease_id)
        if known is not None:
            self._answer_again(known, owner, out)
            return
        if lease_id in self._ended or owner in self._lost_owners:
            return
        if depth < 0 or any(amount < 0 for amount in quantities.values()):
            raise ProtocolError(
                f"Lease {short(lease_id)} for {name} asks for {quantities} at depth {depth}; neither can be "
                "negative. The owner's nbray has a bug, or is another version."
            )
        self._arrivals += 1
        request = Request(
            lease_id, owner, to_shape(quantities), depth, backlog, self._arrivals, name, for_life=for_life
        )
        self._requests[lease_id] = request
        self._of_owner.setdefault(owner, {})[lease_id] = request
        queue = self._join(request)
        if not queue.feasible:
            self._say_infeasible(request, out)
            return
        if queue.head() is request:  # else one like it came earlier and does not fit either
            self._offer(queue, self._ahead_of(request), out)
        self._reclaimer.ask(self._ledger, out)

    def cancel(self, lease_id: bytes, out: list[Command]) -> bool:
        """The owner wants it no more. True when that ended it.

        A granted lease goes on: the cancel crossed with the grant, and the owner will return it.
        """
        request = self._requests.get(lease_id)
        if request is None:
            return False
        before = request.state
        request.move(Event.CANCEL)
        if request.state is not State.ENDED:
            return False
        self._forget(request, before)
        self._pass(out)
        return True

    def owner_lost(self, owner: bytes, out: list[Command]) -> list[bytes]:
        """The owner's process is gone: end all its leases, and refuse what it sent before.

        Returns:
            Those of its leases that were admitted or granted: free their workers.
        """
        self._lost_owners.add(owner)
        held: list[bytes] = []
        for request in list(self._of_owner.get(owner, {}).values()):
            if request.state is not State.QUEUED:
                held.append(request.lease_id)
            self._end(request)
        self._pass(out)
        return held

    def owners(self) -> set[bytes]:
        """Processes that have a lease, or wait for one."""
        return {owner for owner, requests in self._of_owner.items() if requests}

    # --- what the node says ----------------------------------------------------------------------

    def granted(self, lease_id: bytes, out: list[Command]) -> bool:
        """A worker serves the lease now. False when it ended meanwhile: keep the worker.

        Raises:
            ProtocolError: it was not admitted.
        """
        request = self._requests.get(lease_id)
        if request is None:
            return False
        before = request.state
        request.move(Event.GRANT)
        if before is State.ADMITTED:
            self._reclaimer.runs(request)
            self._reclaimer.ask(self._ledger, out)
        return True

    def ended(self, lease_id: bytes, out: list[Command]) -> bool:
        """Returned, or its worker died. True the first time, when its resources come back."""
        request = self._requests.get(lease_id)
        if request is None:
            return False
        self._end(request)
        self._pass(out)
        return True

    def blocked(self, lease_id: bytes, out: list[Command]) -> bool:
        """The lease's worker waits in get or wait: lend its CPUs. False when nothing changed.

        Raises:
            ProtocolError: the lease was not granted.
        """
        request = self._requests.get(lease_id)
        if request is None:
            return False
        before = request.state
        request.move(Event.BLOCK)
        if before is State.BLOCKED:
            return False
        self._ledger.lend(request.shape)
        self._reclaimer.runs_no_more(request)
        self._pass(out)
        return True

    def unblocked(self, lease_id: bytes, out: list[Command]) -> bool:
        """The worker goes on and has its CPUs back, even if others use them. False: no change.

        Raises:
            ProtocolError: the lease was not granted.
        """
        request = self._requests.get(lease_id)
        if request is None:
            return False
        before = request.state
        request.move(Event.UNBLOCK)
        if before is not State.BLOCKED:
            return False
        self._ledger.unlend(request.shape)
        self._reclaimer.runs(request)
        self._reclaimer.ask(self._ledger, out)
        return True

    def set_total(self, total: Quantities, out: list[Command]) -> None:
        """The capacity changed: what was infeasible may run now, or the other way round."""
        self._ledger.set_total(total)
        for queue in self._queues.values():
            feasible = self._ledger.possible(queue.shape)
            changed, queue.feasible = feasible is not queue.feasible, feasible
            for request in queue.requests.values() if changed else ():
                if feasible:
                    request.told = False
                    self._reclaimer.waits(request)
                else:
                    self._reclaimer.waits_no_more(request)
                    self._say_infeasible(request, out)
        self._pass(out)

    # --- what people and the node may ask -----------------------------------------------------------

    def state(self, lease_id: bytes) -> State | None:
        """Where a lease stands; None when it is not known (any more)."""
        request = self._requests.get(lease_id)
        return None if request is None else request.state

    def owner_of(self, lease_id: bytes) -> bytes | None:
        """The process that asked for a lease; None when the lease is not known (any more)."""
        request = self._requests.get(lease_id)
        return None if request is None else request.owner

    def free(self) -> Quantities:
        """What can be leased now, in units of 1e-4. Negative by the overshoot of unblocked workers."""
        return dict(self._ledger.free)

    def snapshot(self) -> dict[str, Any]:
        """Plain data for people: the books, and per kind of request how many wait and why."""
        ledger = self._ledger
        return {
            "total": dict(ledger.total),
            "free": dict(ledger.free),
            "leased": {name: amount for name, amount in ledger.leased.items() if amount},
            "lent": {name: amount for name, amount in ledger.lent.items() if amount},
            "overshoot": ledger.overshoot(),
            "queued": [self._describe(queue) for queue in sorted(self._queues.values(), key=_rank)],
        }

    def leases(self) -> list[Request]:
        """Those that have their resources, the oldest request first."""
        return [r for r in self._requests.values() if r.state not in (State.QUEUED, State.ENDED)]

    def waiting(self) -> list[Waiting]:
        """The kinds of requests that wait, who comes first first."""
        return [
            Waiting(
                queue.head(), len(queue.requests), queue.feasible, self._reason(queue),
                self._ledger.missing(queue.shape),
            )
            for queue in sorted(self._queues.values(), key=_rank)
        ]  # fmt: skip

    # --- inside --------------------------------------------------------------------------------------

    def _answer_again(self, request: Request, owner: bytes, out: list[Command]) -> None:
        if request.owner != owner:
            raise ProtocolError(
                f"Process {short(owner)} asked for lease {short(request.lease_id)}, which is process "
                f"{short(request.owner)}'s. Lease IDs must not be shared: this is a bug in nbray."
            )
        request.move(Event.REPEATED)
        if request.state in (State.GRANTED, State.BLOCKED):
            out.append(Admit(request.lease_id))
        elif request.told:
            out.append(Infeasible(request.lease_id, self._why_infeasible(request)))

    def _join(self, request: Request) -> RequestQueue:
        queue = self._queues.get(request.kind)
        if queue is None:
            queue = RequestQueue(request.shape, self._ledger.possible(request.shape))
            self._queues[request.kind] = queue
        request.mark = queue.passed
        queue.requests[request.lease_id] = request
        if queue.feasible:
            self._reclaimer.waits(request)
        return queue

    def _leave(self, request: Request) -> None:
        queue = self._queues[request.kind]
        del queue.requests[request.lease_id]
        if queue.feasible:
            self._reclaimer.waits_no_more(request)
        if not queue.requests:
            del self._queues[request.kind]

    def _ahead_of(self, request: Request) -> list[RequestQueue]:
        return [queue for queue in self._queues.values() if queue.feasible and _rank(queue) < request.rank]

    def _pass(self, out: list[Command]) -> None:
        """Admit whatever can be. Resources only shrink meanwhile, so each queue gives up once."""
        turns = [(_rank(queue), queue) for queue in self._queues.values() if queue.feasible]
        heapq.heapify(turns)
        ahead: list[RequestQueue] = []
        while turns:
            _, queue = heapq.heappop(turns)
            if not self._offer(queue, ahead, out):
                ahead.append(queue)
            elif queue.requests:
                heapq.heappush(turns, (_rank(queue), queue))
        self._reclaimer.ask(self._ledger, out)

    def _offer(self, queue: RequestQueue, ahead: list[RequestQueue], out: list[Command]) -> bool:
        """Admit the head of ``queue`` if it fits and delays no reservation of those ``ahead``."""
        ledger = self._ledger
        if not ledger.fits(queue.shape):
            return False
        delayed = [other for other in ahead if ledger.delays(queue.shape, other.shape)]
        if any(self._is_reserved(other) for other in delayed):
            return False
        for other in delayed:
            other.passed += 1
        request = queue.head()
        request.move(Event.ADMIT)
        self._leave(request)
        ledger.take(request.shape)
        if request.for_life:  # it is nothing that its owner's tasks could have: who has no other starves
            ledger.keep(request.shape)
        else:
            self._reclaimer.holds(request)
        out.append(Admit(request.lease_id))
        return True

    def _is_reserved(self, queue: RequestQueue) -> bool:
        return queue.head_passed() >= self._bypass_limit and self._ledger.comes_free(queue.shape)

    def _end(self, request: Request) -> None:
        before = request.state
        request.move(Event.END)
        self._forget(request, before)

    def _forget(self, request: Request, before: State) -> None:
        """Undo what the request held in the state it was in."""
        if before is State.QUEUED:
            self._leave(request)
        else:
            if before is State.BLOCKED:
                self._ledger.unlend(request.shape)
            if request.for_life:
                self._ledger.keep_no_more(request.shape)
            else:
                self._reclaimer.ended(request)
            self._ledger.give(request.shape)
        del self._requests[request.lease_id]
        siblings = self._of_owner[request.owner]
        del siblings[request.lease_id]
        if not siblings:
            del self._of_owner[request.owner]
        self._ended.add(request.lease_id)

    def _say_infeasible(self, request: Request, out: list[Command]) -> None:
        if not request.told:
            request.told = True
            out.append(Infeasible(request.lease_id, self._why_infeasible(request)))

    def _why_infeasible(self, request: Request) -> str:
        needs, total = dict(request.shape), self._ledger.total
        lacking = [name for name, amount in request.shape if total.get(name, 0) < amount]
        return (
            f"{request.name} needs {describe({name: needs[name] for name in lacking})}; this node has "
            f"{_have(total, lacking)}. It waits until there is enough: ask for less, or add a node."
        )

    def _describe(self, queue: RequestQueue) -> dict[str, Any]:
        head = queue.head()
        return {
            "shape": dict(queue.shape),
            "depth": head.kind[0],
            "count": len(queue.requests),
            "backlog": sum(request.backlog for request in queue.requests.values()),
            "name": head.name,
            "reason": self._reason(queue),
        }

    def _reason(self, queue: RequestQueue) -> str:
        if not queue.feasible:
            return self._why_infeasible(queue.head())
        missing = self._ledger.missing(queue.shape)
        if not missing:
            names = [
                other.head().name for other in self._ahead_of(queue.head())
                if self._is_reserved(other) and self._ledger.delays(queue.shape, other.shape)
            ]  # fmt: skip
            return f"what it needs is reserved for {', '.join(names)}, which waited longer"
        needs = describe({name: amount for name, amount in queue.shape if name in missing})
        users = sum(
            shares(request.shape, missing) and request.state in (State.ADMITTED, State.GRANTED)
            for request in self._requests.values()
        )
        return f"waits for {needs}; free are {_have(self._ledger.free, missing)}, {users} leases use the rest"


def _rank(queue: RequestQueue) -> tuple[int, int]:
    return queue.head().rank


def _have(quantities: Quantities, names: list[str]) -> str:
    """``{"CPU": 20000}, ["CPU", "GPU"]`` -> ``"2 CPU, 0 GPU"``."""
    return ", ".join(f"{max(quantities.get(name, 0), 0) / UNIT:g} {name}" for name in names)
