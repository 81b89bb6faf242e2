"""Starting and ending a session: ``init``, ``shutdown``, ``is_initialized``, ``status``.

Called by:  users, jupyter.
Imports:    api.{addresses,modes,notices,settings,signals}, cluster, observe, runtime; what takes long, only
            after the daemon was started.
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

from nbray.api import addresses, modes, notices, settings, signals
from nbray.api.settings import Settings
from nbray.cluster.starting import StartingDaemon
from nbray.model import ids
from nbray.model.errors import RayConnectionError, SessionStartError
from nbray.runtime import current as runtime

if TYPE_CHECKING:
    from nbray.cluster.inprocess import InProcess
    from nbray.cluster.launch import LocalCluster
    from nbray.observe.cards import SessionInfo, Stopped
    from nbray.observe.status import ClusterStatus
    from nbray.runtime.identifiers import JobID
    from nbray.wire.messages import (
        LogLines,
        Welcome,
    )

logger = logging.getLogger("nbray")


class _Session:
    """What this driver has started. One at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.cluster: LocalCluster | InProcess | None = None
        self.info: SessionInfo | None = None
        self.mode: int | None = None
        self.cell = ""


_session = _Session()


def init(  # noqa: D417  # the arguments of one line in the docstring are explained there together
    address: str | None = None,
    *,
    redis_address: str | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    resources: Mapping[str, float] | None = None,
    memory: int | None = None,
    object_store_memory: int | None = None,
    driver_object_store_memory: int | None = None,
    local_mode: bool = False,
    driver_mode: int | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool = True,
    configure_logging: bool = True,
    logging_level: int | str = logging.INFO,
    logging_format: str | None = None,
    namespace: str | None = None,
    job_id: JobID | None = None,
    object_id_seed: int | None = None,
    node_ip_address: str | None = None,
    temp_dir: str | None = None,
    include_webui: bool | None = None,
    webui_host: str = "localhost",
    num_workers: int | None = None,
    num_custom_resource: Any = None,
    redirect_output: bool | None = None,
    redirect_worker_output: bool | None = None,
    redis_port: int | None = None,
    num_redis_shards: int | None = None,
    redis_max_clients: int | None = None,
    redis_password: str | None = None,
    redis_max_memory: int | None = None,
    object_spilling: bool = True,
    object_spilling_directory: str | None = None,
    object_spilling_limit: int | None = None,
    lru_evict: bool = False,
    memory_usage_threshold: float | None = None,
    task_timeout_s: float | None = None,
    plasma_directory: str | None = None,
    huge_pages: bool = False,
    plasma_store_socket_name: str | None = None,
    raylet_socket_name: str | None = None,
    use_pickle: bool = True,
    include_java: bool = False,
    java_worker_options: Any = None,
    load_code_from_local: bool = False,
    _internal_config: str | None = None,
) -> SessionInfo | Any:  # None only where ignore_reinit_error asks for it: nobody else must check
    """Start a cluster on this machine; it ends with this process, or with ``shutdown``.

    Args:
        address: of a running cluster: ``host:port``, ``unix:/path``, or ``"auto"`` for the one on this
            machine; also ``$NBRAY_ADDRESS`` or ``$RAY_ADDRESS``. Joining one is not possible yet.
        redis_address: the older name of ``address``.
        num_cpus: how many CPUs tasks may use together; default: those this process may run on.
        num_gpus: how many GPUs tasks may use together; default: those of this machine, or as many as
            ``CUDA_VISIBLE_DEVICES`` names. They are counted; devices are not handed out yet.
        resources: quantities of resources with names of your own, whole numbers.
        memory: bytes that tasks may reserve, in units of 50 MiB; default: none.
        object_store_memory: size of the shared-memory store in bytes, at least 75 MiB; default:
            30 % of free memory, within the limits of the container.
        object_spilling: when the store is full, objects go to the disk, and come back when they are read;
            an object larger than the store lies there from the beginning. False: a full store refuses.
        object_spilling_directory: where on the disk; default: in the session's directory. The bytes are in
            a file without a name, which is gone with the session.
        object_spilling_limit: bytes on the disk, at most; default: as much as it has, but for a reserve of
            1 GiB, or 2 % of a smaller disk.
        lru_evict: when the store is full, the objects that were not used for longest go for good. Results
            of tasks are computed again when they are asked for, what was ``put`` is lost.
        memory_usage_threshold: when more than this share of the memory (of the machine, or of a container)
            is in use, the task that began last is ended, and runs again when there is room; default 0.95;
            1: never.
        task_timeout_s: how long an attempt of a task may run, unless its options say otherwise; then its
            worker is killed, and it runs again, or fails with ``TaskTimeoutError``.
            0, the default: without end.
        plasma_directory: a directory, such as /dev/shm, in which the shared memory is a file without a
            name; default: memory without any directory.
        huge_pages: the shared memory consists of huge pages, which the machine must have reserved
            (``vm.nr_hugepages``). With ``plasma_directory``, that is the mount point of a hugetlbfs.
        local_mode: run tasks in this process, one after the other, when they are submitted; for debugging.
        driver_mode: ``SCRIPT_MODE``, ``SILENT_MODE`` (no warnings about work under way), or
            ``PYTHON_MODE``, the older name of ``local_mode``.
        ignore_reinit_error: a second call logs an error, changes nothing and returns None.
        log_to_driver: show what tasks print; it is in files of the session's directory, too.
        configure_logging: set the logger ``nbray`` up with ``logging_level`` (a number or a name) and
            ``logging_format``. A program that shows log lines itself is left alone, but for the level,
            unless it asks for a format.
        namespace: the name under which named actors will be found; kept for them.
        job_id: of this driver's work; default: a new one.
        object_id_seed: the same seed gives the same sequence of IDs in the driver.
        node_ip_address: how this node is called; default 127.0.0.1. It has a resource ``node:<ip>``.
        temp_dir: where the session's directory goes; it is made if only its last part is missing.
        include_webui, webui_host: there is no web UI yet.
        num_workers, num_custom_resource, redirect_output, redirect_worker_output, use_pickle,
            load_code_from_local: of earlier releases, and not needed any more: workers start in
            milliseconds when there is work, output always goes to files as well, and everything is
            pickled.
        driver_object_store_memory, redis_port, num_redis_shards, redis_max_clients, redis_password,
            redis_max_memory, plasma_store_socket_name, raylet_socket_name, include_java,
            java_worker_options: checked, and without effect; a line in the log says why.
        _internal_config: JSON text of an object; none of its settings exists here.

    Returns:
        A dict of addresses that shows itself as a card in a notebook; None if a session was running.

    Raises:
        RuntimeError: a session is running already, or an address was given beside that of the environment.
        TypeError: an argument is of a wrong type.
        ValueError: an argument is out of range, or cannot be chosen when joining a cluster.
        SessionStartError: the cluster did not come up; the text says why and what to do. Also a
            ConnectionError if there is none to join, an OSError if a socket's path is too long.
    """
    asked = dict(locals())  # every parameter by its name: the first line, before there are other names
    with _session.lock:
        refusal = _why_not_again()
        if refusal:
            if not ignore_reinit_error:
                raise RuntimeError(refusal)
            logger.error(refusal)
            return None
        wanted = settings.check(asked)
        _refuse_joining(asked, wanted)
        if wanted.configure_logging:
            notices.configure(wanted.logging_level, wanted.logging_format)
        for line in wanted.notes:
            logger.warning(line)
        cluster = _start(wanted)
        _session.cluster, _session.mode = cluster, wanted.mode
        _session.info = _describe(cluster, wanted, asked)
        return _session.info


