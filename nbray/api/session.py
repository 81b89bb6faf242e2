"""Starting and ending a session: ``init``, ``shutdown``, ``is_initialized``, ``status``.

Called by:  users, jupyter.
Imports:    cluster, observe, runtime; what takes long, only after the daemon was started.
Never:      leaves a half-started session behind.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from nbray.cluster.starting import StartingDaemon
from nbray.model.errors import RayConnectionError, SessionStartError
from nbray.model.limits import STORE_MIN_BYTES
from nbray.model.resources import CPU, UNIT, to_units
from nbray.runtime import current as runtime

if TYPE_CHECKING:
    from nbray.cluster.launch import LocalCluster
    from nbray.observe.cards import SessionInfo, Stopped
    from nbray.observe.status import ClusterStatus
    from nbray.wire.messages import LogLines

logger = logging.getLogger("nbray")

_RESERVED = ("CPU", "GPU", "memory", "object_store_memory")


class _Session:
    """What this driver has started. One at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.cluster: LocalCluster | None = None
        self.info: SessionInfo | None = None
        self.cell = ""


_session = _Session()


def init(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    object_store_memory: int | None = None,
    log_to_driver: bool = True,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    temp_dir: str | None = None,
) -> SessionInfo:
    """Start a cluster on this machine; it ends with this process, or with ``shutdown``.

    Args:
        address: of a running cluster. Joining one is not possible yet.
        num_cpus: how many CPUs tasks may use together; default: those this process may run on.
        resources: quantities of resources with names of your own, whole numbers.
        object_store_memory: size of the shared-memory store in bytes, at least 75 MiB; default:
            30 % of free memory, within the limits of the container.
        log_to_driver: show what tasks print.
        ignore_reinit_error: a second call logs an error and returns the running session.
        namespace: the name under which named actors will be found; kept for them.
        temp_dir: where the session's directory goes.

    Returns:
        A dict of addresses that shows itself as a card in a notebook.

    Raises:
        RuntimeError: a session is running already.
        ValueError: an argument is out of range.
        SessionStartError: the cluster did not come up; the text says why and what to do.
    """
    with _session.lock:
        running = _clear_lost_session()
        if running is not None:
            text = "nbray.init() was called before; call nbray.shutdown() first to start another session."
            if not ignore_reinit_error:
                raise RuntimeError(text)
            logger.error(text)
            return running
        if address is not None:
            raise SessionStartError(
                f"Joining a running cluster (address={address!r}) is not possible yet. "
                "Leave address out to start a cluster on this machine."
            )
        quantities = _quantities(num_cpus, resources)
        store_bytes = _store_bytes(object_store_memory)
        on_log = _print_log if log_to_driver else None
        cluster = _launch(quantities, store_bytes, temp_dir, on_log)
        runtime.set_current(cluster.process)
        cluster.process.context.cell = _session.cell
        settings = {
            "num_cpus": num_cpus, "resources": dict(resources) if resources else None,
            "object_store_memory": object_store_memory, "log_to_driver": log_to_driver,
            "namespace": namespace, "address": None,
        }  # fmt: skip
        _session.cluster, _session.info = cluster, _describe(cluster, settings)
        return _session.info


def _launch(
    quantities: dict[str, int],
    store_bytes: int,
    temp_dir: str | None,
    on_log: Callable[[LogLines], None] | None,
) -> LocalCluster:
    starting = StartingDaemon(temp_dir)
    try:
        from nbray.cluster.launch import LocalCluster  # 40 ms, while the daemon boots
    except BaseException:
        starting.abandon()
        raise
    return LocalCluster(starting, quantities, store_bytes, on_log, _warn)


def _clear_lost_session() -> SessionInfo | None:
    """The running session's card; a session whose daemon died is cleared away first."""
    cluster = _session.cluster
    if cluster is not None and (cluster.process.failure is not None or cluster.is_other_process()):
        _end(cluster)
    return _session.info


