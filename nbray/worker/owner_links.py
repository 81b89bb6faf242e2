"""Who sends this worker work, and what they told of it.

Called by:  worker.executor.
Imports:    runtime.context, transport.channel, wire.
Never:      reads or sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbray.runtime.context import Place
from nbray.transport.channel import Channel
from nbray.wire.messages import DefineTask


class Known:
    """What an owner told of a kind of calls, and the function once it was loaded."""

    __slots__ = ("cell", "function", "function_id", "max_retries", "name", "num_returns", "place", "threads")

    def __init__(self, message: DefineTask) -> None:
        self.function_id = message.function_id
        self.name = message.name
        self.cell = message.cell
        self.num_returns = message.num_returns
        self.threads = message.threads
        self.max_retries = message.max_retries
        self.place = Place(message.cell, message.depth + 1)  # where its children come from
        self.function: Callable[..., Any] | None = None


class OwnerLink:
    """A connection from an owner that leased this worker, or calls the actor that it is.

    Calls on a link without a channel are the actor's own; see ``worker.actor``.
    """

    __slots__ = ("channel", "known", "lease_id", "owner_id")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.known: dict[int, Known] = {}
        self.lease_id = b""
        self.owner_id = b""
