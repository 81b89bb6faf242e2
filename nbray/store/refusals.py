"""What people read when the store refuses an object: what, why, what to do.

Called by:  store.server, runtime.objects.
Imports:    nbray.core.object_commands (Holding), nbray.model.ids.
Never:      decides; it only words.
"""

from __future__ import annotations

from collections.abc import Iterable

from nbray.core.object_commands import Holding
from nbray.model.ids import short

_KIB = 1024
_MIB = 1024 * 1024
_GIB = 1024 * 1024 * 1024


def exists(object_id: bytes) -> str:
    """This writer made or is making it, or it belongs to another owner."""
    return (
        f"Object {short(object_id)} is in the store already, or on its way there, or another process owns it."
    )


def too_large(size_bytes: int, capacity_bytes: int) -> str:
    """It would not fit the empty store."""
    if size_bytes < 0:
        return f"An object cannot have a size of {size_bytes} bytes."
    return (
        f"An object of {in_words(size_bytes)} is larger than the whole object store of "
        f"{in_words(capacity_bytes)}. Split it, or start with a larger object_store_memory."
    )


def full(
    size_bytes: int, used_bytes: int, capacity_bytes: int, largest_free_bytes: int, largest: Iterable[Holding]
) -> str:
    """It does not fit beside what is stored."""
    names = ", ".join(f"{short(h.object_id)} ({in_words(h.size_bytes)})" for h in largest)
    return (
        f"The object store has no room for {in_words(size_bytes)}: {in_words(used_bytes)} of "
        f"{in_words(capacity_bytes)} are in use, and the longest free piece has "
        f"{in_words(largest_free_bytes)}. The largest objects are {names or 'none'}. Delete references "
        "and arrays that you do not need, or start with a larger object_store_memory."
    )


def no_memory(size_bytes: int, backed_bytes: int | None, error: BaseException) -> str:
    """The store has room, but the machine or a memory cgroup has no memory for it.

    ``backed_bytes`` is what the store takes, where that is known.
    """
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    holds = "" if backed_bytes is None else f"The store holds {in_words(backed_bytes)}. "
    return (
        "The machine, or the container's memory limit, has no memory for an object of "
        f"{in_words(size_bytes)}: {cause}. {holds}Free memory, run "
        "fewer workers at once, or raise the container's limit."
    )


def in_words(size_bytes: int) -> str:
    """``1572864`` -> ``"1.5 MiB"``."""
    if size_bytes < _KIB:
        return f"{size_bytes} bytes"
    if size_bytes < _MIB:
        return f"{size_bytes / _KIB:.1f} KiB"
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes < _GIB else f"{size_bytes / _GIB:.1f} GiB"
