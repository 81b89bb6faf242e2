"""What an actor may hold for itself: after each of its calls it is looked at, and a call may end in an error.

Called by:  worker.actor, for actors with ``memory=`` alone: others pay nothing.
Imports:    nbray.model.actor_errors, transport.procfs, worker.own_error.
Never:      ends the actor, or keeps a call from running: one of them may be what lets go of the memory.
"""

from __future__ import annotations

import functools
import gc
import inspect
import os
from collections.abc import Callable
from typing import Any

from nbray.model.actor_errors import ActorQuotaError
from nbray.transport import procfs
from nbray.wire.actor_messages import ActorSpec
from nbray.worker.own_error import OwnError


class Quota:
    """One actor's. What it was forked with is its zygote's and does not count, nor does the object store."""

    def __init__(self, spec: ActorSpec) -> None:
        self._spec = spec
        self._inherited_bytes = procfs.private_bytes_of_self()

    def watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method, with a look at the memory after it."""
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                value = await method(*args, **kwargs)
                self._check(name)
                return value

            return call_async

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            value = method(*args, **kwargs)
            self._check(name)
            return value

        return call

    def _check(self, name: str) -> None:
        limit_bytes = self._spec.memory_bytes
        if self._held_bytes() <= limit_bytes:
            return
        gc.collect()  # what is in cycles only
        held_bytes = self._held_bytes()
        if held_bytes <= limit_bytes:
            return
        spec, pid = self._spec, os.getpid()
        raise OwnError(
            ActorQuotaError(
                class_name=spec.class_name, actor_id=spec.actor_id.hex(), method=name,
                task_name=f"{spec.class_name}.{name}", pid=pid, node="local", where="its quota",
                held_bytes=held_bytes, used_bytes=held_bytes, limit_bytes=limit_bytes,
                largest=[(f"nbray-{spec.class_name}", pid, held_bytes)],
            )
        )  # fmt: skip

    def _held_bytes(self) -> int:
        return procfs.private_bytes_of_self() - self._inherited_bytes
