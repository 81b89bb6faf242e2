"""Text that came from users, made safe to show: one line, bounded, nothing hidden.

Called by:  events.schema, observe (every text and every page).
Imports:    the standard library.
Never:      returns a character that moves a cursor, turns the direction of reading, or cannot be sent.

A name may hold anything: terminal commands that rewrite the screen, marks that make ``exe.txt`` read
as ``txt.exe``, a megabyte. Such characters are replaced by the escapes that Python writes for them.
"""

from __future__ import annotations

import re

#: Longest text that is shown, in characters; the rest becomes an ellipsis.
TEXT_MAX_CHARS = 2048

# C0 and C1 controls; marks, embeddings and isolates of direction; separators of lines; invisible
# spaces; halves of surrogate pairs, which no message can carry.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: object, max_chars: int = TEXT_MAX_CHARS) -> str:
    """``str(text)`` on one line of at most ``max_chars``, control characters as visible escapes.

    Ordinary text comes back as it is; a backslash is not doubled, since people read this.
    """
    whole = str(text)
    shown = _HIDDEN.sub(_escape, whole[: max_chars + 1])
    if len(shown) <= max_chars:
        return shown
    return shown[: max_chars - 1] + "…"


def _escape(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]
