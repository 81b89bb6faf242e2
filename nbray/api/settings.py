"""What ``init`` was asked for, checked: every parameter of the first and of the later releases of Ray.

Called by:  api.session.
Imports:    api.{addresses,modes,notices,options}, cluster.gpus, runtime.identifiers, model.
Never:      starts anything. A setting whose feature is not there says so in ``notes``; none is silently lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from nbray.api import modes, notices
from nbray.api.addresses import resolved
from nbray.api.options import timeout_s
from nbray.cluster import gpus
from nbray.model.errors import ReservedNameError, SocketPathError
from nbray.model.limits import SOCKET_PATH_MAX_BYTES, STORE_MIN_BYTES
from nbray.model.resources import CPU, GPU, MEMORY, MEMORY_UNIT_BYTES, UNIT, to_units, whole_or_none
from nbray.model.store_plan import StorePlan
from nbray.runtime.identifiers import JobID

DEFAULT_NODE_IP = "127.0.0.1"
#: Above this share of the memory in use, tasks are ended.
DEFAULT_MEMORY_THRESHOLD = 0.95

_RESERVED = (CPU, GPU, MEMORY, "object_store_memory")
_MODES = (modes.SCRIPT_MODE, modes.PYTHON_MODE, modes.SILENT_MODE)
_WEB_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  # a word to compare with: nothing listens

#: They describe a node, or what runs on it: whoever joins a cluster finds these as they are.
_OF_A_START = (
    "num_cpus", "num_gpus", "resources", "num_workers", "num_redis_shards", "redis_max_clients", "redis_port",
    "memory", "object_store_memory", "redis_max_memory", "plasma_directory", "huge_pages", "temp_dir",
    "plasma_store_socket_name", "raylet_socket_name", "_internal_config", "lru_evict", "object_spilling",
    "object_spilling_directory", "object_spilling_limit", "memory_usage_threshold", "task_timeout_s",
)  # fmt: skip
#: Where nothing was asked for, most are None or False, and these are True.
_ON_BY_DEFAULT = ("object_spilling",)

_COUNTS = ("num_workers", "num_redis_shards", "redis_max_clients")
_SIZES = (
    "memory", "object_store_memory", "driver_object_store_memory", "redis_max_memory",
    "object_spilling_limit",
)  # fmt: skip
_INTEGERS = (*_COUNTS, *_SIZES, "object_id_seed", "redis_port")
_TEXTS = (
    "node_ip_address", "redis_password", "plasma_directory", "temp_dir", "plasma_store_socket_name",
    "raylet_socket_name", "webui_host", "logging_format", "namespace", "_internal_config",
    "object_spilling_directory",
)  # fmt: skip
_SOCKETS = ("plasma_store_socket_name", "raylet_socket_name")

#: What is accepted because old programs have it, and what then happens.
_WITHOUT_EFFECT = {
    "driver_object_store_memory": "only the whole store is limited, by object_store_memory",
    "redis_max_memory": "Redis holds no objects here, only a few facts about the cluster",
    "redis_port": "the cluster's Redis listens on a unix socket and on no port",
    "num_redis_shards": "there is one Redis, and it is not on the path of a task",
    "redis_max_clients": "only the node's daemon is a client of Redis",
    "redis_password": "each session makes a password of its own, which nobody needs to know",
    "plasma_store_socket_name": "the store has no socket: processes inherit its memory",
    "raylet_socket_name": "the node's daemon has no socket with a name",
    "include_webui": "there is no web UI yet; nbray.status() and %ray_status show the cluster",
    "include_java": "tasks are Python functions",
    "java_worker_options": "tasks are Python functions",
}


@dataclass
class Settings:
    """The settings of one session."""

    mode: int
    resources: dict[str, int]  # in units of 1e-4
    store: StorePlan
    temp_dir: str | None
    node_ip: str
    job_id: bytes | None
    id_seed: int | None
    log_to_driver: bool
    logging_level: int
    logging_format: str | None
    configure_logging: bool
    memory_threshold: float  # a share of the memory, from 0 to 1
    task_timeout_s: float  # 0: none
    notes: list[str] = field(default_factory=list)  # lines for the log

    @property
    def is_local(self) -> bool:
        """Whether tasks run in this process."""
        return self.mode == modes.LOCAL_MODE


def refuse_for_joining(asked: Mapping[str, Any]) -> None:
    """Raise for a setting that whoever joins a cluster cannot choose.

    Raises:
        ValueError: names the parameter.
    """
    for name in _OF_A_START:
        value = asked[name]
        if not value if name in _ON_BY_DEFAULT else value is not None and value is not False:
            raise ValueError(
                f"{name} cannot be chosen when joining a running cluster: it is set where the cluster is "
                f"started. Leave out {name}, or the address."
            )
    if _is_local(asked):
        raise ValueError("local_mode runs tasks in this process and joins no cluster: leave out the address.")


def check(asked: Mapping[str, Any]) -> Settings:
    """Check everything that ``init`` was asked for, but the address.

    Raises:
        TypeError: of a wrong type.
        ValueError: out of range; the text names the parameter.
        SocketPathError: a socket's name is too long.
    """
    _check_types(asked)
    asked = {**asked, **{name: int(asked[name]) for name in _INTEGERS if asked[name] is not None}}
    mode = _mode(asked)
    notes: list[str] = []
    for name, why in _WITHOUT_EFFECT.items():
        if asked[name]:
            notes.append(f"init({name}=...) has no effect: {why}.")
    if asked["num_gpus"]:
        notes.append(
            "init(num_gpus=...): GPUs are counted, but tasks do not get devices of their own yet; "
            "CUDA_VISIBLE_DEVICES is the same for all."
        )
    node_ip = _node_ip(asked["node_ip_address"])
    _check_places(asked)
    return Settings(
        mode=mode,
        resources=_quantities(asked, node_ip),
        store=_store_plan(asked),
        temp_dir=asked["temp_dir"],
        node_ip=node_ip,
        job_id=asked["job_id"].binary() if asked["job_id"] is not None else None,
        id_seed=asked["object_id_seed"],
        log_to_driver=bool(asked["log_to_driver"]),
        logging_level=notices.level_number(asked["logging_level"]),
        logging_format=asked["logging_format"],
        configure_logging=bool(asked["configure_logging"]),
        memory_threshold=_memory_threshold(asked["memory_usage_threshold"]),
        task_timeout_s=timeout_s(asked["task_timeout_s"]) or 0.0,
        notes=notes,
    )


def _check_types(asked: Mapping[str, Any]) -> None:
    for name in _TEXTS:
        if asked[name] is not None and not isinstance(asked[name], str):
            raise TypeError(f"{name} must be a string, not {type(asked[name]).__name__}.")
    for name in _INTEGERS:
        if asked[name] is not None and whole_or_none(asked[name]) is None:
            raise TypeError(f"{name} must be an integer, not {asked[name]!r}.")
    for name in (*_COUNTS, *_SIZES):
        if asked[name] is not None and asked[name] < 0:
            raise ValueError(f"{name} must be 0 or more, not {asked[name]!r}.")
    job_id = asked["job_id"]
    if job_id is not None and not isinstance(job_id, JobID):
        raise TypeError(f"job_id must be a JobID, as of JobID.from_int(7), not {type(job_id).__name__}.")
    resources = asked["resources"]
    if resources is not None and not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a dict like {{'licence': 2}}, not {type(resources).__name__}.")
    if asked["webui_host"] not in _WEB_HOSTS:
        raise ValueError(f"webui_host must be 'localhost' or '0.0.0.0', not {asked['webui_host']!r}.")
    _check_internal_config(asked["_internal_config"])


def _memory_threshold(given: object) -> float:
    if given is None:
        return DEFAULT_MEMORY_THRESHOLD
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"memory_usage_threshold must be a number, not {given!r}.")
    if not 0 < float(given) <= 1:
        raise ValueError(f"memory_usage_threshold must be above 0, and 1 (never) at most, not {given!r}.")
    return float(given)


def _check_internal_config(text: str | None) -> None:
    if text is None:
        return
    import json

    try:
        found = json.loads(text)
    except ValueError as exc:
        raise ValueError(f"_internal_config must be the JSON text of an object: {exc}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"_internal_config must be the JSON text of an object, not {text!r}.")


def _is_local(asked: Mapping[str, Any]) -> bool:
    return bool(asked["local_mode"]) or asked["driver_mode"] == modes.PYTHON_MODE


def _mode(asked: Mapping[str, Any]) -> int:
    mode = modes.SCRIPT_MODE if asked["driver_mode"] is None else asked["driver_mode"]
    if whole_or_none(mode) not in _MODES:
        raise ValueError(
            f"driver_mode must be SCRIPT_MODE ({modes.SCRIPT_MODE}), PYTHON_MODE ({modes.PYTHON_MODE}, now "
            f"called local_mode) or SILENT_MODE ({modes.SILENT_MODE}), not {asked['driver_mode']!r}."
        )
    return modes.LOCAL_MODE if _is_local(asked) else int(mode)


def _node_ip(given: str | None) -> str:
    try:
        return resolved(DEFAULT_NODE_IP if given is None else given)
    except ValueError as exc:
        raise ValueError(f"node_ip_address: {exc}") from None


# --- quantities ------------------------------------------------------------------------------------------


def _quantities(asked: Mapping[str, Any], node_ip: str) -> dict[str, int]:
    num_cpus, num_gpus = asked["num_cpus"], asked["num_gpus"]
    quantities = {
        CPU: _whole("num_cpus", len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus),
        GPU: _gpus(num_gpus),
        MEMORY: (asked["memory"] or 0) // MEMORY_UNIT_BYTES * UNIT,
        f"node:{node_ip}": UNIT,
    }
    if asked["memory"] is not None and not quantities[MEMORY]:
        raise ValueError(
            f"memory must be at least 50 MiB ({MEMORY_UNIT_BYTES} bytes), not {asked['memory']}."
        )
    for name, amount in (asked["resources"] or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"The names in resources must be strings, not {type(name).__name__}.")
        if name in _RESERVED:
            raise ReservedNameError(f"resources may not name {name}: use the argument of init() for it.")
        quantities[name] = _whole(f"resources[{name!r}]", amount)
    return {name: units for name, units in quantities.items() if units}


def _whole(name: str, amount: Any) -> int:
    units = to_units(name, amount)
    if units % UNIT:
        raise ValueError(f"{name} must be a whole number, not {amount!r}: nodes have no fractions.")
    return units


def _gpus(num_gpus: int | None) -> int:
    if num_gpus is None:
        return gpus.count() * UNIT
    units = _whole("num_gpus", num_gpus)
    allowed = gpus.visible()
    if allowed is not None and units > len(allowed) * UNIT:
        raise ValueError(
            f"num_gpus={num_gpus!r} is more than the {len(allowed)} that {gpus.VISIBLE} names. "
            "Ask for fewer, or let it name more."
        )
    return units


def _store_plan(asked: Mapping[str, Any]) -> StorePlan:
    directory, limit = asked["object_spilling_directory"], asked["object_spilling_limit"]
    if not asked["object_spilling"] and (directory is not None or limit is not None):
        raise ValueError(
            "object_spilling=False contradicts object_spilling_directory and object_spilling_limit: "
            "leave them out, or allow spilling."
        )
    if limit == 0:
        raise ValueError(
            "object_spilling_limit must be more than 0; to forbid it, say object_spilling=False."
        )
    return StorePlan(
        capacity_bytes=_store_bytes(asked["object_store_memory"]),
        spills=bool(asked["object_spilling"]),
        spill_directory=os.path.abspath(directory) if directory is not None else "",
        spill_limit_bytes=limit or 0,
        evicts=bool(asked["lru_evict"]),
        arena_directory=os.path.abspath(asked["plasma_directory"]) if asked["plasma_directory"] else "",
        huge_pages=bool(asked["huge_pages"]),
    )


def _store_bytes(object_store_memory: int | None) -> int:
    if object_store_memory is None:
        return 0
    if object_store_memory < STORE_MIN_BYTES:
        raise ValueError(
            f"object_store_memory must be at least {STORE_MIN_BYTES} bytes (75 MiB), "
            f"not {object_store_memory!r}."
        )
    return object_store_memory


# --- places ----------------------------------------------------------------------------------------------


def _check_places(asked: Mapping[str, Any]) -> None:
    for name in _SOCKETS:
        path = asked[name]
        if path is not None and len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            raise SocketPathError(
                f"{name} has {len(os.fsencode(path))} bytes, and the path of a unix socket may have "
                f"{SOCKET_PATH_MAX_BYTES}. Choose a shorter one, or leave it out."
            )
    for name in ("plasma_directory", "object_spilling_directory"):
        directory = asked[name]
        if directory is None:
            continue
        if not Path(directory).is_dir():
            raise ValueError(f"{name} {directory!r} is not a directory.")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"{name} {directory!r}: you may not write there.")
