"""Where a node daemon is put together: sockets and children first, asyncio later.

Called by:  node.__main__, which has started the zygote.
Imports:    nbray.node, store, control, transport.
Never:      waits for a child to boot before it does what can be done without it.

The order matters for start-up time: Redis and the zygote boot while this process still imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import socket
from pathlib import Path

from nbray.control.secrets import redis_password
from nbray.control.server import EmbeddedRedis
from nbray.model.errors import NbrayError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.node.storage import make_arena
from nbray.node.zygote_process import ZygoteProcess
from nbray.store.arena import Arena
from nbray.store.budget import MemoryBudget
from nbray.transport import linux
from nbray.transport.sockets import send_with_descriptors
from nbray.wire.base import Message
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import (
    StartFailed,
    StartNode,
    Welcome,
)


def run(driver: socket.socket, zygote: ZygoteProcess) -> None:
    """Be the node daemon of the launcher at the other end of ``driver``, until the end."""
    linux.set_process_title("nbray-node")
    linux.become_subreaper()  # before the zygote forks, which it does when it is told to
    start = _receive_start(driver)
    try:
        if start is not None:
            _run(driver, start, zygote)
    except NbrayError as exc:
        with contextlib.suppress(ConnectionError):
            send_with_descriptors(driver, encode(StartFailed(type(exc).__name__, str(exc))), [])
    except ConnectionError:  # the launcher went away before it had our greeting
        pass
    finally:
        linux.kill_all_descendants()
        if start is not None and os.getppid() != start.driver_pid:  # it cannot tidy up after us any more
            shutil.rmtree(start.session_dir, ignore_errors=True)


def _receive_start(driver: socket.socket) -> StartNode | None:
    """The launcher's one message, or None if it went away."""
    buffer = bytearray()
    messages: list[Message] = []
    while not messages:
        data = driver.recv(64 * 1024)
        if not data:
            return None
        buffer += data
        decode_buffer(buffer, messages)
    assert isinstance(messages[0], StartNode)
    return messages[0]


def _run(driver: socket.socket, start: StartNode, booting: ZygoteProcess) -> None:
    session_dir = Path(start.session_dir)
    # While this lock is held the session is alive; ``cluster.session`` removes directories without.
    lock = os.open(session_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    redis = _start_redis(start)
    budget = MemoryBudget()
    arena = make_arena(start.store, budget)
    redis_endpoint = f"unix://{redis.socket_path}" if redis else start.redis_location
    welcome = Welcome(
        PROTOCOL_VERSION,
        start.cluster_id,
        start.node_id,
        start.node_incarnation,
        start.session_dir,
        arena.capacity_bytes,
        start.resources,
        redis_endpoint,
        start.redis_origin,
        start.task_timeout_s,
    )
    _serve(driver, start, redis, budget, arena, welcome, booting)


def _start_redis(start: StartNode) -> EmbeddedRedis | None:
    if start.redis_kind != "binary":
        return None
    redis = EmbeddedRedis(
        start.redis_location,
        session_dir=start.session_dir,
        cluster_id=start.cluster_id,
        password=redis_password(start.token),
    )
    redis.start()
    return redis


def _serve(
    driver: socket.socket, start: StartNode, redis: EmbeddedRedis | None, budget: MemoryBudget, arena: Arena,
    welcome: Welcome, booting: ZygoteProcess,
) -> None:  # fmt: skip
    import asyncio  # 40 ms: Redis and the zygote have begun

    from nbray.control.supervisor import wait_until_ready
    from nbray.node.control_plane import ControlPlane
    from nbray.node.daemon import NodeDaemon
    from nbray.node.zygote import Zygote

    gc.freeze()  # what was imported stays: the collector need not look at it
    gc.enable()
    zygote = Zygote(booting, arena.fd, welcome, start.sys_path)

    async def serve() -> None:
        control = ControlPlane(start, redis)
        daemon = NodeDaemon(start, arena, budget, control)
        daemon.workers.zygote = zygote
        if redis is not None:
            await wait_until_ready(redis)
        send_with_descriptors(driver, encode(welcome), [arena.fd])
        await daemon.run(driver)

    asyncio.run(serve())