def _quantities(num_cpus: int | None, resources: Mapping[str, float] | None) -> dict[str, int]:
    cpus = len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus
    if type(cpus) is not int or cpus < 0:
        raise ValueError(f"num_cpus must be a whole number, 0 or more, not {num_cpus!r}.")
    quantities = {CPU: cpus * UNIT}
    for name, amount in (resources or {}).items():
        if name in _RESERVED:
            raise ValueError(f"resources may not name {name}; use the argument of init() for it.")
        units = to_units(name, amount)
        if units % UNIT:
            raise ValueError(f"A node has a whole number of {name}, not {amount!r}.")
        quantities[name] = units
    return {name: units for name, units in quantities.items() if units}


def _store_bytes(object_store_memory: int | None) -> int:
    if object_store_memory is None:
        return 0
    if object_store_memory < STORE_MIN_BYTES:
        raise ValueError(
            f"object_store_memory must be at least {STORE_MIN_BYTES} bytes (75 MiB), "
            f"not {object_store_memory!r}."
        )
    return int(object_store_memory)


def _describe(cluster: LocalCluster, settings: dict[str, Any]) -> SessionInfo:
    from nbray.observe.cards import SessionInfo

    welcome = cluster.process.welcome
    socket_dir = welcome.session_dir
    address = {
        "address": welcome.redis_endpoint,
        "redis_address": welcome.redis_endpoint,
        "session_dir": socket_dir,
        "node_id": welcome.node_id.hex(),
        "node_ip_address": "127.0.0.1",
        "webui_url": None,
    }
    return SessionInfo(
        address,
        nodes=1,
        resources=welcome.resources,
        settings=settings,
        store_capacity_bytes=welcome.store_capacity_bytes,
        redis_origin=welcome.redis_origin,
    )


def shutdown() -> Stopped:
    """End the session and everything it started; returns how many processes that were, as an int.

    Does nothing, and returns 0, when no session is running.
    """
    from nbray.observe.cards import Stopped

    with _session.lock:
        return Stopped(_end(_session.cluster) if _session.cluster is not None else 0)


def _end(cluster: LocalCluster) -> int:
    _session.cluster = _session.info = None
    runtime.set_current(None)
    return cluster.stop()


def is_initialized() -> bool:
    """Whether a session is running in this process."""
    process = runtime.current_or_none()
    return process is not None and process.failure is None


def status() -> ClusterStatus:
    """What the cluster is doing: nodes, CPUs, workers, tasks, the store.

    Raises:
        RayConnectionError: no session is running.
    """
    from nbray.observe.status import ClusterStatus

    return ClusterStatus(runtime.current().status())


def session_info() -> SessionInfo | None:
    """The card of the running session, as ``init`` returned it."""
    return _session.info


def set_current_cell(label: str) -> None:
    """From now on, work that is submitted belongs to this notebook cell, as in ``In[3]``."""
    _session.cell = label
    process = runtime.current_or_none()
    if process is not None:
        process.context.cell = label


def _print_log(message: LogLines) -> None:
    """Show what a task printed, each line with the task's name."""
    target = sys.stderr if message.stream == "stderr" else sys.stdout
    if target is None:
        return
    from nbray.observe import renderer

    name = message.task_name or "worker"
    tag = name if not renderer.wants_pids() else f"{name} pid={message.pid}"
    try:
        target.write("".join(f"({tag}) {line}\n" for line in message.lines))
        target.flush()
    except (OSError, ValueError):  # closed, or a pipe that nobody reads: not a reason to fail work
        return


def _warn(text: str) -> None:
    # It speaks of work under way, not of the line of ours that happens to say it.
    warnings.warn_explicit(text, RuntimeWarning, "nbray", 1)


def _at_exit() -> None:
    try:
        shutdown()
    except RayConnectionError:
        return


def _after_fork_in_child() -> None:
    _session.lock = threading.Lock()  # a thread that held it is not in this process
    if _session.cluster is not None:
        _session.cluster.session.abandon()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
