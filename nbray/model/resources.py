"""Resource quantities in fixed point: integers in units of 1e-4.

Called by:  api (options), core.scheduler, node.
Imports:    the standard library.
Never:      keeps a float: 0.1 + 0.2 CPUs must be 0.3 CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

#: One whole CPU (or GPU, or unit of a custom resource).
UNIT = 10_000
CPU = "CPU"
GPU = "GPU"
#: Memory that tasks may reserve, in whole units of this size.
MEMORY = "memory"
MEMORY_UNIT_BYTES = 50 * 1024 * 1024

#: A demand or a capacity: name -> quantity in 1e-4 units, zeros left out.
Quantities = dict[str, int]

#: The hashable form, sorted by name; tasks with equal shapes share leases.
Shape = tuple[tuple[str, int], ...]


def whole_or_none(value: object) -> int | None:
    """``value`` as an int if it is a whole number, Python's or NumPy's; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def to_units(name: str, amount: float) -> int:
    """Convert what users write to units. Below 1 any fraction, above 1 whole numbers only.

    Raises:
        ValueError: negative, not a number, finer than 1e-4, or a fraction above 1.
    """
    if isinstance(amount, bool) or not isinstance(amount, Real):  # NumPy's numbers, too
        raise ValueError(f"{name} must be a number, not {amount!r}")
    if not 0 <= amount <= 100_000:
        raise ValueError(f"{name} must be between 0 and 100000, not {amount!r}")
    amount = float(amount)
    units = round(amount * UNIT)
    if amount > 1 and units % UNIT:
        raise ValueError(f"{name} above 1 must be a whole number, not {amount!r}")
    if abs(units - amount * UNIT) > 1e-6 * UNIT or (amount > 0 and units == 0):
        raise ValueError(f"{name} can be split into parts of 0.0001, not finer: {amount!r}")
    return units


def to_shape(quantities: Mapping[str, int]) -> Shape:
    """The hashable, sorted form of a demand, without zeros."""
    return tuple(sorted((k, v) for k, v in quantities.items() if v))


def describe(quantities: Mapping[str, int]) -> str:
    """``{"CPU": 15000}`` -> ``"1.5 CPU"``; empty -> ``"nothing"``."""
    parts = [f"{v / UNIT:g} {k}" for k, v in sorted(quantities.items()) if v]
    return ", ".join(parts) or "nothing"
