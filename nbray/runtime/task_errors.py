"""How the failure of a task travels, and which exception ``get`` raises for it.

Called by:  worker (serialize), runtime.{objects,submitter,local} (both ways), task_arguments.
Imports:    runtime.layout, code_names, frozen_exception, exception_text, refs; nbray.{core.references,model}.
Never:      fails, and never loses the class or the text of what user code raised if they can be kept.

``get`` raises an instance of two classes at once: ``RayTaskError`` and the class of the cause, so
that ``except ValueError`` works. The class is made here, its constructors are bypassed. A task that
re-raises the error of another one keeps that one's cause: nothing is wrapped twice.

An error keeps the bytes it was read from, and passes them on as they are. The references in there are
in sight of no pickler, so it holds and passes on these by themselves.
"""

from __future__ import annotations

import pickle
import types
from typing import Any

from nbray.core.references import Pair
from nbray.model.errors import NbrayError, RayTaskError, RayWorkerError
from nbray.runtime.code_names import named
from nbray.runtime.exception_shape import Shape, make_exception, put_members, take_apart
from nbray.runtime.exception_text import chain_of, message_of, shortened, traceback_text
from nbray.runtime.frozen_exception import Frozen, freeze, thaw, thaw_class
from nbray.runtime.layout import ERROR, Serialized
from nbray.runtime.layout import take_apart as take_bytes_apart
from nbray.runtime.refs import pairs_of, rebuild

#: Where an error keeps the bytes it was read from: to be pickled again, and to be passed on.
_RECORD = "_nbray_record"
#: And the references in these bytes, if there are any.
_REFS = "_nbray_refs"


def serialize_error(
    exc: BaseException, *, task_name: str, pid: int, node: str = "", refs: list[Any] | None = None
) -> bytes:
    """The failure of a task, as bytes. Never raises.

    Args:
        exc: what user code raised.
        task_name: for the first line that people read.
        pid: likewise.
        node: likewise.
        refs: references inside the exception are appended to this list.
    """
    facts = {"task_name": task_name, "pid": pid, "node": node}
    found: list[Any] = []
    try:
        facts_and_links = _task_payload(exc, facts, found)
        record = _record("task", (*facts_and_links, pairs_of(found)))
    except BaseException:  # noqa: BLE001  (no memory or stack left, or interrupted: say the least)
        name = type(exc).__name__
        facts |= {"cause_class_name": name, "traceback_text": f"{name} (its details could not be kept)"}
        return _record("task", (facts, [], []))
    if refs is not None:
        refs += found
    return record


def serialize_system_error(error: NbrayError) -> bytes:
    """An error of nbray's own that stands for a task's value; ``get`` raises it as it is."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301  (made in the line above)
    except Exception:  # noqa: BLE001  (a field that does not pickle)
        pickled = pickle.dumps(NbrayError(message_of(error)))
    return _record("system", pickled)


def deserialize_error(data: Any) -> NbrayError:
    """The exception to raise for ``data`` from the two functions above. Never raises."""
    data = bytes(data)
    try:
        origin, payload = _read(data)
        if origin == "system":
            return _system_error(payload)
    except Exception as exc:  # noqa: BLE001  (damaged bytes, or another version's)
        return NbrayError(f"The error of a task could not be read: {type(exc).__name__}: {exc}")
    facts, links, inner = payload
    facts = {**facts, "traceback_text": named(facts["traceback_text"])}
    cause = _thaw_chain(links)
    error = _dual(facts, cause, thaw_class(links[0][0]) if links else None, data)
    if links and links[0][0].notes:
        error.__dict__["__notes__"] = list(links[0][0].notes)
    if inner:
        error.__dict__[_REFS] = [rebuild(*pair) for pair in inner]
    error.__cause__ = cause
    return error


def references_in(data: bytes) -> list[Pair]:
    """The references in an error, each with its owner, for who passes it on and does not read it."""
    origin, payload = _read(data)
    return payload[2] if origin == "task" else []


def text_of(data: bytes) -> str:
    """What an error says, without reading anything of the user's in it. Never raises."""
    try:
        origin, payload = _read(data)
        if origin == "system":
            return str(_system_error(payload))
        return str(_fill(RayTaskError, ((), {}, {}), payload[0], data))
    except Exception as exc:  # noqa: BLE001  (damaged bytes, or another version's)
        return f"(an error that could not be read: {type(exc).__name__})"


