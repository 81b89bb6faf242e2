"""The errors of a job: ``nbray.errors()`` and its elder ``nbray.error_info()``.

Called by:  users.
Imports:    observe, runtime.{code_names,current}, wire.
Never:      raises what it lists.
"""

from __future__ import annotations

from typing import Any

from nbray.observe.errors import ErrorList
from nbray.runtime.code_names import named
from nbray.runtime.current import current
from nbray.wire.error_messages import ErrorRow, Errors, GetErrors

__all__ = ["ErrorInfo", "error_info", "errors"]


class ErrorInfo(dict[Any, Any]):
    """One error: ``type``, ``message``, ``timestamp`` (seconds since 1970).

    The first releases had bytes in here: under ``b"type"`` there is the type as bytes, and so on.
    """

    def __missing__(self, key: object) -> Any:
        if isinstance(key, bytes):
            value = dict.__getitem__(self, key.decode("utf-8", "replace"))
            return value.encode() if isinstance(value, str) else value
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key.decode("utf-8", "replace") if isinstance(key, bytes) else key)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or the default."""
        if key in self:
            return self[key]
        return default


def errors(all_jobs: bool = False) -> Any:
    """What went wrong in this session, whether or not anybody got the results: the last 1000 of each job.

    Types are ``task``, ``worker_died``, ``worker_crash``, ``register_remote_function``,
    ``pickling_large_object``, ``infeasible_task``, ``worker_pool_large`` and others.

    Args:
        all_jobs: those of all jobs of the cluster.

    Returns:
        A list of dicts (:class:`ErrorInfo`), oldest first, which prints as a table; with ``all_jobs`` a dict
        of such lists by the job's ID in hex.

    Raises:
        RayConnectionError: no session is running.
    """
    process = current()
    wanted = b"" if all_jobs else process.job_id
    answer = process.ask(lambda number: GetErrors(number, wanted))
    assert isinstance(answer, Errors)
    if all_jobs:
        return {job_id.hex(): _infos(rows) for job_id, rows in answer.jobs.items()}
    return _infos(answer.jobs.get(wanted, []))


def error_info(worker: object = None) -> list[ErrorInfo]:  # noqa: ARG001
    """The errors of this job, as the first releases told them; ``worker`` is accepted and means nothing.

    Raises:
        RayConnectionError: no session is running.
    """
    found: list[ErrorInfo] = errors()
    return found


def _infos(rows: list[ErrorRow]) -> ErrorList:
    return ErrorList(
        ErrorInfo(type=row.kind, message=named(row.message), timestamp=row.timestamp_s) for row in rows
    )
