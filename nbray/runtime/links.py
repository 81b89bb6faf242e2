"""Connections of this process to workers that it sends tasks to.

Called by:  runtime.{submitter,actors}.
Imports:    core.tasks, runtime.loop, transport, wire.
Never:      knows what is said on them.

All methods: lock held.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nbray.core.tasks import TaskSpec
from nbray.model.resources import CPU, UNIT
from nbray.runtime.loop import Loop
from nbray.transport.channel import Channel
from nbray.transport.sockets import connect
from nbray.wire.base import Message
from nbray.wire.messages import DefineTask, RunTasks


class Link:
    """A connection to one worker, and what it was told. It stays open between leases."""

    __slots__ = ("channel", "functions", "lease", "process_id", "specs")

    def __init__(self, process_id: bytes) -> None:
        self.process_id = process_id
        self.channel: Channel | None = None
        self.functions: set[bytes] = set()  # that it was told
        self.specs: set[int] = set()
        self.lease: Any = None  # what it serves: a ``core.leases.Lease`` or a ``core.actor_calls.Route``


class Links:
    """All of them, by process."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.by_process: dict[bytes, Link] = {}

    def connect(
        self,
        process_id: bytes,
        endpoint: str,
        on_message: Callable[[Link, Message], None],
        on_closed: Callable[[Link], None],
    ) -> Link:
        """Connect to a worker.

        Raises:
            OSError: it is gone.
        """
        link = Link(process_id)
        sock = connect(endpoint)
        closed = partial(self._on_closed, link, on_closed)
        link.channel = self._loop.add(sock, "worker", partial(on_message, link), closed)
        link.channel.batch = RunTasks
        self.by_process[process_id] = link
        return link

    def _on_closed(self, link: Link, on_closed: Callable[[Link], None]) -> None:
        link.channel = None
        self.by_process.pop(link.process_id, None)
        on_closed(link)

    def read_last_words(self, process_id: bytes) -> None:
        """A worker is dead: dispatch what it had sent."""
        link = self.by_process.get(process_id)
        if link is not None and link.channel is not None:
            link.channel.read_last_words()

    def bury(self, link: Link) -> None:
        """A worker is dead: dispatch what it had sent, and close the connection.

        Its last answers may lie unread; and a child that it forked may keep the socket open.
        """
        if link.channel is None:
            return
        link.channel.read_last_words()
        self.close(link)

    def close(self, link: Link) -> None:
        """This process has no more to say."""
        channel = link.channel
        if channel is not None:
            self._loop.remove(channel)
            link.channel = None
            self.by_process.pop(link.process_id, None)


def definition_of(spec: TaskSpec) -> DefineTask:
    """What a worker is told once of all calls of a kind."""
    threads = max(1, dict(spec.shape).get(CPU, 0) // UNIT)
    return DefineTask(
        spec.spec_id, spec.function_id, spec.name, spec.num_returns, spec.depth, spec.cell, threads,
        spec.max_retries,
    )  # fmt: skip
