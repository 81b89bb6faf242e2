"""The state of the node as plain data, for people and monitors.

Called by:  node.daemon.
Imports:    node.{control_plane,workers}, nbray.events, nbray.wire.
Never:      words anything: ``observe.status`` does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nbray.events.log import EventLog
from nbray.node.control_plane import ControlPlane
from nbray.node.workers import Workers
from nbray.wire.messages import StartNode


def snapshot(
    start: StartNode,
    books: Mapping[str, Any],
    pool: Mapping[str, Any],
    store: Mapping[str, Any],
    log: EventLog,
    control: ControlPlane,
    workers: Workers,
    actors: Mapping[str, int],
) -> dict[str, Any]:
    """What ``nbray.status()`` shows.

    Args:
        start: what the node is.
        books: the scheduler's.
        pool: the worker pool's.
        store: the store's figures.
        log: of all events.
        control: the way to Redis.
        workers: the processes.
        actors: how many are in which state.
    """
    return {
        "nodes": [
            {
                "name": "local", "node_id": start.node_id.hex(), "incarnation": start.node_incarnation,
                "alive": True, "resources": start.resources, "free": books["free"],
            }
        ],
        "workers": dict(pool),
        "store": dict(store),
        "tasks": log.tasks(),
        "functions": log.tasks_by_name(),
        "actors": dict(actors),
        "redis": {
            "origin": start.redis_origin, "connected": control.client.is_connected,
            "restarts": control.restarts,
        },
        "events_dropped": log.dropped,
        "leases": {
            "granted": pool.get("leased", 0) + pool.get("blocked", 0),
            "queued": sum(kind["count"] for kind in books["queued"]),
            "waiting": books["queued"],
        },
        "processes": {
            "daemon": os.getpid(), "zygote": workers.zygote.pid, "redis": control.redis_pid,
            "workers": sorted(h.pid for h in workers.handles.values() if h.pid),
        },
        "session_dir": start.session_dir,
    }  # fmt: skip