def _why_not_again() -> str:
    """What stands in the way of a session; "" if nothing does. One whose daemon died is cleared away."""
    cluster = _session.cluster
    if cluster is not None and (cluster.process.failure is not None or cluster.is_other_process()):
        _end(cluster)
    if _session.cluster is not None:
        return "nbray.init() was called before; call nbray.shutdown() first to start another session."
    if runtime.current_or_none() is not None:
        return (
            "nbray.init() was called in a task: its process belongs to a session already. Leave it out there."
        )
    return ""


def _refuse_joining(asked: Mapping[str, Any], wanted: Settings) -> None:
    given = asked["address"] is not None or asked["redis_address"] is not None
    if wanted.is_local and not given:
        return  # the environment speaks of clusters; this is none
    address = addresses.chosen(asked["address"], asked["redis_address"])
    if address is None:
        return
    settings.refuse_for_joining(asked)
    raise SessionStartError(
        f"Joining a running cluster (address={address!r}) is not possible yet. "
        "Leave address out to start a cluster on this machine."
    )


def _start(wanted: Settings) -> LocalCluster | InProcess:
    on_warning = None if wanted.mode == modes.SILENT_MODE else _warn
    cluster: LocalCluster | InProcess
    if wanted.is_local:
        from nbray.cluster.inprocess import InProcess

        cluster = InProcess(wanted.resources, wanted.job_id)
    else:
        cluster = _launch(wanted, on_warning)
    if wanted.id_seed is not None:
        cluster.process.context.name_children_by(ids.seeded_scope(wanted.id_seed))
    runtime.set_current(cluster.process)
    cluster.process.context.enter_cell(_session.cell)
    signals.leave_cleanly(cluster.process.loop.guard)
    return cluster


