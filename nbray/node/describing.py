"""Who holds what on this node: asks every process, and answers when all have answered, or after a second.

Called by:  node.daemon.
Imports:    nbray.wire; transport.aio for the type of a peer.
Never:      waits for a process that is busy: who is late is named as such.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

from nbray.transport.aio import Peer
from nbray.wire.base import Message
from nbray.wire.memory_messages import (
    DescribeEntries,
    EntriesDescribed,
    EntryFacts,
    GetMemory,
    MemoryReport,
    ProcessFacts,
    StoredFacts,
)

#: How long processes have to answer.
DEADLINE_S = 1.0
#: So many objects are in a report, of all processes together: it has to fit into a message.
ENTRIES_MAX = 100_000


class _Question:
    """One that is open: who asked, who has yet to answer, and what was answered."""

    __slots__ = ("asker", "described", "request_id", "waiting")

    def __init__(self, asker: bytes, request_id: int, waiting: dict[bytes, int]) -> None:
        self.asker = asker
        self.request_id = request_id
        self.waiting = waiting
        self.described: list[ProcessFacts] = []


class Describing:
    """Serves ``GetMemory``.

    Args:
        node_id: of this node.
        processes: says who can be asked, PID by process ID.
        send: delivers a message to a process, and drops what a lost one would get.
        call_later: calls back on the loop after a delay in seconds.
        stored: the objects in the store's care, and how many were left out.
        figures: the store's.
    """

    def __init__(
        self,
        node_id: bytes,
        processes: Callable[[], dict[bytes, int]],
        send: Callable[[bytes, Message], object],
        call_later: Callable[[float, Callable[[], None]], object],
        stored: Callable[[], tuple[list[StoredFacts], int]],
        figures: Callable[[], Mapping[str, int]],
    ) -> None:
        self._node_id = node_id
        self._processes = processes
        self._send = send
        self._call_later = call_later
        self._stored = stored
        self._figures = figures
        self._open: dict[int, _Question] = {}
        self._last_number = 0
        self.handlers: dict[type[Message], Callable[[Peer, Any], None]] = {
            GetMemory: lambda peer, message: self.asked(peer.process_id, message),
            EntriesDescribed: lambda peer, message: self.described(peer.process_id, message),
        }

    def asked(self, asker: bytes, message: GetMemory) -> None:
        """Somebody wants to know; what the asker holds it knows itself."""
        others = {process_id: pid for process_id, pid in self._processes().items() if process_id != asker}
        self._last_number += 1
        number = self._last_number
        question = self._open[number] = _Question(asker, message.request_id, others)
        for process_id in list(others):
            self._send(process_id, DescribeEntries(number))
        if others:
            self._call_later(DEADLINE_S, lambda: self._finish(number, question))
        else:
            self._finish(number, question)

    def described(self, process_id: bytes, message: EntriesDescribed) -> None:
        """One of them answered."""
        question = self._open.get(message.number)
        if question is None or question.waiting.pop(process_id, None) is None:
            return  # too late, or not asked
        question.described.append(message.facts)
        if not question.waiting:
            self._finish(message.number, question)

    def _finish(self, number: int, question: _Question) -> None:
        if self._open.pop(number, None) is None:
            return
        present = self._processes()
        silent = [(process_id, pid) for process_id, pid in question.waiting.items() if process_id in present]
        stored, left_out = self._stored()
        report = MemoryReport(
            question.request_id,
            self._node_id,
            dict(self._figures()),
            stored,
            _bounded(question.described),
            silent,
            left_out,
        )
        self._send(question.asker, report)


def _bounded(described: list[ProcessFacts]) -> list[ProcessFacts]:
    """No more of each than its share of what a message may hold, the largest objects."""
    if sum(len(facts.entries) for facts in described) <= ENTRIES_MAX:
        return described
    share = ENTRIES_MAX // len(described)
    return [_shortened(facts, share) for facts in described]


def _shortened(facts: ProcessFacts, share: int) -> ProcessFacts:
    left_out = facts.left_out + max(0, len(facts.entries) - share)
    entries = heapq.nlargest(share, facts.entries, key=_size)
    return ProcessFacts(facts.process_id, facts.pid, facts.role, facts.running, entries, left_out)


def _size(facts: EntryFacts) -> int:
    return facts.size_bytes
