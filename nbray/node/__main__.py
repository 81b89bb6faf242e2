"""Where a node daemon is put together: sockets and children first, asyncio later.

Called by:  cluster.launch, as a command line: the descriptor number of a socket to its launcher.
Imports:    nbray.node, store, control, transport.
Never:      takes a secret from the command line or the environment; the launcher's socket brings it.

The order matters for start-up time: Redis and the zygote boot while this process still imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

from nbray.control.secrets import redis_password
from nbray.control.server import EmbeddedRedis
from nbray.model.errors import NbrayError
from nbray.model.limits import PROTOCOL_VERSION
from nbray.node.zygote import Zygote
from nbray.store.arena import Arena
from nbray.store.budget import MemoryBudget
from nbray.transport import linux
from nbray.transport.sockets import send_with_descriptors
from nbray.wire.codec import decode_buffer, encode
from nbray.wire.messages import Message, StartFailed, StartNode, Welcome


def main() -> None:
    driver = socket.socket(fileno=int(sys.argv[1]))
    driver.set_inheritable(False)
    linux.set_process_title("nbray-node")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    start = _receive_start(driver)
    if start is None:
        return
    try:
        _run(driver, start)
    except NbrayError as exc:
        with contextlib.suppress(ConnectionError):
            send_with_descriptors(driver, encode(StartFailed(type(exc).__name__, str(exc))), [])
    except ConnectionError:  # the launcher went away before it had our greeting
        pass
    finally:
        linux.kill_all_descendants()
        if os.getppid() != start.driver_pid:  # it cannot tidy up after us any more
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


def _run(driver: socket.socket, start: StartNode) -> None:
    linux.become_subreaper()
    session_dir = Path(start.session_dir)
    # While this lock is held the session is alive; ``cluster.session`` removes directories without.
    lock = os.open(session_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    redis = _start_redis(start)
    budget = MemoryBudget()
    capacity = start.store_capacity_bytes or budget.default_capacity()
    arena = Arena.create(capacity)
    redis_endpoint = f"unix://{redis.socket_path}" if redis else start.redis_location
    welcome = Welcome(
        PROTOCOL_VERSION,
        start.cluster_id,
        start.node_id,
        start.node_incarnation,
        start.session_dir,
        capacity,
        start.resources,
        redis_endpoint,
        start.redis_origin,
    )
    _serve(driver, start, redis, budget, arena, welcome)


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
    welcome: Welcome,
) -> None:  # fmt: skip
    zygote = Zygote(arena.fd, welcome, start.sys_path)
    import asyncio  # 40 ms: the zygote has begun

    from nbray.control.supervisor import wait_until_ready
    from nbray.node.control_plane import ControlPlane
    from nbray.node.daemon import NodeDaemon

    async def serve() -> None:
        control = ControlPlane(start, redis)
        daemon = NodeDaemon(start, arena, budget, control)
        daemon.workers.zygote = zygote
        if redis is not None:
            await wait_until_ready(redis)
        send_with_descriptors(driver, encode(welcome), [arena.fd])
        await daemon.run(driver)

    asyncio.run(serve())


if __name__ == "__main__":
    main()
