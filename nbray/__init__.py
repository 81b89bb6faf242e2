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

    from nbray.api.objects import get, put, wait
    from nbray.api.session import init, is_initialized, shutdown, status
    from nbray.api.tasks import RemoteFunction, remote
    from nbray.model.errors import (
        GetTimeoutError,
        NbrayError,
        ObjectStoreFullError,
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
    from nbray.runtime.refs import ObjectRef as ObjectID

__version__ = "0.1.0"

#: Where a public name lives, unless it is an error. The daemon is a process of this package, too, and
#: must not pay for (or even load) what users call: so nothing is imported before it is asked for.
_HOMES = {
    "get": "nbray.api.objects",
    "put": "nbray.api.objects",
    "wait": "nbray.api.objects",
    "init": "nbray.api.session",
    "is_initialized": "nbray.api.session",
    "shutdown": "nbray.api.session",
    "status": "nbray.api.session",
    "RemoteFunction": "nbray.api.tasks",
    "remote": "nbray.api.tasks",
    "ObjectRef": "nbray.runtime.refs",
    "ObjectID": "nbray.runtime.refs",
}
_OTHER_NAMES = {"ObjectID": "ObjectRef"}


def load_ipython_extension(ip: InteractiveShell) -> None:
    """``%load_ext nbray``: the magics, and cells that know their work."""
    from nbray.jupyter import kernel

    kernel.load(ip)


def unload_ipython_extension(ip: InteractiveShell) -> None:
    """``%unload_ext nbray``: take the magics and hooks away; the session goes on."""
    from nbray.jupyter import kernel

    kernel.unload(ip)


def __getattr__(name: str) -> Any:
    import importlib

    if name == "jupyter":
        return importlib.import_module("nbray.jupyter")
    if name not in __all__:
        raise AttributeError(f"module 'nbray' has no attribute {name!r}")
    module = importlib.import_module(_HOMES.get(name, "nbray.model.errors"))
    value = globals()[name] = getattr(module, _OTHER_NAMES.get(name, name))
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "GetTimeoutError", "NbrayError", "ObjectID", "ObjectRef", "ObjectStoreFullError", "OwnerDiedError",
    "PlatformError", "ProtocolError", "RayActorError", "RayCancellationError", "RayConnectionError",
    "RayError", "RayGetArgumentError", "RayGetError", "RayTaskError", "RayTimeoutError", "RayWorkerError",
    "RayletError", "RedisNotFoundError", "RemoteFunction", "SerializationError", "SessionStartError",
    "StaleSessionError", "UnreconstructableError", "get", "init", "is_initialized", "put", "remote",
    "shutdown", "status", "wait",
]  # fmt: skip
