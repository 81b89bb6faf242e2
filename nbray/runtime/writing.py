"""Filling an extent of the store with a value: faulting its pages in first, within the memory budget.

Called by:  runtime.objects, runtime.slabs.
Imports:    runtime.{bulk_copy,serialization}, store.{budget,mapping}.
Never:      asks for space, seals, takes the loop's lock.
"""

from __future__ import annotations

import errno

from nbray.runtime.bulk_copy import Ground
from nbray.runtime.serialization import Serialized
from nbray.store.budget import MemoryBudget
from nbray.store.mapping import Mapping
from nbray.store.pages import can_populate
from nbray.wire.messages import Descriptor

_budget: MemoryBudget | None = None


def write(mapping: Mapping, descriptor: Descriptor, cold_bytes: int, serialized: Serialized) -> None:
    """Fill an extent.

    Args:
        mapping: of the arena.
        descriptor: the extent.
        cold_bytes: so much of it has no memory yet.
        serialized: what goes in.

    Raises:
        OSError: the machine, or a memory cgroup, has no memory for it.
    """
    ground: Ground | None = None
    touched = mapping.is_touched(descriptor.offset, descriptor.size_bytes)
    if cold_bytes or (not touched and can_populate()):
        ground = Ground(mapping.address(descriptor.offset), _check_budget if cold_bytes else None)
    with mapping.writable(descriptor) as target:
        serialized.write_into(target, ground)
    if not touched:
        mapping.touch(descriptor.offset, descriptor.size_bytes)


def _check_budget(size_bytes: int) -> None:
    """The daemon found enough for all of it; but others take memory, too, and SIGKILL answers a limit.

    Raises:
        OSError: ENOMEM.
    """
    global _budget
    if _budget is None:
        _budget = MemoryBudget()
    left = _budget.available()
    if left < size_bytes:
        raise OSError(errno.ENOMEM, f"{size_bytes} more bytes are needed and {left} may be taken")
