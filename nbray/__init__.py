"""nbray: parallel and distributed Python that lives in the notebook.

Called by:  users: ``import nbray as ray``, or ``%load_ext nbray`` in a notebook.
Imports:    nbray.api and nbray.model, when a name is first used.
Never:      imports NumPy, Redis, IPython or asyncio by itself: the import takes milliseconds.

    import nbray as ray

    ray.init()

    @ray.remote
    def square(x):
        return x * x

    print(ray.get([square.remote(i) for i in range(4)]))
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself takes longer to import than all that stands here
if TYPE_CHECKING:
    from typing import Any

    from IPython.core.interactiveshell import InteractiveShell

    from nbray.api.actors import exit_actor, get_actor, kill, method
    from nbray.api.cancelling import cancel
    from nbray.api.errors import error_info, errors
    from nbray.api.explaining import why
    from nbray.api.listing import actors
    from nbray.api.looking import memory, objects
    from nbray.api.modes import LOCAL_MODE, PYTHON_MODE, SCRIPT_MODE, SILENT_MODE, WORKER_MODE
    from nbray.api.objects import get, put, wait
    from nbray.api.serializers import register_custom_serializer
    from nbray.api.session import init, is_initialized, shutdown, status
    from nbray.api.tasks import RemoteFunction, remote
    from nbray.model.actor_errors import RayActorError
    from nbray.model.ending_errors import OutOfMemoryError, RayOutOfMemoryError, TaskTimeoutError
    from nbray.model.errors import (
        BlockingCallError,
        ClusterNotFoundError,
        GetTimeoutError,
        NbrayError,
        ObjectLostError,
        ObjectStoreFullError,
        OptionError,
        OwnerDiedError,
        PlatformError,
        ProtocolError,
        RayCancellationError,
        RayConnectionError,
        RayError,
        RayGetArgumentError,
        RayGetError,
        RayletError,
        RayTaskError,
        RayTimeoutError,
        RayWorkerError,
        RedisNotFoundError,
        ReservedNameError,
        SerializationError,
        SessionStartError,
        SocketPathError,
        StaleSessionError,
        TaskCancelledError,
        UnknownObjectError,
        UnreconstructableError,
        WorkerCrashedError,
    )
    from nbray.runtime.identifiers import (
        ActorCheckpointID,
        ActorClassID,
        ActorID,
        ClientID,
        FunctionID,
        JobID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from nbray.runtime.refs import ObjectRef
    from nbray.runtime.refs import ObjectRef as ObjectID

__version__ = "0.1.0"

#: Where public names live, unless they are errors. The daemon is a process of this package, too, and
#: must not pay for (or even load) what users call: so nothing is imported before it is asked for.
_HOMES = {
    "nbray.api.actors": ("exit_actor", "get_actor", "kill", "method"),
    "nbray.api.cancelling": ("cancel",),
    "nbray.api.classic_worker": ("get_webui_url",),
    "nbray.api.errors": ("error_info", "errors"),
    "nbray.api.explaining": ("why",),
    "nbray.api.listing": ("actors",),
    "nbray.api.looking": ("memory", "objects"),
    "nbray.api.modes": ("LOCAL_MODE", "PYTHON_MODE", "SCRIPT_MODE", "SILENT_MODE", "WORKER_MODE"),
    "nbray.api.objects": ("get", "put", "wait"),
    "nbray.api.serializers": ("register_custom_serializer",),
    "nbray.api.session": ("init", "is_initialized", "shutdown", "status"),
    "nbray.api.tasks": ("RemoteFunction", "remote"),
    "nbray.model.actor_errors": ("RayActorError",),
    "nbray.model.ending_errors": ("OutOfMemoryError", "RayOutOfMemoryError", "TaskTimeoutError"),
    "nbray.runtime.identifiers": (
        "ActorCheckpointID", "ActorClassID", "ActorID", "ClientID", "FunctionID", "JobID", "TaskID",
        "UniqueID", "WorkerID",
    ),
    "nbray.runtime.refs": ("ObjectID", "ObjectRef"),
}  # fmt: skip
_OTHER_NAMES = {"ObjectID": "ObjectRef"}
#: Rooms that are opened when they are asked for. ``worker`` is the worker process's, of which only the
#: door is loaded; behind it stand the classic names.
_ROOMS = ("actor", "exceptions", "experimental", "internal", "jupyter", "services", "util", "worker")


def classic_worker_name(name: str) -> Any:
    """What ``nbray.worker.<name>`` is, for the names that old programs use."""
    from nbray.api import classic_worker

    if name not in classic_worker.__all__:
        raise AttributeError(f"module 'nbray.worker' has no attribute {name!r}")
    return getattr(classic_worker, name)


def load_ipython_extension(ip: InteractiveShell) -> None:
    """``%load_ext nbray``: the magics, and cells that know their work."""
    from nbray.jupyter import kernel

    kernel.load(ip)


def unload_ipython_extension(ip: InteractiveShell) -> None:
    """``%unload_ext nbray``: take the magics and hooks away; the session goes on."""
    from nbray.jupyter import kernel

    kernel.unload(ip)


def _home_of(name: str) -> str:
    for module, names in _HOMES.items():
        if name in names:
            return module
    if name in __all__:
        return "nbray.model.errors"
    raise AttributeError(f"module 'nbray' has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ROOMS:
        return importlib.import_module(f"nbray.{name}")
    module = importlib.import_module(_home_of(name))
    value = globals()[name] = getattr(module, _OTHER_NAMES.get(name, name))
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "LOCAL_MODE", "PYTHON_MODE", "SCRIPT_MODE", "SILENT_MODE", "WORKER_MODE", "ActorCheckpointID",
    "ActorClassID", "ActorID", "BlockingCallError", "ClientID", "ClusterNotFoundError", "FunctionID",
    "GetTimeoutError", "JobID", "NbrayError", "ObjectID", "ObjectLostError", "ObjectRef",
    "ObjectStoreFullError", "OptionError", "OutOfMemoryError", "OwnerDiedError", "PlatformError",
    "ProtocolError", "RayActorError", "RayCancellationError", "RayConnectionError", "RayError",
    "RayGetArgumentError", "RayGetError", "RayOutOfMemoryError", "RayTaskError", "RayTimeoutError",
    "RayWorkerError", "RayletError", "RedisNotFoundError", "RemoteFunction", "ReservedNameError",
    "SerializationError", "SessionStartError", "SocketPathError", "StaleSessionError",
    "TaskCancelledError", "TaskID", "TaskTimeoutError", "UniqueID", "UnknownObjectError",
    "UnreconstructableError", "WorkerCrashedError", "WorkerID", "actors", "cancel", "error_info",
    "errors", "exit_actor", "get", "get_actor", "init", "is_initialized", "kill", "memory", "method",
    "objects", "put", "register_custom_serializer", "remote", "shutdown", "status", "wait", "why",
]  # fmt: skip
