"""How often the same definition of a function came to the cluster.

Called by:  node.control_plane.
Imports:    the standard library.
Never:      looks at code: a definition is known by its place in the source.
"""

from __future__ import annotations

from collections import Counter

#: So often a definition is exported before people are told, once.
EXPORTS_WORTH_A_WORD = 100


class Definitions:
    """Counts exports by place, and knows when that is worth a word."""

    def __init__(self) -> None:
        self._exports: Counter[str] = Counter()

    def exported(self, place: str, name: str) -> str | None:
        """One more export; "" is a place that is not counted. Returns an advice the 100th time."""
        if not place:
            return None
        self._exports[place] += 1
        if self._exports[place] != EXPORTS_WORTH_A_WORD:
            return None
        return (
            f"The remote function {name} has been exported {EXPORTS_WORTH_A_WORD} times: it is defined again "
            "and again, in a loop or inside a task, and pickled and sent to the workers each time. Define it "
            "once, outside."
        )
