"""The state of a cluster at one moment.

Called by:  api.session, jupyter.
Imports:    nbray.events.schema, nbray.observe, nbray.model.resources.
Never:      asks again: it is a snapshot; fails over a fact that a daemon did not send.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from nbray.events.schema import STATES, TASK
from nbray.model.resources import CPU, MEMORY, MEMORY_UNIT_BYTES
from nbray.observe.view import View
from nbray.observe.wording import counted, headline, quantity, redis_origin, size

NOT_RUNNING = "nbray: not running"


class ClusterStatus(View):
    """A snapshot of the cluster: nodes, workers, store, tasks.

    Its ``repr`` holds nothing that differs between two runs of a notebook; ``describe()`` tells
    everything; ``to_dict()`` is for programs.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        """Args: data: the data of a ``Status`` message; without any, nothing runs."""
        self._data = copy.deepcopy(dict(data or {}))

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive; ``resources`` and ``free`` in units of 1e-4."""
        return [node for node in self._data.get("nodes") or [] if node.get("alive", True)]

    def to_dict(self) -> dict[str, Any]:
        """A copy of the data, fit for JSON."""
        return copy.deepcopy(self._data)

    def __repr__(self) -> str:
        if not self.nodes:
            return NOT_RUNNING
        return headline(len(self.nodes), _total(self.nodes, "resources"))

    def _facts(self) -> list[tuple[str, str]]:
        dropped = self._data.get("events_dropped")
        facts = [
            *(("node", _node(node)) for node in self.nodes),
            ("workers", _counts(self._part("workers"), _WORKERS)),
            ("store", _store(self._part("store"))),
            ("tasks", _counts(self._part("tasks"), _TASKS)),
            ("actors", _actors(self._part("actors"))),
            *(("function", text) for text in _functions(self._part("functions"))),
            ("leases", _counts(self._part("leases"), _LEASES)),
            ("redis", _redis(self._part("redis"))),
            ("events", f"{dropped:,} dropped" if dropped else ""),
        ]
        return [(label, value) for label, value in facts if value]  # what was not sent is left out

    def _part(self, name: str) -> dict[str, Any]:
        part = self._data.get(name)
        return part if isinstance(part, dict) else {}


# key in the message -> word that people see, in this order; the message holds more, for monitors.
_WORKERS = {"starting": "starting", "idle": "idle", "leased": "busy", "blocked": "blocked"}
_TASKS = {state: state for state in STATES[TASK]}
_ACTORS = {s: s for s in ("pending", "starting", "alive", "restarting", "leaving", "dead")}
_FUNCTIONS_SHOWN = 10
_LEASES = {"granted": "granted", "queued": "queued"}

#: Each node has one resource of this name, to be asked for by address; it says nothing to people.
_NODE_RESOURCE = "node:"


def _counts(part: dict[str, Any], words: Mapping[str, str]) -> str:
    return ", ".join(f"{part[key]:,} {word}" for key, word in words.items() if isinstance(part.get(key), int))


def _actors(part: dict[str, Any]) -> str:
    """As ``2 alive, 1 dead``: states in which there are none say nothing."""
    return _counts({state: number for state, number in part.items() if number}, _ACTORS)


def _functions(part: dict[str, Any]) -> list[str]:
    """One text for each of the functions that were submitted most often."""
    known = {name: counts for name, counts in part.items() if isinstance(counts, dict) and counts}
    by_use = sorted(known, key=lambda name: (-known[name].get("submitted", 0), name))
    return [f"{name}: {_counts(_ended(known[name]), _TASKS)}" for name in by_use[:_FUNCTIONS_SHOWN]]


def _ended(counts: dict[str, Any]) -> dict[str, Any]:
    # Here "running" counts starts, which says nothing beside the rest; zeros say less.
    return {state: number for state, number in counts.items() if number and state != "running"}


def _node(node: dict[str, Any]) -> str:
    total, free = node.get("resources") or {}, node.get("free")
    names = [name for name in total if not name.startswith(_NODE_RESOURCE)]
    parts = []
    for name in sorted(names, key=lambda resource: (resource != CPU, resource)):
        amount = f"{_amount(name, quantity(total, name))} {name}"
        if free is not None:
            amount = f"{_amount(name, quantity(total, name) - quantity(free, name))} of {amount} used"
        parts.append(amount)
    return f"{node.get('name', 'unnamed')}: {', '.join(parts) or 'no resources'}"


def _amount(name: str, number: float) -> str:
    return size(int(number * MEMORY_UNIT_BYTES)) if name == MEMORY else f"{number:,.15g}"


def _store(store: dict[str, Any]) -> str:
    if "capacity_bytes" not in store:
        return ""
    parts = [f"{size(store.get('used_bytes', 0))} of {size(store['capacity_bytes'])} used"]
    if "objects" in store:
        parts.append(counted(store["objects"], "object"))
    if "pinned" in store:
        parts.append(f"{store['pinned']:,} pinned")
    return ", ".join(parts)


def _redis(redis: dict[str, Any]) -> str:
    parts = []
    if redis.get("origin"):
        parts.append(redis_origin(redis["origin"]))
    if "connected" in redis:
        parts.append("connected" if redis["connected"] else "not connected")
    if redis.get("restarts"):
        parts.append(counted(redis["restarts"], "restart"))
    return ", ".join(parts)


def _total(nodes: list[dict[str, Any]], field: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for node in nodes:
        for name, units in (node.get(field) or {}).items():
            total[name] = total.get(name, 0) + units
    return total
