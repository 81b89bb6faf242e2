"""The options of a remote function: what each may be, and what a task of it needs.

Called by:  api.tasks, api.actor_options.
Imports:    nbray.model.
Never:      knows a session.

Spelling and type are checked where an option is written, quantities by the call: a program may be
written for another cluster than the one it is imported on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from nbray.model.errors import OptionError, ReservedNameError
from nbray.model.resources import (
    CPU,
    GPU,
    MEMORY,
    MEMORY_UNIT_BYTES,
    UNIT,
    Shape,
    to_shape,
    to_units,
    whole_or_none,
)

DEFAULT_MAX_RETRIES = 3

#: Of these, each name stands for the same option.
_SPELLINGS = {"num_return_vals": "num_returns"}
_KNOWN = (
    "num_returns", "num_return_vals", "num_cpus", "num_gpus", "resources", "memory", "max_calls",
    "max_retries", "checkpoint_interval", "task_timeout_s",
)  # fmt: skip
_OF_ACTORS = ("max_restarts", "max_reconstructions", "max_task_retries")
_RESERVED = (CPU, GPU, MEMORY, "object_store_memory")


class TaskOptions:
    """Checked options of a remote function. An option that is None is not given.

    Raises:
        OptionError: an unknown option, or one option twice. (A TypeError, and an AssertionError.)
        TypeError: an option of the wrong type.
        ValueError: a count out of range, or an option that only actors have.
        NotImplementedError: ``object_store_memory``, which functions cannot reserve.
    """

    __slots__ = ("given", "max_calls", "max_retries", "num_returns", "task_timeout_s")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in _KNOWN:
                _refuse(name)
        if "num_returns" in self.given and "num_return_vals" in self.given:
            raise OptionError("num_returns and num_return_vals are one option: give one of them.")
        self.num_returns = self._count(
            "num_return_vals" if "num_return_vals" in self.given else "num_returns", 1, 0
        )
        self.max_retries = self._count("max_retries", DEFAULT_MAX_RETRIES, -1)
        self.max_calls = self._count("max_calls", 0, 0)
        self._count("checkpoint_interval", -1, -1)
        self.task_timeout_s = timeout_s(self.given.get("task_timeout_s"))
        check_resources(self.given)

    def _count(self, name: str, default: int, least: int) -> int:
        value = self.given.get(name, default)
        number = whole_or_none(value)
        if number is None:
            raise TypeError(f"{name} must be an integer, not {value!r}.")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}.")
        return number

    def shape(self, node_resources: Mapping[str, int]) -> Shape:
        """What a task needs while it runs: one CPU unless said otherwise.

        Args:
            node_resources: what the nodes offer. Memory is reserved only where they offer it.

        Raises:
            ValueError: a quantity out of range.
        """
        given = self.given
        quantities = {name: to_units(name, amount) for name, amount in given.get("resources", {}).items()}
        quantities[CPU] = to_units("num_cpus", given["num_cpus"]) if "num_cpus" in given else UNIT
        if "num_gpus" in given:
            quantities[GPU] = to_units("num_gpus", given["num_gpus"])
        if "memory" in given:
            memory = memory_units(given["memory"])
            if MEMORY in node_resources:
                quantities[MEMORY] = memory
        return to_shape(quantities)

    def replaced(self, changes: Mapping[str, Any]) -> TaskOptions:
        """These options with some changed."""
        changes = {name: value for name, value in changes.items() if value is not None}
        changed = {_SPELLINGS.get(name, name) for name in changes}
        kept = {
            name: value for name, value in self.given.items() if _SPELLINGS.get(name, name) not in changed
        }
        return TaskOptions({**kept, **changes})


def check_resources(given: Mapping[str, Any]) -> None:
    """Whether ``resources`` is what it should be.

    Raises:
        TypeError: no dict.
        ReservedNameError: it names a resource that has an option of its own. (A ValueError.)
    """
    resources = given.get("resources", {})
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a dict of names and quantities, not {type(resources).__name__}.")
    for name in resources:
        if name in _RESERVED:
            raise ReservedNameError(
                f"resources may not name {name}: use num_cpus, num_gpus or memory, options of their own."
            )


def timeout_s(given: object) -> float | None:
    """How long a task may run, in seconds; 0: without end, None: nothing was said.

    Raises:
        TypeError: not a number.
        ValueError: negative, or not finite.
    """
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"task_timeout_s must be a number of seconds, not {given!r}.")
    if not 0 <= float(given) < math.inf:
        raise ValueError(f"task_timeout_s must be 0 (no limit) or more seconds, not {given!r}.")
    return float(given)


def _refuse(name: str) -> None:
    if name in _OF_ACTORS:
        raise ValueError(
            f"{name} is an option of actors, not of functions; a function has max_retries, "
            "which counts how often a task runs again when its process died."
        )
    if name == "object_store_memory":
        raise NotImplementedError(
            "object_store_memory cannot be reserved by a function: the store is shared by all tasks. "
            "Size it with nbray.init(object_store_memory=...)."
        )
    raise OptionError(f"Unknown option {name!r} of a remote function; known are {', '.join(_KNOWN)}.")


def memory_units(size_bytes: Any) -> int:
    """Bytes as a quantity of the resource: units of 50 MiB, rounded up."""
    if isinstance(size_bytes, bool) or not isinstance(size_bytes, Real):
        raise ValueError(f"memory must be a number of bytes, not {size_bytes!r}")
    size_bytes = float(size_bytes)  # whole up to 2**53
    if not MEMORY_UNIT_BYTES <= size_bytes < math.inf:
        raise ValueError(
            f"memory must be at least {MEMORY_UNIT_BYTES} bytes (50 MiB, its unit), not {size_bytes!r}"
        )
    return to_units("memory", -(-int(size_bytes) // MEMORY_UNIT_BYTES))
