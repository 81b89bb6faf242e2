"""Deaths at chosen moments, and what must be true when all is over.

Called by:  integration tests of faults. Workers import it, too: what dies is patched inside them.
Imports:    nbray, tests.support.{procfs,sessions,waiting}.
Never:      patches the process that runs the tests.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import nbray
from nbray.runtime.current import current
from tests.support import procfs
from tests.support.sessions import await_empty_store, await_forgotten, store_figures
from tests.support.waiting import until

#: What is 0 when nobody holds anything.
NOTHING_HELD = (
    "objects", "used_bytes", "creating", "doomed", "sealed", "spilling", "spilled", "restoring", "evicted",
    "lost", "ending", "lingering", "spilled_bytes", "spill_file_bytes", "set_aside_bytes",
    "creations_waiting", "creations_backing", "pinned", "waited_for", "orphaned_bytes", "borrowed", "borrows",
    "parcels", "ended_early", "containers", "orphans", "let_go",
)  # fmt: skip


def await_no_trace() -> None:
    """Within seconds the store, its file on the disk and its books of borrowers are as in the beginning."""
    await_empty_store()
    await_forgotten()

    def held() -> dict[str, int]:
        figures = store_figures()
        return {name: figures[name] for name in NOTHING_HELD if figures[name]}

    until(lambda: not held(), "nothing is held")


def die(*_: Any) -> NoReturn:
    """The end of this process, at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def worker_pids() -> list[int]:
    """The workers that the daemon knows."""
    pids: list[int] = nbray.status().to_dict()["processes"]["workers"]
    return pids


def kill_worker(pid: int) -> None:
    """Kill it, and wait until the daemon knows."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in worker_pids(), "the daemon knows that it is gone")


# --- the life of a writer ------------------------------------------------------------------------------


def die_when_asked(_creating: Any, request: Any) -> NoReturn:
    """In place of ``Creating._create``: space is asked for, and nobody waits for it."""
    creating = current().objects.creating
    with current().loop.lock:
        creating._tell_daemon(request)
    die()


def write_half_and_die(mapping: Any, descriptor: Any, _cold_bytes: int, _serialized: Any) -> NoReturn:
    """In place of ``writing.write``: by way of the file, as cold pages and objects on the disk are."""
    fd = os.open(descriptor.path, os.O_WRONLY) if descriptor.path else mapping.file.fd
    os.pwrite(fd, b"\xff" * (descriptor.size_bytes // 2), descriptor.offset)
    die()


def write_and_die(*place_and_value: Any) -> NoReturn:
    """In place of ``writing.write``: the bytes are there, and nobody hears of it."""
    from nbray.runtime.writing import write

    write(*place_and_value)
    die()


def _after(method: Callable[..., Any]) -> Callable[..., NoReturn]:
    def and_die(*args: Any, **options: Any) -> NoReturn:
        method(*args, **options)
        die()

    return and_die


def _die_before_adoption() -> None:
    from nbray.wire.object_messages import AdoptObject

    creating = current().objects.creating
    tell = creating._tell_daemon

    def tell_or_die(message: Any) -> None:
        if isinstance(message, AdoptObject):
            die()
        tell(message)

    creating._tell_daemon = tell_or_die


def die_at(stage: str) -> None:
    """The next large object that this worker stores is its death, at this stage."""
    from nbray.runtime import creating
    from nbray.runtime.creating import Creating

    of_stage: dict[str, tuple[Any, str, Any]] = {
        "asked for space": (Creating, "_create", die_when_asked),
        "space granted, nothing written": (creating, "write", die),
        "half written": (creating, "write", write_half_and_die),
        "written, not sealed": (creating, "write", write_and_die),
        "sealed, answer not sent": (Creating, "store", _after(Creating.store)),
        "in a slab, nothing written": (creating, "map_in", die),
        "in a slab, told, answer not sent": (Creating, "_store_in_slab", _after(Creating._store_in_slab)),
    }
    if stage == "in a slab, written, not told":
        _die_before_adoption()
    else:
        setattr(*of_stage[stage])


def get_a_slab(size_bytes: int) -> None:
    """Store objects of middling size until the daemon has given this worker a slab."""

    def has_slab() -> bool:
        nbray.put(bytes(size_bytes))
        return current().objects.slabs._current is not None

    until(has_slab, "this worker has a slab")


# --- the daemon ------------------------------------------------------------------------------------------


def daemon_pid() -> int:
    """The node daemon of this session."""
    pid: int = nbray.status().to_dict()["processes"]["daemon"]
    return pid


@contextmanager
def sleeping(pid: int) -> Iterator[None]:
    """This process does nothing inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def spill_file_of(pid: int) -> str:
    """The daemon's spill file, by its descriptor; "" if it has none (yet)."""
    found = [fd for fd, link in procfs.open_fds(pid).items() if "/spill/" in link]
    return f"/proc/{pid}/fd/{found[0]}" if found else ""


def file_holders(inode: int, device: int) -> list[procfs.Process]:
    """Processes that have this file open or mapped: without a name, it lives as long as they do."""
    return [p for p in procfs.processes() if _maps(p.pid, inode) or _has_open(p.pid, inode, device)]


def _maps(pid: int, inode: int) -> bool:
    try:
        with open(f"/proc/{pid}/maps") as lines:
            return any(line.split()[4] == str(inode) and "/spill/" in line for line in lines)
    except OSError:
        return False


def _has_open(pid: int, inode: int, device: int) -> bool:
    for fd, link in procfs.open_fds(pid).items():
        if link.startswith("/"):
            try:
                found = os.stat(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if (found.st_ino, found.st_dev) == (inode, device):
                return True
    return False
