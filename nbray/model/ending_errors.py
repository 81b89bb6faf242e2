"""Errors of tasks that nbray ended itself, since they took too much: memory, or time.

Called by:  runtime.worker_errors, users.
Imports:    nbray.model.errors.
Never:      blames a task for what others hold: the largest processes are named.

::

    RayWorkerError
    ├── RayOutOfMemoryError (alias OutOfMemoryError)   there was no memory left
    └── TaskTimeoutError                               also TimeoutError: it ran longer than task_timeout_s
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbray.model.errors import RayWorkerError

_GIB = 1 << 30
_MIB = 1 << 20


class RayOutOfMemoryError(RayWorkerError):
    """The task's worker was ended since the memory of the machine, or of a container, ran out.

    Args:
        where: what ran out, such as "the machine".
        used_bytes, limit_bytes: how much of it was in use then, and how much there is.
        threshold: the share of it above which a task is ended (``init(memory_usage_threshold=...)``).
        held_bytes: what the worker and its children had for themselves; 0 if nobody knows.
        by_kernel: the kernel ended it, before the mark was seen.
        largest: name, PID and resident bytes of the largest processes, the largest first.
        others: the fields of ``RayWorkerError``.
    """

    where: str
    used_bytes: int
    limit_bytes: int
    threshold: float
    held_bytes: int
    by_kernel: bool
    largest: Sequence[Sequence[Any]]

    def __init__(
        self, *, where: str = "the machine", used_bytes: int = 0, limit_bytes: int = 0,
        threshold: float = 1.0, held_bytes: int = 0, by_kernel: bool = False,
        largest: Sequence[Sequence[Any]] = (), **others: Any,
    ) -> None:  # fmt: skip
        super().__init__(**others)
        self.__dict__.update(
            where=where, used_bytes=used_bytes, limit_bytes=limit_bytes, threshold=threshold,
            held_bytes=held_bytes, by_kernel=by_kernel, largest=[tuple(each) for each in largest],
        )  # fmt: skip

    def __str__(self) -> str:
        f = self.__dict__
        who = f"the worker (pid {f['pid']}) of task {f['task_name']}"
        return self._what_was_found(f"{who} (attempt {f['attempt']} of {f['max_attempts']})") + (
            "\nLet fewer tasks run at a time (a larger num_cpus, or memory=, for each), give each less data, "
            "or end what else is large above."
        )

    def _what_was_found(self, whom: str) -> str:
        """All but what to do. ``whom``: in words, who was ended."""
        f = self.__dict__
        share = f["used_bytes"] / f["limit_bytes"] if f["limit_bytes"] else 0.0
        held = f", which held {f['held_bytes'] / _MIB:,.0f} MiB" if f["held_bytes"] else ""
        limit = f"{f['limit_bytes'] / _GIB:.2f} GiB of {f['where']}"
        if f["by_kernel"]:
            what, who = f"the {limit} were used up", "The kernel ended"
        else:
            used = f"{f['used_bytes'] / _GIB:.2f} of {limit} were in use"
            what, who = f"{used}, {share:.0%} (the mark is {f['threshold']:.0%})", "nbray ended"
        text = f"Memory ran out: {what}. {who} {whom}{held}. The largest processes then:\n"
        return text + "\n".join(
            f"  {size / _MIB:9,.0f} MiB  pid {pid:<8} {name}" for name, pid, size in f["largest"]
        )


class TaskTimeoutError(RayWorkerError, TimeoutError):
    """The task ran longer than it may, so its worker was ended.

    Args:
        limit_s: how long it may run, in seconds.
        others: the fields of ``RayWorkerError``.
    """

    limit_s: float

    def __init__(self, *, limit_s: float = 0.0, **others: Any) -> None:
        super().__init__(**others)
        self.__dict__.update(limit_s=limit_s)

    def __str__(self) -> str:
        f = self.__dict__
        return (
            f"Task {f['task_name']} ran for longer than its task_timeout_s={f['limit_s']:g}, so its worker "
            f"(pid {f['pid']}) was ended (attempt {f['attempt']} of {f['max_attempts']}). Give it more time, "
            "or find out with nbray.why(ref) what it waits for while it runs."
        )


#: The newer name.
OutOfMemoryError = RayOutOfMemoryError
