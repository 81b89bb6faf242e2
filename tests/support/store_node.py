"""A store as the daemon drives it, whose clock and threads move when the test says so.

Called by:  tests of store.server and of spilling.
Imports:    nbray.store, nbray.wire.
Never:      sleeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from nbray.store.arena import Arena
from nbray.store.server import NO_SPILLING, SpillPlan, StoreServer
from nbray.wire.base import Descriptor, Message
from nbray.wire.object_messages import CreateObject, ObjectCreated, SealObject

MIB = 1024 * 1024
NODE = b"N" * 16
OWNER, WRITER, READER = b"owner", b"writer", b"reader"
PLENTY = 1 << 40


def oid(n: int) -> bytes:
    """The object of this number."""
    return bytes([n]) * 20


class Node:
    """One store. Threads run at once unless ``threads_wait``."""

    def __init__(self, capacity_bytes: int, plan: SpillPlan = NO_SPILLING) -> None:
        self.available = PLENTY
        self.now_s = 1000.0
        self.sent: list[tuple[bytes, Message]] = []
        self.told: list[str] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.jobs: list[tuple[Callable[[], object], Callable[[BaseException | None], None]]] = []
        self.threads_wait = False
        self.arena = Arena.create(capacity_bytes)
        self.store = StoreServer(
            NODE,
            self.arena,
            lambda: self.available,
            lambda process, message: self.sent.append((process, message)),
            self.run_in_thread,
            lambda delay_s, callback: self.timers.append((self.now_s + delay_s, callback)),
            plan=plan,
            tell=self.told.append,
            clock=lambda: self.now_s,
        )

    def run_in_thread(self, work: Callable[[], object], done: Callable[[BaseException | None], None]) -> None:
        self.jobs.append((work, done))
        if not self.threads_wait:
            self.run_jobs()

    def run_jobs(self) -> None:
        """Run all that threads have to do, and what follows."""
        while self.jobs:
            self.run_job()

    def run_job(self) -> None:
        """Run what was given to a thread first."""
        work, done = self.jobs.pop(0)
        error: BaseException | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        done(error)

    def pass_time(self, seconds: float = 10.0) -> None:
        """Call back whoever wanted to be, at the right time."""
        end_s = self.now_s + seconds
        while due := [timer for timer in self.timers if timer[0] <= end_s]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now_s = first[0]
            first[1]()
        self.now_s = end_s

    def tell(self, process: bytes, message: Message) -> list[Message]:
        """Deliver, and return what was sent to anybody in answer."""
        before = len(self.sent)
        assert self.store.handle(process, message)
        return [message for _, message in self.sent[before:]]

    def create(self, n: int, size_bytes: int, writer: bytes = WRITER, *, weak: bool = False) -> list[Message]:
        """Ask for space."""
        return self.tell(writer, CreateObject(oid(n), OWNER, size_bytes, weak))

    def stored(self, n: int, size_bytes: int, writer: bytes = WRITER, *, weak: bool = False) -> Descriptor:
        """Store an object of no particular bytes."""
        (created,) = self.create(n, size_bytes, writer, weak=weak)
        assert isinstance(created, ObjectCreated)
        self.tell(writer, SealObject(oid(n)))
        return created.descriptor

    def memory(self) -> int:
        """What the arena takes."""
        return os.fstat(self.arena.fd).st_blocks * 512
