"""The options of a remote class: what each may be, and what an actor of it holds.

Called by:  api.actors.
Imports:    api.options, nbray.model.
Never:      knows a session.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from nbray.api.options import check_resources, memory_units
from nbray.model.errors import OptionError
from nbray.model.resources import CPU, GPU, MEMORY, MEMORY_UNIT_BYTES, UNIT, to_units, whole_or_none

#: Of these, each name stands for the same option.
_SPELLINGS = {"max_reconstructions": "max_restarts"}
_OF_RESOURCES = ("num_cpus", "num_gpus", "resources", "memory", "object_store_memory")
_KNOWN = (
    *_OF_RESOURCES, "max_restarts", "max_reconstructions", "max_task_retries", "max_concurrency",
    "checkpoint_interval", "name", "namespace", "detached", "is_direct_call",
)  # fmt: skip
#: Calls of an asyncio actor that may run at once, unless the program says otherwise.
ASYNC_CONCURRENCY = 1000


class ActorOptions:
    """Checked options of a remote class. An option that is None is not given.

    Raises:
        OptionError: an unknown option, or one option twice. (A TypeError, and an AssertionError.)
        TypeError: an option of the wrong type.
        ValueError: a count out of range, or options that exclude each other.
    """

    __slots__ = (
        "checkpoint_interval", "detached", "given", "max_concurrency", "max_restarts", "max_task_retries",
        "name", "namespace",
    )  # fmt: skip

    def __init__(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in _KNOWN:
                raise OptionError(_unknown(name))
        self.given = {name: value for name, value in given.items() if value is not None}
        if "max_restarts" in self.given and "max_reconstructions" in self.given:
            raise OptionError("max_restarts and max_reconstructions are one option: give one of them.")
        spelling = "max_reconstructions" if "max_reconstructions" in self.given else "max_restarts"
        self.max_restarts = self._count(spelling, 0, -1)
        self.max_task_retries = self._count("max_task_retries", 0, -1)
        if self.max_task_retries and not self.max_restarts:
            raise ValueError(
                "max_task_retries needs an actor that is restarted: give max_restarts, too (-1: always)."
            )
        #: None: 1, or for an asyncio actor ``ASYNC_CONCURRENCY``.
        self.max_concurrency = (
            self._count("max_concurrency", 1, 1) if "max_concurrency" in self.given else None
        )
        self.checkpoint_interval = self._checkpoint_interval()
        self._check_name()
        check_resources(self.given)

    def _count(self, name: str, default: int, least: int) -> int:
        number = whole_or_none(self.given.get(name, default))
        if number is None:
            raise TypeError(f"{name} must be an integer, not {self.given[name]!r}.")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, not {number}.")
        return number

    def _checkpoint_interval(self) -> int:
        number = self._count("checkpoint_interval", -1, -1)
        if not number:
            raise ValueError("checkpoint_interval must be at least 1, or -1 for no checkpoints; not 0.")
        return max(0, number)

    def _check_name(self) -> None:
        self.name: str = self.given.get("name", "")
        self.namespace: str = self.given.get("namespace", "")
        self.detached = bool(self.given.get("detached", False))
        if "name" in self.given and not isinstance(self.name, str):
            raise TypeError(f"name must be a string, not {type(self.name).__name__}.")
        if not isinstance(self.namespace, str):
            raise TypeError(f"namespace must be a string, not {type(self.namespace).__name__}.")
        if "name" in self.given and not self.name:
            raise ValueError("The name of an actor cannot be an empty string.")
        if self.detached and not self.name:
            raise ValueError("Detached actors must be named: give name='...'; nobody could find it else.")
        if self.name and not self.detached:
            raise ValueError(
                "Only detached actors can be named: give detached=True, or name the handle with "
                "nbray.util.register_actor(name, handle)."
            )

    def resources(self, node_resources: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
        """What an actor holds for life, and what a node must have in all to take it.

        If nothing is asked for it holds nothing, but wants a node that has a CPU; else it also holds CPUs,
        one unless said otherwise.

        Raises:
            ValueError: a quantity out of range.
        """
        given = self.given
        held = {name: to_units(name, amount) for name, amount in given.get("resources", {}).items()}
        if not any(name in given for name in _OF_RESOURCES):
            return {}, {CPU: UNIT}
        held[CPU] = to_units("num_cpus", given["num_cpus"]) if "num_cpus" in given else UNIT
        if "num_gpus" in given:
            held[GPU] = to_units("num_gpus", given["num_gpus"])
        if "memory" in given:
            memory = memory_units(given["memory"])
            if MEMORY in node_resources:
                held[MEMORY] = memory
        return {name: amount for name, amount in held.items() if amount}, {}

    @property
    def memory_bytes(self) -> int:
        """What it may hold for itself, in whole units of memory; 0: as much as it likes.

        Raises:
            ValueError: out of range.
        """
        memory = self.given.get("memory")
        return 0 if memory is None else memory_units(memory) // UNIT * MEMORY_UNIT_BYTES

    def replaced(self, changes: Mapping[str, Any]) -> ActorOptions:
        """These options with some changed."""
        changes = {name: value for name, value in changes.items() if value is not None}
        changed = {_SPELLINGS.get(name, name) for name in changes}
        kept = {
            name: value for name, value in self.given.items() if _SPELLINGS.get(name, name) not in changed
        }
        return ActorOptions({**kept, **changes})


def warn_of_detached(name: str) -> None:
    """In a cluster that a driver started, a detached actor ends with the driver."""
    warnings.warn(
        f"The detached actor {name!r} will end with this program, which started the cluster by nbray.init().",
        stacklevel=4,
    )


def _unknown(name: str) -> str:
    if name == "max_retries":
        return "max_retries is an option of functions; the methods of an actor have max_task_retries."
    if name in ("num_returns", "num_return_vals"):
        return f"{name} is an option of methods: decorate them with @nbray.method({name}=n)."
    return f"Unknown option {name!r} of a remote class; known are {', '.join(_KNOWN)}."
