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

from typing import TYPE_CHECKING, Any

from nbray.api.objects import get, put, wait
from nbray.api.serializers import register_custom_serializer
from nbray.api.session import init, is_initialized, shutdown, status
from nbray.api.tasks import RemoteFunction, remote
from nbray.model.errors import (
    GetTimeoutError,
    NbrayError,
    ObjectStoreFullError,
    OptionError,
    OwnerDiedError,
    PlatformError,
    ProtocolError,
    RayActorError,
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
    SerializationError,
    SessionStartError,
    StaleSessionError,
    UnreconstructableError,
)
from nbray.runtime.refs import ObjectRef

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__version__ = "0.1.0"

ObjectID = ObjectRef

#: Imported when they are first used.
_ROOMS = ("experimental", "jupyter")


def load_ipython_extension(ip: InteractiveShell) -> None:
    """``%load_ext nbray``: the magics, and cells that know their work."""
    from nbray.jupyter import kernel

    kernel.load(ip)


def unload_ipython_extension(ip: InteractiveShell) -> None:
    """``%unload_ext nbray``: take the magics and hooks away; the session goes on."""
    from nbray.jupyter import kernel

    kernel.unload(ip)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"nbray.{name}")
    raise AttributeError(f"module 'nbray' has no attribute {name!r}")


__all__ = [
    "GetTimeoutError", "NbrayError", "ObjectID", "ObjectRef", "ObjectStoreFullError", "OptionError",
    "OwnerDiedError", "PlatformError", "ProtocolError", "RayActorError", "RayCancellationError",
    "RayConnectionError", "RayError", "RayGetArgumentError", "RayGetError", "RayTaskError",
    "RayTimeoutError", "RayWorkerError", "RayletError", "RedisNotFoundError", "RemoteFunction",
    "SerializationError", "SessionStartError", "StaleSessionError", "UnreconstructableError", "get", "init",
    "is_initialized", "put", "register_custom_serializer", "remote", "shutdown", "status", "wait",
]  # fmt: skip