def _launch(wanted: Settings, on_warning: Callable[[str], None] | None) -> LocalCluster:
    starting = StartingDaemon(wanted.temp_dir)
    try:
        from nbray.cluster.launch import LocalCluster  # 40 ms, while the daemon boots
    except BaseException:
        starting.abandon()
        raise
    on_log = _print_log if wanted.log_to_driver else None
    return LocalCluster(
        starting, wanted.resources, wanted.store, on_log, on_warning, wanted.job_id,
        memory_threshold=wanted.memory_threshold, task_timeout_s=wanted.task_timeout_s,
    )  # fmt: skip


def _describe(cluster: LocalCluster | InProcess, wanted: Settings, asked: Mapping[str, Any]) -> SessionInfo:
    from nbray.observe.cards import SessionInfo

    welcome = cluster.process.welcome
    own = {name: asked[name] for name in ("num_cpus", "object_store_memory", "log_to_driver", "namespace")}
    return SessionInfo(
        _nearly_nothing(wanted.node_ip) if wanted.is_local else _address_info(welcome, wanted.node_ip),
        nodes=1,
        resources=welcome.resources,
        settings={**own, "resources": dict(asked["resources"] or {}) or None, "address": None},
        store_capacity_bytes=welcome.store_capacity_bytes,
        redis_origin=welcome.redis_origin,
    )


def _nearly_nothing(node_ip: str) -> dict[str, Any]:
    return {"node_ip_address": node_ip, "redis_address": None, "address": None, "webui_url": None}


def _address_info(welcome: Welcome, node_ip: str) -> dict[str, Any]:
    """The classic dict. What has no address here, since processes inherit it, is None."""
    return {
        "address": welcome.redis_endpoint,
        "redis_address": welcome.redis_endpoint,
        "node_ip_address": node_ip,
        "raylet_ip_address": node_ip,
        "object_store_address": None,
        "object_store_addresses": [],
        "raylet_socket_name": None,
        "local_scheduler_socket_names": [],
        "webui_url": None,
        "session_dir": welcome.session_dir,
        "node_id": welcome.node_id.hex(),
    }


def shutdown() -> Stopped:
    """End the session and everything it started; returns how many processes that were, as an int.

    Does nothing, and returns 0, when no session is running.
    """
    from nbray.observe.cards import Stopped

    with _session.lock:
        was_running = _session.cluster is not None
        stopped = Stopped(_end(_session.cluster) if _session.cluster is not None else 0)
        stopped.was_running = was_running
        return stopped


def _end(cluster: LocalCluster | InProcess) -> int:
    _session.cluster = _session.info = _session.mode = None
    runtime.set_current(None)
    signals.restore()
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


def node_ip_of(welcome: Welcome) -> str:
    """How the node is called: it has a resource of that name."""
    names = [name.partition(":")[2] for name in welcome.resources if name.startswith("node:")]
    return names[0] if names else settings.DEFAULT_NODE_IP


def mode() -> int | None:
    """What this process is, as a number of ``api.modes``; None when no session runs."""
    return _session.mode if is_initialized() else None


def set_current_cell(label: str) -> None:
    """From now on, work that is submitted belongs to this notebook cell, as in ``In[3]``."""
    _session.cell = label
    process = runtime.current_or_none()
    if process is not None:
        process.context.enter_cell(label)


def _print_log(message: LogLines) -> None:
    """Show what a task printed, each line with the task's name."""
    target = sys.stderr if message.stream == "stderr" else sys.stdout
    if target is None:
        return
    from nbray.observe import renderer
    from nbray.runtime.code_names import named

    name = message.task_name or "worker"
    tag = name if not renderer.wants_pids() else f"{name} pid={message.pid}"
    try:
        lines = named("\n".join(message.lines)).split("\n")
        target.write("".join(f"({tag}) {line}\n" for line in lines))
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
        _session.cluster.abandon()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