# --- to bytes ----------------------------------------------------------------------------------------


def _record(origin: str, payload: Any) -> bytes:
    pickled = pickle.dumps((origin, payload), 5)
    return Serialized.with_buffers(pickled, [], [], ERROR).to_bytes()


def _read(record: bytes) -> Any:
    return pickle.loads(take_bytes_apart(memoryview(record)).pickled)  # noqa: S301  (of this session)


def _task_payload(exc: BaseException, facts: dict[str, Any], refs: list[Any]) -> tuple[Any, Any]:
    facts = {**facts, "traceback_text": traceback_text(exc)}
    if isinstance(exc, RayTaskError):
        inner = exc.__dict__.get(_RECORD)
        links = _read(inner)[1][1] if inner else []
        refs += exc.__dict__.get(_REFS, ())
        return {**facts, "cause_class_name": exc.__dict__["_nbray_facts"]["cause_class_name"]}, links
    links = [(freeze(each, refs), link) for each, link in chain_of(exc)]
    return {**facts, "cause_class_name": type(exc).__name__}, links


# --- back ----------------------------------------------------------------------------------------------


def _system_error(pickled: bytes) -> NbrayError:
    error = pickle.loads(pickled)  # noqa: S301  (it came from a process of this session)
    if isinstance(error, RayWorkerError):
        error.__dict__["stderr_tail"] = named(error.__dict__["stderr_tail"])
    return error if isinstance(error, NbrayError) else NbrayError(shortened(repr(error)))


def _thaw_chain(links: list[tuple[Frozen, str]]) -> BaseException | None:
    first = last = thaw(links[0][0]) if links else None
    for frozen, link in links[1:]:
        exc = thaw(frozen)
        if exc is None or last is None:
            break
        if link == "cause":
            last.__cause__ = exc
        else:
            last.__context__ = exc
        last = exc
    return first


def _dual(
    facts: dict[str, Any], cause: BaseException | None, cls: type[BaseException] | None, record: bytes
) -> RayTaskError:
    """An error that is also of the cause's class, or a plain ``RayTaskError`` if that cannot be."""
    if cls is not None and cls is not Exception and not issubclass(cls, NbrayError):
        try:
            shape = take_apart(cause) if cause is not None else ((), {}, {})
            return _fill(_dual_class(cls), shape, facts, record)
        except Exception:  # noqa: BLE001, S110  (a metaclass or a C base that cannot be combined)
            pass
    return _fill(RayTaskError, ((), {}, {}), facts, record)


def _fill(cls: type[RayTaskError], shape: Shape, facts: dict[str, Any], record: bytes) -> RayTaskError:
    args, members, attributes = shape
    error = make_exception(cls, args)
    # What the cause calls by the same name wins, but for the private ones.
    put_members(error, (members, {**facts, **attributes, "_nbray_facts": facts, _RECORD: record}))
    return error


def _dual_class(cls: type[BaseException]) -> type[RayTaskError]:
    for known in RayTaskError.__subclasses__():  # Python's own weak list: no cache keeps a class alive
        if known.__bases__ == (RayTaskError, cls):
            return known
    namespace: dict[str, Any] = {
        "__module__": RayTaskError.__module__,
        "__doc__": f"A task raised {cls.__name__}.",
        "__reduce__": _reduce_dual,
        "__setattr__": BaseException.__setattr__,  # a frozen dataclass would refuse __traceback__
    }
    if issubclass(cls, SyntaxError):  # Python prints the msg of one, not its str()
        namespace["msg"] = property(str)
    bases = (RayTaskError, cls)
    return types.new_class(f"RayTaskError({cls.__name__})", bases, {}, lambda ns: ns.update(namespace))


def _reduce_dual(error: RayTaskError) -> tuple[Any, ...]:
    return _read_again, (error.__dict__[_RECORD], error.__dict__.get(_REFS, []))


def _read_again(record: bytes, refs: list[Any]) -> NbrayError:  # noqa: ARG001  # to be seen by the pickler
    return deserialize_error(record)
