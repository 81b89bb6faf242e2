"""The hands of the worker pool: pipes, sockets, forks, exits, and what a dead worker left behind.

Called by:  node.daemon.
Imports:    core.workers, node.zygote, node.logs, transport.
Never:      decides which worker serves whom (core.workers does).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nbray.model.ids import PROCESS_ID_BYTES, short
from nbray.node.last_words import Shown, last_words
from nbray.node.logs import LogFile, PipeReader
from nbray.node.zygote import Zygote
from nbray.transport import linux
from nbray.transport.aio import Peer, attach
from nbray.transport.sockets import tuned
from nbray.wire.base import Message
from nbray.wire.messages import ForkWorker, Leaving

#: Environment variable by which a worker's children can be told from another worker's.
WORKER_MARK = "NBRAY_WORKER_ID"
_ORPHAN_DELAY_S = 0.05
_RETIRE_DEADLINE_S = 1.0
#: A process that is dying closes its socket first: whoever lives so long after that closed it on purpose.
_DYING_S = 0.02
_TRANSPORT_CLOSED = (
    "Its transport was closed by the task: it closed descriptors that it had not opened itself, as "
    "os.closerange(3, n) does. So nbray ended it."
)
_EXITS_KEPT = 256
_FORK_REFUSED = 1 << 8  # as wait status: exit code 1


class WorkerHandle:
    """One worker process, from the order to fork it until it is reaped."""

    __slots__ = (
        "endpoint", "log", "peer", "pid", "pipes", "process_id", "ready", "retiring", "shown", "why",
    )  # fmt: skip

    def __init__(self, process_id: bytes, endpoint: str, log: LogFile) -> None:
        self.process_id = process_id
        self.endpoint = endpoint
        self.log = log
        self.pid = 0
        self.peer: Peer | None = None
        self.pipes: list[PipeReader] = []
        self.shown = Shown()
        self.ready = False
        self.retiring = False
        self.why = ""  # we ended it, if we did

    def send(self, message: Message) -> None:
        if self.peer is not None:
            self.peer.send(message)


class WorkerExit:
    """How a worker ended."""

    __slots__ = ("exit_code", "handle", "stderr_tail", "term_signal", "why")

    def __init__(self, handle: WorkerHandle, status: int) -> None:
        self.handle = handle
        self.term_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
        self.stderr_tail = last_words(list(handle.log.tail))
        self.why = handle.why


class Workers:
    """All worker processes of the node.

    Args:
        on_message: serves what workers say.
        on_exit: told once for each worker that is gone, after it was reaped.
        on_lines: told lines that a worker's C code or its children wrote.
        other_children: PIDs of the daemon's children that are neither workers nor the zygote.
    """

    def __init__(
        self,
        session_dir: Path,
        on_message: Callable[[Peer, Message], None],
        on_exit: Callable[[WorkerExit], None],
        on_lines: Callable[[WorkerHandle, str, list[str]], None],
        other_children: Callable[[], set[int]],
    ) -> None:
        self.handles: dict[bytes, WorkerHandle] = {}
        self.zygote: Zygote
        self._session_dir = session_dir
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_lines = on_lines
        self._other_children = other_children
        self._by_pid: dict[int, WorkerHandle] = {}
        self._early_exits: dict[int, int] = {}  # reaped before we knew whose PID it was
        self._dead_marks: set[str] = set()
        self._sweep_planned = False

    # --- starting --------------------------------------------------------------------------------

    async def start(self) -> bytes:
        """Order one more worker; returns its process ID. It registers by ``Hello`` when it is up."""
        process_id = os.urandom(PROCESS_ID_BYTES)
        name = short(process_id)
        handle = WorkerHandle(
            process_id,
            str(self._session_dir / f"w-{name}"),
            LogFile(self._session_dir / "logs" / f"worker-{name}.log"),
        )
        self.handles[process_id] = handle
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        handle.pipes = [
            PipeReader(out_read, partial(self._on_lines, handle, "stdout"), partial(self._on_mute, handle)),
            PipeReader(err_read, partial(self._on_lines, handle, "stderr"), partial(self._on_mute, handle)),
        ]
        self.zygote.fork(
            ForkWorker(process_id, handle.endpoint, {WORKER_MARK: process_id.hex()}),
            [theirs.detach(), out_write, err_write],
        )
        handle.peer = await attach(tuned(ours), self._on_message, partial(self._on_peer_lost, handle))
        handle.peer.process_id = process_id
        handle.peer.role = "worker"
        return process_id

    def forked(self, process_id: bytes, pid: int) -> None:
        handle = self.handles.get(process_id)
        if handle is None:
            linux.kill_quietly(pid)
            return
        if not pid:
            self._forget(handle)
            self._on_exit(WorkerExit(handle, _FORK_REFUSED))
            return
        handle.pid = pid
        self._by_pid[pid] = handle
        status = self._early_exits.pop(pid, None)
        if status is not None:
            self._exited(handle, status)

    # --- ending ------------------------------------------------------------------------------------

    def kill(self, process_id: bytes) -> None:
        self.signal(process_id, signal.SIGKILL)

    def signal(self, process_id: bytes, number: int) -> None:
        """The PID is its own until it is reaped, and then it has no handle any more."""
        handle = self.handles.get(process_id)
        if handle is not None and handle.pid:
            with contextlib.suppress(OSError):
                os.kill(handle.pid, number)

    def retire(self, process_id: bytes) -> None:
        """Let an idle worker go: its connection closes, and it ends by itself."""
        handle = self.handles.get(process_id)
        if handle is not None and not handle.retiring:
            handle.retiring = True
            if handle.peer is not None:
                handle.peer.close()
            asyncio.get_running_loop().call_later(_RETIRE_DEADLINE_S, self.kill, process_id)

    def dismiss(self, process_id: bytes) -> None:
        """Let a worker go that wanted to; it ends when the tasks that it submitted itself are done."""
        handle = self.handles.get(process_id)
        if handle is not None:
            handle.send(Leaving())

    def _on_peer_lost(self, handle: WorkerHandle, peer: Peer) -> None:
        handle.peer = None
        if not handle.retiring and handle.process_id in self.handles:
            # Dead, as a rule.
            asyncio.get_running_loop().call_later(_DYING_S, self.cut_off, handle.process_id)

    def _on_mute(self, handle: WorkerHandle) -> None:
        """Its stdout or stderr is closed: it is dying, as a rule."""
        if handle.process_id in self.handles:
            asyncio.get_running_loop().call_later(_DYING_S, self._replace, handle)

    def _replace(self, handle: WorkerHandle) -> None:
        """It lives, and what the next task prints would get lost: as if it had asked to leave."""
        if handle.process_id in self.handles and handle.peer is not None and not handle.retiring:
            self._on_message(handle.peer, Leaving())

    def cut_off(self, process_id: bytes) -> None:
        """Somebody lost the connection to it. If it lives it has closed that, and is of no more use."""
        handle = self.handles.get(process_id)
        if handle is not None:
            handle.why = _TRANSPORT_CLOSED
            self.kill(process_id)

    def reap(self) -> None:
        """SIGCHLD: collect who has ended. All children of the daemon come through here."""
        for pid, status in linux.reap_children():
            handle = self._by_pid.get(pid)
            if handle is not None:
                self._exited(handle, status)
            elif pid == self.zygote.pid:
                self.zygote.exited()
            elif self.zygote.has_forks_under_way and pid not in self._other_children():
                self._early_exits[pid] = status
                while len(self._early_exits) > _EXITS_KEPT:
                    del self._early_exits[next(iter(self._early_exits))]

    def _exited(self, handle: WorkerHandle, status: int) -> None:
        del self._by_pid[handle.pid]
        self._kill_group(handle.pid)
        self._forget(handle)
        self._dead_marks.add(handle.process_id.hex())
        self._plan_sweep()
        self._on_exit(WorkerExit(handle, status))

    def _forget(self, handle: WorkerHandle) -> None:
        """It is gone, or never was: take its last words and close what was its.

        Its last messages count: others may have heard of an object before we read that it is whole.
        """
        if handle.peer is not None:
            handle.peer.drain()
        del self.handles[handle.process_id]
        for pipe in handle.pipes:
            pipe.drain()
            pipe.close()
        handle.log.close()
        if handle.peer is not None:
            handle.peer.close()
        Path(handle.endpoint).unlink(missing_ok=True)

    @staticmethod
    def _kill_group(pid: int) -> None:
        """Its plain children; it led a process group of its own."""
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    def _plan_sweep(self, delay_s: float = 0.0) -> None:
        if not self._sweep_planned:
            self._sweep_planned = True
            asyncio.get_running_loop().call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        """Orphans of dead workers became our children, also those with sessions of their own."""
        self._sweep_planned = False
        if self.zygote.has_forks_under_way:  # an unknown child may be a newborn worker
            self._plan_sweep(_ORPHAN_DELAY_S)
            return
        known = {self.zygote.pid, *self._other_children(), *self._by_pid}
        for pid in linux.children_of(os.getpid()):
            if pid not in known and not self._belongs_to_living(pid):
                for below in (*linux.descendants_of(pid), pid):
                    linux.kill_quietly(below)
        self._dead_marks.clear()

    def _belongs_to_living(self, pid: int) -> bool:
        """A living worker may have detached a child on purpose; that one stays until its worker ends."""
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        for entry in environ.split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == WORKER_MARK.encode():
                return value.decode(errors="replace") not in self._dead_marks
        return False

    def close(self) -> None:
        for handle in self.handles.values():
            for pipe in handle.pipes:
                pipe.close()
            handle.log.close()
            if handle.peer is not None:
                handle.peer.close()
