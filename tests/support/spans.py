"""Spans of time in which tasks ran, in seconds of the machine's one monotonic clock.

Called by:  tests of who runs beside whom.
Imports:    the standard library.
Never:      looks at a clock.
"""

from __future__ import annotations

Span = tuple[float, float]


def overlap(spans: list[Span]) -> int:
    """The largest number of these spans that cover one moment."""
    edges = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


def meets(a: Span, b: Span) -> bool:
    """Whether they have a moment in common."""
    return a[0] < b[1] and b[0] < a[1]
