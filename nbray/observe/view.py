"""What all views share: a fixed line, a longer text, a card.

Called by:  observe.status, observe.cards.
Imports:    nbray.events.text, nbray.observe.
Never:      shows a fact in one form that the other hides.
"""

from __future__ import annotations

from nbray.events.text import visible
from nbray.observe import html, renderer


class View:
    """A value with three forms, of which subclasses write two: ``repr`` and ``_facts``.

    ``repr`` is one line that is the same in every run of a notebook; the longer text and the card
    repeat it above the facts.
    """

    __slots__ = ()

    def describe(self) -> str:
        """Several lines for people."""
        return "\n".join([repr(self), *(f"  {label:<11}{visible(value)}" for label, value in self._facts())])

    def _repr_html_(self) -> str | None:
        return html.card(repr(self), self._facts()) if renderer.wants_html() else None

    def _facts(self) -> list[tuple[str, str]]:
        """Label and value of each line."""
        raise NotImplementedError
