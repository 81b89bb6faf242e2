"""HTML for notebooks: the one place where text becomes a page.

Called by:  observe.
Imports:    the standard library, nbray.events.text.
Never:      takes ready-made HTML from a caller; writes a script, a link or a style element.

What a notebook shows is also saved, and opened elsewhere: by nbconvert, by a viewer that removes
style and script, on light and dark pages. So: one plain table, colours from the page's own variables
with neutral fallbacks, and nothing that breaks when styles are removed.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nbray.events.text import visible

# Typesetting of $...$ looks through outputs after they were escaped; these classes make it pass by.
_NO_MATH = "tex2jax_ignore mathjax_ignore"
_TABLE = (
    "border-collapse:collapse;margin:0.3em 0;color:var(--jp-ui-font-color1,inherit);"
    "border:1px solid var(--jp-border-color2,#8888)"
)
_CELL = "text-align:left;padding:0.2em 0.8em"
_TITLE = f"{_CELL};font-weight:600;border-bottom:1px solid var(--jp-border-color2,#8888)"
_HEAD = f"{_CELL};font-weight:600;white-space:nowrap"
_SHORT = f"{_CELL};white-space:nowrap"
#: A line of a cell that has no more characters than this is not broken: the long ones make room.
_SHORT_CHARS = 24
_LABEL = f"{_CELL};font-weight:normal;color:var(--jp-ui-font-color2,inherit)"
_FOLDED = "margin:0.4em 0 0;white-space:pre-wrap;font-size:0.95em;color:inherit;background:none"
#: Of what is folded so many lines are kept, most of them from the end.
_FOLDED_HEAD, _FOLDED_TAIL = 10, 50


class Folded(NamedTuple):
    """A cell that shows a line, and a longer text when it is opened."""

    line: str
    text: str


def esc(text: object) -> str:
    """Text for HTML, in an element or between double quotes.

    Markup becomes entities; control and direction characters become visible escapes; more than
    2048 characters are cut (``events.text``). Everything that is put into a page goes through here.
    """
    return html.escape(visible(text), quote=True)


def card(title: object, rows: Iterable[tuple[object, object]]) -> str:
    """A small table: a title over rows of label and value, all of them plain text."""
    body = "".join(
        f'<tr><th scope="row" style="{_LABEL}">{esc(label)}</th><td style="{_CELL}">{esc(value)}</td></tr>'
        for label, value in rows
    )
    return (
        f'<table class="{_NO_MATH}" style="{_TABLE}">'
        f'<thead><tr><th colspan="2" style="{_TITLE}">{esc(title)}</th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def table(
    title: object,
    columns: Sequence[object],
    rows: Iterable[Sequence[object]],
    notes: Iterable[tuple[object, object]],
) -> str:
    """A table with a head, and labelled notes below it; all of it plain text.

    A cell that has several lines shows them below each other; one that is ``Folded`` can be opened.
    """
    width = len(columns)
    head = "".join(f'<th scope="col" style="{_HEAD}">{esc(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_style(cell)}">{_lines(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    foot = "".join(
        f'<tr><th scope="row" style="{_LABEL}">{esc(label)}</th>'
        f'<td colspan="{max(1, width - 1)}" style="{_CELL}">{esc(value)}</td></tr>'
        for label, value in notes
    )
    return (
        f'<table class="{_NO_MATH}" style="{_TABLE}">'
        f'<thead><tr><th colspan="{width}" style="{_TITLE}">{esc(title)}</th></tr><tr>{head}</tr></thead>'
        f"<tbody>{body}{foot}</tbody></table>"
    )


def _style(cell: object) -> str:
    longest = max(map(len, str(cell).split("\n")))
    return _SHORT if 0 < longest <= _SHORT_CHARS else _CELL


def _lines(cell: object) -> str:
    if isinstance(cell, Folded):
        return (
            f"<details><summary>{esc(cell.line)}</summary>"
            f'<pre style="{_FOLDED}">{_preformatted(cell.text)}</pre></details>'
        )
    return "<br>".join(esc(line) for line in str(cell).split("\n"))


def _preformatted(text: str) -> str:
    lines = text.split("\n")
    left_out = len(lines) - _FOLDED_HEAD - _FOLDED_TAIL
    if left_out > 1:
        lines[_FOLDED_HEAD:-_FOLDED_TAIL] = [f"... {left_out} lines ..."]
    return "\n".join(map(esc, lines))
