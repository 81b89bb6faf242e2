"""What happens when all processes are taken: messages to workers, one process more, a word to people.

Called by:  node.daemon.
Imports:    core.{inlining,workers}, wire.
Never:      decides who runs what (``core.inlining`` does).
"""

from __future__ import annotations

from collections.abc import Callable

from nbray.core import inlining, worker_process
from nbray.core.inlining import Relief
from nbray.core.workers import WorkerPool
from nbray.wire.base import Message
from nbray.wire.inline_messages import InlineDeclined, RunInline


class Relieving:
    """The hands of ``core.inlining.Relief``.

    Args:
        owner_of: the process that asked for a lease.
        send_to: sends a message to a process.
        perform: performs commands of the pool.
        tell_people: writes a line for people.
    """

    def __init__(
        self,
        pool: WorkerPool,
        owner_of: Callable[[bytes], bytes | None],
        send_to: Callable[[bytes, Message], None],
        perform: Callable[[list[worker_process.Command]], None],
        tell_people: Callable[[str], None],
    ) -> None:
        self._relief = Relief(pool, owner_of)
        self._pool = pool
        self._send_to = send_to
        self._perform = perform
        self._tell_people = tell_people
        self._told_stuck = False

    def look(self) -> None:
        """Something changed."""
        if self._pool.is_exhausted():
            commands: list[inlining.Command] = []
            self._relief.look(commands)
            self._follow(commands)

    def blocked(self, process_id: bytes) -> None:
        """A worker waits; ``look`` follows."""
        self._relief.blocked(process_id)

    def on_declined(self, message: InlineDeclined) -> None:
        """A worker cannot end its own wait."""
        commands: list[inlining.Command] = []
        self._relief.declined(message.lease_id, commands)
        self._follow(commands)

    def _follow(self, commands: list[inlining.Command]) -> None:
        for command in commands:
            if isinstance(command, inlining.AskOwner):
                self._send_to(command.process_id, RunInline(command.lease_id))
            else:
                starts: list[worker_process.Command] = []
                self._pool.exceed(starts)
                self._perform(starts)
        if not (commands or self._pool.runs_any() or self._pool.may_exceed()):
            self._tell_if_stuck()

    def _tell_if_stuck(self) -> None:
        """No silent hang."""
        if self._pool.is_exhausted() and not self._told_stuck:
            self._told_stuck = True
            self._tell_people(
                f"nbray: all {self._pool.snapshot()['blocked']} worker processes wait for tasks that others "
                "have to start, and no more may be made: this will not end by itself. Nest less deeply, or "
                "give init() more num_cpus."
            )
