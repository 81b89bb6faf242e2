"""A process whose calls overlap: whose child a task is, and what may not block.

Called by:  worker.{concurrent,async_host,threaded_host}.
Imports:    contextvars; runtime.{context,process,refs}, nbray.model.
Never:      is loaded in a driver, or in a worker that runs one thing at a time: those have one context.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

from nbray.model.errors import BlockingCallError
from nbray.runtime.context import TaskContext
from nbray.runtime.process import Process
from nbray.runtime.refs import ObjectRef

#: What a blocking ``get`` or ``wait`` in the event loop of an asyncio actor does: "raise", or "allow".
BLOCKING_VARIABLE = "NBRAY_ASYNC_BLOCKING"


class Scope(Protocol):
    """A call that runs."""

    context: TaskContext


_scope: ContextVar[Scope] = ContextVar("nbray_call")


class OverlappingProcess(Process):
    """Whoever asks is in the context of its own call: each thread and each asyncio task has one.

    A thread that a call starts by itself is in none of them, but in that of the process.
    """

    @property
    def context(self) -> TaskContext:  # an attribute there: one task runs at a time
        scope = _scope.get(None)
        return self._own_context if scope is None else scope.context

    @context.setter
    def context(self, context: TaskContext) -> None:
        self._own_context = context


def let_overlap(process: Process, context: TaskContext) -> None:
    """From now on calls of this process overlap; ``context`` is for what is in no call."""
    del process.context
    # What holds the process holds it already, so it becomes another kind of process, not another one.
    process.__class__ = OverlappingProcess
    process.context = context


def enter(scope: Scope) -> None:
    """This thread, or this context of asyncio, works for that call from now on."""
    _scope.set(scope)


def entered() -> Scope | None:
    """The call that asks."""
    return _scope.get(None)


def refuse_blocking(process: Process, is_checked: Callable[[], bool]) -> None:
    """Let ``get`` and ``wait`` raise in this thread, the event loop's, where they would block it.

    Args:
        process: the runtime.
        is_checked: False as long as nothing else could run anyway.
    """
    get, get_one, wait = process.get, process.get_one, process.wait
    thread = threading.get_ident()

    def check(function: str, timeout_s: float | None) -> None:
        if timeout_s == 0 or threading.get_ident() != thread or not is_checked():
            return
        if os.environ.get(BLOCKING_VARIABLE, "raise") != "allow":
            raise BlockingCallError(
                f"nbray.{function}() in an asyncio actor would block its event loop, and so all its calls. "
                "Await it: `await ref`, `await asyncio.gather(*refs)`, `await asyncio.wait(...)`; or call it "
                f"in a thread: `await asyncio.to_thread(nbray.{function}, ...)`. {BLOCKING_VARIABLE}=allow "
                "in the environment of nbray.init() lets it block."
            )

    def checked_get(refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
        check("get", timeout_s)
        return get(refs, timeout_s)

    def checked_get_one(ref: ObjectRef, timeout_s: float | None) -> Any:
        check("get", timeout_s)
        return get_one(ref, timeout_s)

    def checked_wait(
        refs: Sequence[ObjectRef], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        check("wait", timeout_s)
        return wait(refs, num_returns, timeout_s)

    process.get, process.get_one, process.wait = checked_get, checked_get_one, checked_wait
