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


def too_large_for_both(size_bytes: int, capacity_bytes: int, why: str) -> str:
    """It would not fit the empty store, and cannot be on the disk."""
    return f"{too_large(size_bytes, capacity_bytes)} It cannot lie on the disk instead: {why}"


def lies_on_disk(size_bytes: int, capacity_bytes: int) -> str:
    """It would not fit the empty store, and is on the disk."""
    return (
        f"an object of {in_words(size_bytes)} is larger than the whole object store of "
        f"{in_words(capacity_bytes)}, so it lies on the disk and is read from there. It is faster in a store "
        "that it fits into: start with a larger object_store_memory."
    )


def full(
    size_bytes: int,
    used_bytes: int,
    capacity_bytes: int,
    largest_free_bytes: int,
    largest: Iterable[Holding],
    why: str,
) -> str:
    """It does not fit beside what is stored. ``why``: what could not be done about it."""
    rows = [(short(h.object_id), in_words(h.size_bytes), _held(h)) for h in largest if h.size_bytes]
    table = "".join(f"\n    {name}  {size:>10}  {held}" for name, size, held in rows)
    return (
        f"The object store has no room for {in_words(size_bytes)}: {in_words(used_bytes)} of "
        f"{in_words(capacity_bytes)} are in use, and the longest free piece has "
        f"{in_words(largest_free_bytes)}. {why} Delete references and arrays that you do not need, or start "
        f"with a larger object_store_memory. The largest objects are{table or ' none'}"
    )


def _held(holding: Holding) -> str:
    """What keeps an object where it is, in a few words."""
    owner = "in its owner's hand" if holding.owner_has_it else ""
    readers = f"read by {holding.readers} process{'es' * (holding.readers > 1)}" if holding.readers else ""
    return ", ".join(filter(None, (holding.state, owner, readers)))


def why_no_room(idle_bytes: int, *, can_make_room: bool, disk: str) -> str:
    """What could not be done to make room. ``disk``: why it took nothing, or ""."""
    if disk:
        return f"Nothing could be moved to the disk: {disk}"
    if not can_make_room:
        return "Spilling to the disk is off (object_spilling=False)."
    if idle_bytes:
        return f"{in_words(idle_bytes)} of them could not be moved to the disk in time."
    return "All of it is in use: by arrays that somebody holds, or by tasks that run."


def disk_full(directory: str) -> str:
    """The disk has no room."""
    return (
        f"The disk of {directory} has no room for objects (some of it is left to others). "
        "Free some, or name another object_spilling_directory."
    )


def no_disk(directory: str) -> str:
    """The "disk" is memory."""
    return (
        f"objects are spilled to {directory}, which is in memory, too (tmpfs): that makes room in the object "
        "store, and none in the machine. Name a directory on a disk: object_spilling_directory."
    )


def spill_limit(limit_bytes: int) -> str:
    """The user's own limit."""
    return f"object_spilling_limit is reached: {in_words(limit_bytes)}. Allow more, or free objects."


def disk_refuses(directory: str, error: BaseException) -> str:
    """The disk, or its directory, does not work."""
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (
        f"Objects cannot be written to {directory}: {cause}. "
        "Repair it, or name another object_spilling_directory."
    )


def damaged(directory: str, object_id: bytes, error: BaseException | None) -> str:
    """What was read is not what was written."""
    cause = "its bytes are not those that were written" if error is None else str(error)
    return f"Object {short(object_id)} was damaged on the disk of {directory}: {cause}."


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
