"""What programs find as ``ray.exceptions``: every error, under the names of all releases.

Called by:  users.
Imports:    nbray.model.{actor_errors,ending_errors,errors}.
Never:      defines an error.
"""

from __future__ import annotations

from nbray.model.actor_errors import RayActorError
from nbray.model.ending_errors import OutOfMemoryError, RayOutOfMemoryError, TaskTimeoutError
from nbray.model.errors import (
    BlockingCallError,
    ClusterNotFoundError,
    ForkedProcessError,
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

__all__ = [
    "BlockingCallError", "ClusterNotFoundError", "ForkedProcessError", "GetTimeoutError", "NbrayError",
    "ObjectLostError", "ObjectStoreFullError", "OptionError", "OutOfMemoryError", "OwnerDiedError",
    "PlatformError", "ProtocolError", "RayActorError", "RayCancellationError", "RayConnectionError",
    "RayError", "RayGetArgumentError", "RayGetError", "RayOutOfMemoryError", "RayTaskError",
    "RayTimeoutError", "RayWorkerError", "RayletError", "RedisNotFoundError", "ReservedNameError",
    "SerializationError", "SessionStartError", "SocketPathError", "StaleSessionError",
    "TaskCancelledError", "TaskTimeoutError", "UnknownObjectError", "UnreconstructableError",
    "WorkerCrashedError",
]  # fmt: skip
