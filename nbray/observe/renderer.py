"""Which form a view takes in a notebook: a page, or fixed text alone.

Called by:  observe (every ``_repr_html_``), api (logs), jupyter.kernel (``%ray_init --renderer``).
Imports:    os, for NBRAY_RENDERER.
Never:      decides by looking at the front end: a saved notebook is read in many.
"""

from __future__ import annotations

import os

AUTO = "auto"
HTML = "html"
TEXT = "text"
RENDERERS = (AUTO, HTML, TEXT)

_chosen = AUTO  # one process, one screen


def choose(name: str) -> None:
    """Use this renderer from now on; ``NBRAY_RENDERER=text`` overrules it.

    Raises:
        ValueError: there is no such renderer.
    """
    global _chosen
    if name not in RENDERERS:
        raise ValueError(f"renderer must be one of {', '.join(RENDERERS)}, not {name!r}")
    _chosen = name


def wants_html() -> bool:
    """Whether a view should offer HTML beside its text."""
    return TEXT not in (_chosen, os.environ.get("NBRAY_RENDERER", AUTO))


def wants_pids() -> bool:
    """Whether lines from workers name the process: not where output is compared, as in tests."""
    return wants_html()
