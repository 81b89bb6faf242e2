"""Background work of a daemon: started in one place, ended with its parent, never lost silently.

Called by:  node.
Imports:    asyncio.
Never:      swallows a crash: the first unexpected one is handed to ``on_crash``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

_CANCEL_AGAIN_S = 0.05
_CLOSE_DEADLINE_S = 2.0


class Supervisor:
    """Owns asyncio tasks. (``asyncio.TaskGroup`` needs Python 3.11; we support 3.10.)"""

    def __init__(self, on_crash: Callable[[str, BaseException], None]) -> None:
        self._on_crash = on_crash
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def run_in_thread(self, work: Callable[[], object], done: Callable[[BaseException | None], None]) -> None:
        """Do something that blocks; then call ``done`` here, with the exception or None.

        Exceptions that it should not have raised are crashes beside that.
        """

        async def run() -> None:
            try:
                await asyncio.get_running_loop().run_in_executor(None, work)
            except Exception as exc:
                done(exc)
                if not isinstance(exc, OSError):
                    raise
            else:
                done(None)

        self.spawn("work in a thread", run())

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        crash = task.exception()
        if crash is not None:
            self._on_crash(task.get_name(), crash)

    async def close(self) -> None:
        """Cancel what still runs and wait for it; for 2 s at most, since its owner is about to end."""
        deadline_s = time.monotonic() + _CLOSE_DEADLINE_S
        while (tasks := list(self._tasks)) and time.monotonic() < deadline_s:
            for task in tasks:
                task.cancel()
            # Again if need be: before Python 3.12, wait_for swallows a cancellation that comes in the
            # same turn as what it waits for.
            await asyncio.wait(tasks, timeout=_CANCEL_AGAIN_S)
