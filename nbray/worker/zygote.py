"""The fork server: loads what every worker needs once, then forks workers in milliseconds.

Called by:  node.workers, as a command line.
Imports:    nbray.worker.nesting, numpy, cloudpickle: the point is to have them loaded.
Never:      has a second thread, opens a GPU, or runs user code.

A worker must outlive its zygote, but not its daemon. So the zygote forks twice: the middle process
ends at once, the daemon, a subreaper, adopts the worker, and only then the worker asks to die with
its parent.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import os
import random
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from nbray.model.ids import PROCESS_ID_BYTES
from nbray.model.limits import PROTOCOL_VERSION
from nbray.runtime.context import Place, new_context
from nbray.runtime.current import set_current
from nbray.runtime.process import Process
from nbray.store.mapping import Mapping
from nbray.transport import linux
from nbray.transport.sockets import listen, receive_with_descriptors, tuned
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import (
    ForkWorker,
    Hello,
    Welcome,
    WorkerForked,
    ZygoteReady,
)
from nbray.worker.nesting import NestingExecutor

_PACKET_BYTES = 256 * 1024
_ADOPTION_DEADLINE_S = 5.0
#: What our own calls fail with when a task has closed or replaced our descriptors.
_NOT_OURS = (errno.EBADF, errno.ENOTSOCK, errno.EINVAL)
_CUT_OFF_S = 1.0


def main() -> None:
    """``argv``: the control socket's descriptor number."""
    linux.die_with_parent()
    linux.set_process_title("nbray-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    daemon_pid = os.getppid()
    _preload()
    welcome, descriptors = _receive(control)
    if not isinstance(welcome, Welcome):  # the daemon is gone, or never came so far
        return
    mapping = Mapping(descriptors[0], welcome.store_capacity_bytes)
    os.close(descriptors[0])
    worker = _prepare(welcome, mapping)
    gc.freeze()  # workers share these pages; the collector must not write to them
    gc.enable()
    control.send(encode(ZygoteReady(os.getpid())))
    while True:
        message, descriptors = _receive(control)
        if message is None:
            os._exit(0)
        if isinstance(message, ForkWorker):
            _fork_twice(control, message, descriptors, daemon_pid, worker)


def _preload() -> None:
    import cloudpickle  # noqa: F401
    import numpy  # noqa: F401  # ICN: for its side effect of being loaded


def _receive(control: socket.socket) -> tuple[Message | None, list[int]]:
    """One packet, one message; None at the end."""
    data, descriptors = receive_with_descriptors(control, _PACKET_BYTES, 4)
    messages: list[Message] = []
    decode_buffer(bytearray(data), messages)
    return (messages[0] if messages else None), descriptors


def _fork_twice(
    control: socket.socket,
    message: ForkWorker,
    descriptors: list[int],
    daemon_pid: int,
    worker: NestingExecutor,
) -> None:
    middle = _fork_if_possible()
    if middle == 0:
        try:
            pid = _fork_if_possible()
            if pid == 0:
                _child(control, message, descriptors, daemon_pid, worker)
            control.send(encode(WorkerForked(message.process_id, pid or 0)))
        finally:
            os._exit(0)
    if middle is None:
        control.send(encode(WorkerForked(message.process_id, 0)))
    else:
        os.waitpid(middle, 0)
    for fd in descriptors:
        os.close(fd)


def _prepare(welcome: Welcome, mapping: Mapping) -> NestingExecutor:
    """Make what every worker will be, once.

    A worker would have to touch all the code that does so, and every page that is touched is copied: that is
    a fifth of a worker's memory, and of the time that its start takes.
    """
    job_id = bytes(PROCESS_ID_BYTES)  # learned with the first owner; IDs hang on task IDs, not on it
    process = Process(
        process_id=job_id,
        job_id=job_id,
        endpoint="",
        welcome=welcome,
        mapping=mapping,
        context=new_context(job_id, job_id, 0, "", Place("", 1)),
        on_lost=lambda: os._exit(0),
    )
    return NestingExecutor(process)


def _fork_if_possible() -> int | None:
    """Like ``os.fork``; None when there may be no more processes, or there is no memory for one."""
    try:
        return os.fork()
    except OSError:
        return None


def _child(
    control: socket.socket,
    message: ForkWorker,
    descriptors: list[int],
    daemon_pid: int,
    worker: NestingExecutor,
) -> None:
    """Becomes a worker; never returns."""
    try:
        control.close()
        os.setsid()
        daemon_fd, out_fd, err_fd = descriptors
        _take_stdio(out_fd, err_fd)
        faulthandler.enable(file=2, all_threads=True)
        _await_adoption(daemon_pid, daemon_fd)
        linux.set_process_title("nbray-worker")
        linux.raise_oom_score()
        # Forked copies would all draw the same numbers.
        random.seed()
        if "numpy.random" in sys.modules:  # else it draws a seed of its own when it is imported
            sys.modules["numpy.random"].seed()
        os.environ.update(message.env)
        _serve(message, socket.socket(fileno=daemon_fd), worker)
    except BaseException:  # noqa: BLE001  # a forked child must never return into the zygote
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(1)


def _take_stdio(out_fd: int, err_fd: int) -> None:
    null_fd = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null_fd, 0), (out_fd, 1), (err_fd, 2)):
        os.dup2(source, target)
        os.close(source)


def _await_adoption(daemon_pid: int, daemon_fd: int) -> None:
    """Wait until the daemon is our parent, then die with it; end now if it is gone already."""
    deadline_s = time.monotonic() + _ADOPTION_DEADLINE_S
    hangup = select.poll()
    hangup.register(daemon_fd, 0)  # reports only that the other end was closed
    while os.getppid() != daemon_pid:
        if hangup.poll(0) or time.monotonic() > deadline_s:
            os._exit(1)
        time.sleep(0.0002)
    linux.die_with_parent()
    if os.getppid() != daemon_pid:
        os._exit(1)


def _serve(message: ForkWorker, sock: socket.socket, worker: NestingExecutor) -> None:
    process = worker.process
    process.become(message.process_id, message.endpoint)
    set_current(process)
    worker.begin(listen(Path(message.endpoint)))
    channel = process.loop.add(tuned(sock), "daemon", worker.on_daemon_message, process.on_daemon_lost)
    process.attach(channel)
    with process.loop.lock:
        process.tell_daemon(
            Hello(
                PROTOCOL_VERSION, "worker", message.process_id, os.getpid(), process.job_id, message.endpoint
            )
        )
    try:
        worker.run_forever()
    except OSError as exc:
        if exc.errno not in _NOT_OURS:
            raise
        with contextlib.suppress(OSError):
            channel.close()
        time.sleep(_CUT_OFF_S)  # the daemon sees that, and ends this process with a better reason than ours
    except Exception:
        process.pushed.push_now("worker_crash", f"A worker failed.\n{traceback.format_exc()}")
        raise


if __name__ == "__main__":
    main()
