"""The chain of causes why an object is not there: text, a table, and plain data.

Called by:  api.explaining.
Imports:    core.wait_chain, nbray.events.text, nbray.observe.
Never:      asks again: it is a snapshot.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from nbray.core.wait_chain import Link
from nbray.events.text import visible
from nbray.observe import html, renderer
from nbray.observe.view import View

_TEXT_MAX_CHARS = 400


class Why(View):
    """One line for each cause, each because of the next."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = list(links)

    @property
    def links(self) -> list[dict[str, Any]]:
        """One dict for each cause, fit for JSON.

        ``kind`` ("object", "task", "worker", "resources", "cycle" or "unknown"), ``id`` (hex), ``name``,
        ``state``, ``text``, ``since_s`` (None: nobody knows), ``remedy`` (what to do; "" for nothing), and
        ``facts``: of a running task ``pid`` and ``stack``, of one that is queued ``holders``.
        """
        return [copy.deepcopy(link._asdict()) for link in self._links]

    def __repr__(self) -> str:
        return self.describe()

    def describe(self) -> str:
        """The causes below each other, each numbered."""
        lines = []
        for number, link in enumerate(self._links, 1):
            lines.append(f"{number}. {_shown(_words(link))}")
            if link.remedy:
                lines.append(f"   {_shown(link.remedy)}")
            lines += [f"     {_shown(each)}" for each in _details(link)]
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        if not renderer.wants_html():
            return None
        rows = [(number, _cell(link)) for number, link in enumerate(self._links, 1)]
        return html.table("nbray: why", ("", "each because of the next"), rows, ())


def _cell(link: Link) -> str:
    """Details hang below the cause: most causes have none, and columns for them would be empty."""
    told = [_words(link), *(f"• {each}" for each in _details(link))]
    return "\n".join([*told, f"→ {link.remedy}"] if link.remedy else told)


def _details(link: Link) -> list[str]:
    """Frames that the text does not name by itself, and who holds what it needs."""
    stack = [frame for frame in link.facts.get("stack", ()) if frame not in link.text]
    return [*stack, *map(_holder, link.facts.get("holders", ()))]


def _holder(holder: dict[str, Any]) -> str:
    if holder["running_s"] is None:
        return f"held by {holder['task']}, pid {holder['pid']}, for its life"
    doing = "waited" if holder["blocked"] else "run"
    return f"held by {holder['task']}, pid {holder['pid']}, which has {doing} for {_age(holder['running_s'])}"


def _words(link: Link) -> str:
    return link.text if link.since_s is None else f"{link.text.rstrip('.')} (for {_age(link.since_s)})"


def _age(age_s: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if age_s < 10:
        return f"{age_s:.1f} s"
    if age_s < 120:
        return f"{age_s:.0f} s"
    return f"{age_s / 60:.0f} min" if age_s < 7200 else f"{age_s / 3600:.1f} h"


def _shown(text: str) -> str:
    return visible(text, _TEXT_MAX_CHARS)
