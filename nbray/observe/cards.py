"""What `init()` and magics that change something return: values first, cards in a notebook.

Called by:  api.session, jupyter.
Imports:    nbray.observe.
Never:      prints an address in its fixed text; the addresses are the dict's items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbray.events.text import visible
from nbray.observe.view import View
from nbray.observe.wording import counted, headline, redis_origin, size


class SessionInfo(View, dict[str, Any]):
    """The session that ``init()`` opened.

    As a dict it is the classic *address_info* (``redis_address``, ``session_dir``, ...). In a
    notebook it shows itself as a card, or as one fixed line of text.

    Attributes:
        nodes: how many nodes the cluster had when the session began.
        resources: what they had together, in units of 1e-4.
        settings: what ``init()`` was asked for, to compare with a later request.
        store_capacity_bytes: size of this node's object store.
        redis_origin: where the Redis server comes from, as in ``Welcome``.
    """

    def __init__(
        self,
        address_info: Mapping[str, Any],
        *,
        nodes: int,
        resources: Mapping[str, int],
        settings: Mapping[str, Any] | None = None,
        store_capacity_bytes: int = 0,
        redis_origin: str = "",
    ) -> None:
        super().__init__(address_info)
        self.nodes = nodes
        self.resources = dict(resources)
        self.settings = dict(settings or {})
        self.store_capacity_bytes = store_capacity_bytes
        self.redis_origin = redis_origin

    def __repr__(self) -> str:
        return headline(self.nodes, self.resources)

    def _facts(self) -> list[tuple[str, str]]:
        facts = [
            ("store", size(self.store_capacity_bytes) if self.store_capacity_bytes else ""),
            ("redis", redis_origin(self.redis_origin)),
            ("logs", str(self.get("session_dir") or "")),
        ]
        return [(label, value) for label, value in facts if value]


class Stopped(View, int):
    """How many processes a shutdown ended.

    The number is its value. Its text leaves the number out, since that differs from run to run.
    """

    #: Whether there was a session; one in local mode has no processes.
    was_running: bool | None = None

    def __repr__(self) -> str:
        stopped = bool(self) if self.was_running is None else self.was_running
        return "nbray: stopped" if stopped else "nbray: was not running"

    def _facts(self) -> list[tuple[str, str]]:
        return [("processes", f"{int(self):,} ended")] if self else []


class Killed(View, str):
    """What an actor was called that was told to end."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"nbray: {visible(str(self))} is killed"

    def _facts(self) -> list[tuple[str, str]]:
        return []


class Dropped(View, int):
    """How many bytes came back when names were dropped. The number is its value."""

    names: tuple[str, ...] = ()
    objects: int = 0

    def __repr__(self) -> str:
        return f"nbray: {size(int(self))} came back" if self.objects else "nbray: nothing came back"

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("dropped", ", ".join(self.names))]
        return [*facts, ("freed", counted(self.objects, "object"))] if self.objects else facts
