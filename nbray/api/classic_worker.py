"""What old programs find as ``ray.worker``: the driver, or the worker that runs their task.

Called by:  users, as ``nbray.worker`` and ``from nbray.worker import global_worker``.
Imports:    api, runtime.
Never:      is imported before somebody asks for it; loads what worker processes run.

The package ``nbray.worker`` is the worker process's room. It lends its name: what it does not have
itself it takes from here.
"""

from __future__ import annotations

from nbray.api import session
from nbray.api.errors import error_info
from nbray.api.modes import LOCAL_MODE, PYTHON_MODE, SCRIPT_MODE, SILENT_MODE, WORKER_MODE
from nbray.api.objects import get, put, wait
from nbray.api.session import init, is_initialized, shutdown
from nbray.api.tasks import remote
from nbray.model.errors import NbrayError, RayGetArgumentError, RayGetError, RayTaskError
from nbray.runtime import current as runtime
from nbray.runtime.identifiers import ActorID, JobID, TaskID


class Worker:
    """What this process is at the moment. Nothing here can be set."""

    @property
    def mode(self) -> int | None:
        """``SCRIPT_MODE`` and so on; None while not connected."""
        own = session.mode()
        return own if own is not None or not self.connected else WORKER_MODE

    @property
    def connected(self) -> bool:
        """Whether a session runs in this process."""
        return is_initialized()

    def check_connected(self) -> None:
        """Do nothing while a session runs.

        Raises:
            RayConnectionError: none does.
        """
        runtime.current()

    @property
    def worker_id(self) -> bytes:
        """The ID of this process, as ``WorkerID(...)`` takes it."""
        return runtime.current().process_id

    @property
    def current_job_id(self) -> JobID:
        """The job that this process works for."""
        return JobID(runtime.current().job_id)

    @property
    def current_task_id(self) -> TaskID:
        """The task that runs; in a driver, the ID of its own that its tasks have as parent."""
        return TaskID(runtime.current().context.task_id)

    @property
    def actor_id(self) -> ActorID:
        """The actor that this process is; nil in others."""
        actor = runtime.current().actor
        return ActorID.nil() if actor is None else ActorID(actor.spec.actor_id)

    @property
    def node_ip_address(self) -> str:
        """How the node of this process is called."""
        return session.node_ip_of(runtime.current().welcome)

    def __repr__(self) -> str:
        return f"<global_worker, mode {self.mode}>"


global_worker = Worker()


def cleanup(worker: object = None) -> None:  # noqa: ARG001
    """The name of ``shutdown`` in the first releases; ``worker`` is accepted and means nothing."""
    shutdown()


def get_webui_url() -> str:
    """The address of the web UI.

    Raises:
        RayConnectionError: no session is running.
        NbrayError: there is no web UI yet.
    """
    runtime.current()
    raise NbrayError(
        "There is no web UI yet. nbray.status() shows the cluster, in a notebook also %ray_status."
    )


__all__ = [
    "LOCAL_MODE", "PYTHON_MODE", "SCRIPT_MODE", "SILENT_MODE", "WORKER_MODE", "RayGetArgumentError",
    "RayGetError", "RayTaskError", "Worker", "cleanup", "error_info", "get", "get_webui_url", "global_worker",
    "init", "is_initialized", "put", "remote", "shutdown", "wait",
]  # fmt: skip
