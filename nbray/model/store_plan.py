"""How a node keeps objects, as its user asked for it.

Called by:  api.settings (makes it), cluster, wire.messages (carries it), node.storage (obeys it).
Imports:    nothing.
Never:      checks anything: api.settings did.
"""

from __future__ import annotations

from typing import NamedTuple


class StorePlan(NamedTuple):
    """Empty texts and zeros stand for what the node chooses itself."""

    capacity_bytes: int = 0  # of shared memory; 0: a share of what is free
    spills: bool = True  # objects go to the disk when the store is full
    spill_directory: str = ""  # where; empty: inside the session's directory
    spill_limit_bytes: int = 0  # no more than that; 0: as much as the disk gives
    evicts: bool = False  # instead, those longest unused go for good
    arena_directory: str = ""  # where the shared memory is a file without a name; empty: nowhere
    huge_pages: bool = False
