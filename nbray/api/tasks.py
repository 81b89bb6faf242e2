"""Remote functions: ``@remote``, ``.remote()``, ``.options()``.

Called by:  users.
Imports:    api.{options,parameters}, runtime.process, model.
Never:      pickles at decoration: a function is exported at its first call in each session.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from nbray.api.options import TaskOptions
from nbray.api.parameters import Parameters
from nbray.core.tasks import TaskSpec
from nbray.model.errors import OptionError
from nbray.model.resources import Shape
from nbray.runtime import custom_serializers
from nbray.runtime.context import Place
from nbray.runtime.current import current
from nbray.runtime.functions import Definition

if TYPE_CHECKING:
    from nbray.runtime.process import Process

#: An attribute of a function that wraps the submission of its tasks; see ``RemoteFunction``.
_INVOCATION_DECORATOR = "__ray_invocation_decorator__"


class _Calls:
    """The calls of one function with one set of options, and what they have in common.

    ``spec`` is good for one place, which a session, and each cell of a notebook, makes anew. ``exported``
    is good for one session.
    """

    __slots__ = ("__weakref__", "definition", "exported", "options", "parameters", "place", "spec")

    def __init__(self, definition: Definition, options: TaskOptions, parameters: Parameters) -> None:
        self.definition = definition
        self.options = options
        self.parameters = parameters
        self.exported: tuple[Process, bytes, Shape] | None = None
        self.spec: TaskSpec | None = None
        self.place: Place | None = None

    def plan(self, process: Process) -> TaskSpec:
        """What calls from here have in common; exports the function at the first call of a session."""
        generation = _generation  # if it changes meanwhile, this answer is for this call only
        options, place = self.options, process.context.place
        exported = self.exported
        if exported is None or exported[0] is not process:
            shape = options.shape(process.welcome.resources)
            exported = (process, process.export_function(self.definition, options.max_calls), shape)
        spec = process.task_spec(
            place, exported[1], self.definition.name,
            num_returns=options.num_returns, shape=exported[2], max_retries=options.max_retries,
            timeout_s=options.task_timeout_s,
        )  # fmt: skip
        with _known_lock:
            if _generation == generation:
                _known.add(self)
                self.exported, self.spec, self.place = exported, spec, place
        return spec


#: Those that may have a spec. A function takes what it needs along when it is exported, so when that
#: changes it has to be exported again; this costs the calls in between nothing.
_known: weakref.WeakSet[_Calls] = weakref.WeakSet()
_known_lock = threading.RLock()  # a finalizer that submits may run inside
_generation = 0


def _plan_anew() -> None:
    global _generation
    with _known_lock:
        _generation += 1
        for calls in _known:
            calls.spec = calls.exported = None
        _known.clear()


custom_serializers.on_change.append(_plan_anew)


def _submitting(calls: _Calls) -> Callable[..., Any]:
    """The function behind ``f.remote``. It is on the path of every task: special cases stand elsewhere."""
    parameters = calls.parameters
    fits = parameters.fits

    def remote(*args: Any, **kwargs: Any) -> Any:
        process = current()
        if ((len(args), *kwargs) if kwargs else len(args)) not in fits:
            parameters.check(args, kwargs)
        spec = calls.spec
        if spec is None or calls.place is not process.context.place:
            spec = calls.plan(process)
        refs = process.submit(spec, args, kwargs)
        if spec.num_returns == 1:
            return refs[0]
        return refs or None

    function = calls.definition.function
    decorator = getattr(function, _INVOCATION_DECORATOR, None)
    submit = remote if decorator is None else _decorated(remote, decorator)
    return functools.update_wrapper(submit, function)


def _decorated(remote: Callable[..., Any], decorator: Callable[..., Any]) -> Callable[..., Any]:
    def invoke(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return remote(*args, **kwargs)

    invocation = decorator(invoke)

    def decorated(*args: Any, **kwargs: Any) -> Any:
        return invocation(args, kwargs)

    return decorated


class RemoteFunction:
    """A function whose calls run as tasks, on any core of the cluster.

    ``f.remote(...)`` starts a task and returns at once with a reference to its result.

    An attribute ``__ray_invocation_decorator__`` of the function wraps the submission: it is called
    with a function of ``(args, kwargs)`` that submits, and returns the one to call instead.
    """

    _calls: _Calls

    def __init__(
        self, function: Callable[..., Any], options: TaskOptions, definition: Definition | None = None
    ) -> None:
        definition = definition or Definition(function, _name_of(function))
        calls = _Calls(definition, options, Parameters(function, definition.name))
        functools.update_wrapper(self, function)
        _take(self, calls)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a task.

        Returns:
            A reference to the result; a list of them for ``num_returns`` above 1; None for 0.

        Raises:
            TypeError: the arguments do not fit the function's signature.
            ValueError: an option asks for an impossible quantity.
            SerializationError: an argument, or the function, cannot be pickled; names the culprit.
            RayConnectionError: no session is running.
        """
        return self.__dict__["remote"](*args, **kwargs)

    def options(self, **changes: Any) -> RemoteFunction:
        """The same function with other options; those not given keep their values.

        Args:
            changes: as of ``nbray.remote``.
        """
        mine = self._calls
        changed = RemoteFunction.__new__(RemoteFunction)
        changed.__dict__.update(self.__dict__)
        _take(changed, _Calls(mine.definition, mine.options.replaced(changes), mine.parameters))
        return changed

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Start a task: ``f.options(**options).remote(*args, **kwargs)`` in one call."""
        function = self.options(**options) if options else self
        return function.remote(*(args or ()), **(kwargs or {}))

    _submit = _remote

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102  # its docstring is the function's
        name = self._calls.definition.name
        raise TypeError(
            f"Remote function {name} cannot be called directly. Use {name}.remote(...) to run it as a task."
        )

    def __repr__(self) -> str:
        return f"<remote function {self._calls.definition.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By value where the function goes by value: workers use remote functions that the driver defined.
        return rebuild, (self._calls.definition.function, self._calls.options.given)


def _take(target: RemoteFunction, calls: _Calls) -> None:
    # ``remote`` in the instance has the function's own name, docstring and signature.
    target.__dict__.update(_calls=calls, remote=_submitting(calls))


def _name_of(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return str(name or type(function).__name__).rpartition("<locals>.")[2]


def rebuild(function: Callable[..., Any], given: dict[str, Any]) -> RemoteFunction:
    """What a pickled remote function becomes where it is loaded."""
    definition = Definition(function, _name_of(function), was_received=True)
    return RemoteFunction(function, TaskOptions(given), definition)


@overload
def remote(function: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(**options: Any) -> Callable[[Callable[..., Any]], RemoteFunction]: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function or a class remote: ``@remote``, or ``@remote(num_cpus=2)``.

    The calls of a remote function are tasks. The instances of a remote class are actors: processes that keep
    their state between calls.

    Options of functions:
        num_returns: (also num_return_vals) how many values the function returns, in a tuple or list;
            default 1. A call gives one reference, a list of n for n above 1, None for 0.
        num_cpus: CPUs that a task takes while it runs; default 1; 0 and fractions below 1 are fine.
        num_gpus: likewise GPUs; default none. Without so many GPUs a task waits, with a warning.
        resources: quantities of resources with names of your own.
        memory: bytes that a task may need, at least 50 MiB; counted in units of 50 MiB where the
            cluster was told how much memory it has.
        max_calls: a worker ends after so many runs of the function; default 0: never. For functions
            that leak memory, or hold what only the end of a process gives back.
        max_retries: how often a task is run again when its *process* died; default 3; -1: always.
            A Python exception is never retried; nor is, for a third time, a task that crashed twice in the
            same way within 0.1 s of its start.
        task_timeout_s: how long one attempt may run, waits inside included; then its worker is killed, and it
            runs again as if its process had died. 0: without end; default: that of ``init``.
        checkpoint_interval: accepted, for old programs; functions have no checkpoints.

    Options of classes:
        num_cpus, num_gpus, resources, memory: what an actor holds as long as it lives. If none is given it
            holds nothing; else one CPU, unless ``num_cpus`` says otherwise.
        max_restarts: (also max_reconstructions) how often an actor is made again, with the same arguments,
            when its process died; default 0; -1: always.
        max_task_retries: how often a call is made again that was under way then; default 0; -1: always.
        max_concurrency: how many calls run at once, in as many threads; default 1. A class with a method that
            is ``async def`` runs all its calls in one event loop, by default up to 1000 at once.
        checkpoint_interval: after how many calls an actor's state is saved, for a restart to begin with;
            default -1: never.

    Raises:
        OptionError: no options in the brackets, unknown ones, or a function beside options. It is
            a TypeError and an AssertionError.
        TypeError: applied to something that is not a function, or an option of the wrong type.
        ValueError: a count out of range, or an option that only actors have.
        NotImplementedError: ``object_store_memory``.
    """
    if args:
        if len(args) > 1 or options:
            raise OptionError("Use @nbray.remote, or @nbray.remote(option=value).")
        return _wrap(args[0], {})
    if not options:
        raise OptionError()
    if not options.keys() & _OF_CLASSES_ALONE:
        TaskOptions(options)  # wrong ones are refused where they stand
    return lambda function: _wrap(function, options)


#: What a function cannot have, so that it is a class that stands below.
_OF_CLASSES_ALONE = {
    "max_restarts",
    "max_reconstructions",
    "max_task_retries",
    "max_concurrency",
    "object_store_memory",
}


def _wrap(function: Any, options: dict[str, Any]) -> Any:
    if inspect.isclass(function):
        from nbray.api.actor_classes import ActorClass
        from nbray.api.actor_options import ActorOptions

        return ActorClass(function, ActorOptions(options))
    if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
        raise TypeError(
            f"@nbray.remote applies to functions, not to {type(function).__name__}. "
            "To call an object remotely, wrap the call in a function."
        )
    return RemoteFunction(function, TaskOptions(options))
