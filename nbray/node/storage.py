"""The shared memory and the spill directory of a node, as its user asked for them.

Called by:  node.{start,daemon}.
Imports:    store.{arena,budget,server}, model.
Never:      hands anything out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nbray.model.errors import SessionStartError
from nbray.model.limits import STORE_MIN_BYTES
from nbray.model.store_plan import StorePlan
from nbray.store.arena import Arena, free_huge_bytes
from nbray.store.budget import MemoryBudget
from nbray.store.server import SpillPlan

#: Huge pages were set aside when they were reserved: nobody else can take them, nor we more than these.
_NO_LIMIT_BYTES = 1 << 62


def make_arena(plan: StorePlan, budget: MemoryBudget) -> Arena:
    """The node's shared memory.

    Raises:
        SessionStartError: it cannot be had; the text says why, and what to do.
    """
    capacity = plan.capacity_bytes or budget.default_capacity()
    if plan.huge_pages and not plan.capacity_bytes:
        capacity = max(STORE_MIN_BYTES, min(capacity, free_huge_bytes()))
    try:
        return Arena.create(capacity, directory=plan.arena_directory, huge_pages=plan.huge_pages)
    except OSError as exc:
        what = f" in plasma_directory {plan.arena_directory!r}" if plan.arena_directory else ""
        raise SessionStartError(
            f"An object store of {capacity} bytes cannot be made{what}: {exc.strerror or exc}."
        ) from exc


def available_memory(plan: StorePlan, budget: MemoryBudget) -> Callable[[], int]:
    """Bytes that the arena may still take."""
    return (lambda: _NO_LIMIT_BYTES) if plan.huge_pages else budget.available


def spill_plan(plan: StorePlan, session_dir: str) -> SpillPlan:
    """Where objects go when the store is full."""
    directory = Path(plan.spill_directory) if plan.spill_directory else Path(session_dir) / "spill"
    return SpillPlan(directory if plan.spills else None, plan.spill_limit_bytes or None, plan.evicts)
