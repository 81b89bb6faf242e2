"""Remote functions: ``@remote``, ``.remote()``, ``.options()``.

Called by:  users.
Imports:    runtime.process, model.
Never:      pickles at decoration: a function is exported at its first call in each session.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from nbray.model.resources import CPU, UNIT, Shape, to_shape, to_units
from nbray.runtime.current import current

if TYPE_CHECKING:
    from nbray.runtime.process import Process

DEFAULT_MAX_RETRIES = 3

_PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD
_EMPTY = inspect.Parameter.empty


class TaskOptions:
    """Checked options of a remote function; made new for each ``options`` call.

    Raises:
        TypeError: an unknown option, or one of the wrong type.
        ValueError: a quantity or count out of range.
    """

    _KNOWN = ("num_returns", "num_return_vals", "num_cpus", "resources", "max_retries")

    def __init__(self, given: Mapping[str, Any]) -> None:
        unknown = sorted(set(given) - set(self._KNOWN))
        if unknown:
            raise TypeError(
                f"Unknown option {unknown[0]!r} of a remote function; known are {', '.join(self._KNOWN)}."
            )
        self.given = dict(given)
        self.num_returns = self._count(
            "num_returns", given.get("num_returns", given.get("num_return_vals", 1)), 0
        )
        self.max_retries = self._count("max_retries", given.get("max_retries", DEFAULT_MAX_RETRIES), -1)
        resources = given.get("resources") or {}
        if not isinstance(resources, Mapping):
            raise TypeError(f"resources must be a dict, not {type(resources).__name__}.")
        for reserved in ("CPU", "GPU", "memory", "object_store_memory"):
            if reserved in resources:
                raise ValueError(f"resources may not name {reserved}; it has an option of its own.")
        self._num_cpus = given.get("num_cpus")
        self._resources = resources

    @staticmethod
    def _count(name: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, not {value!r}.")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}.")
        return value

    @functools.cached_property
    def shape(self) -> Shape:
        """What a task needs while it runs; one CPU unless said otherwise. Checked at the first call."""
        cpus = UNIT if self._num_cpus is None else to_units("num_cpus", self._num_cpus)
        quantities = {CPU: cpus}
        quantities.update({name: to_units(name, amount) for name, amount in self._resources.items()})
        return to_shape(quantities)

    def replaced(self, changes: Mapping[str, Any]) -> TaskOptions:
        """These options with some changed."""
        given = dict(self.given)
        if "num_returns" in changes or "num_return_vals" in changes:
            given.pop("num_returns", None)
            given.pop("num_return_vals", None)
        return TaskOptions({**given, **changes})


class RemoteFunction:
    """A function whose calls run as tasks, on any core of the cluster.

    ``f.remote(...)`` starts a task and returns at once with a reference to its result.
    """

    def __init__(self, function: Callable[..., Any], options: TaskOptions) -> None:
        self._function = function
        self._options = options
        self._name = _name_of(function)
        self._exported: tuple[Process, bytes] | None = None
        self._signature: inspect.Signature | None = None
        self._plain_range: tuple[int, int] | None = None
        functools.update_wrapper(self, function)
        self._read_signature()

    def _read_signature(self) -> None:
        try:
            self._signature = inspect.signature(self._function)
        except (TypeError, ValueError):  # some C functions have none: the worker will tell
            return
        parameters = self._signature.parameters.values()
        if all(p.kind is _PLAIN for p in parameters):
            self._plain_range = (sum(p.default is _EMPTY for p in parameters), len(parameters))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102  # its docstring is the function's
        raise TypeError(
            f"Remote function {self._name} cannot be called directly. "
            f"Use {self._name}.remote(...) to run it as a task."
        )

    def __repr__(self) -> str:
        return f"<remote function {self._name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # By value where the function goes by value: workers use remote functions that the driver defined.
        return rebuild, (self._function, self._options.given)

    def options(self, **changes: Any) -> RemoteFunction:
        """The same function with other options; those not given keep their values."""
        changed = RemoteFunction(self._function, self._options.replaced(changes))
        changed._exported = self._exported
        return changed

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a task.

        Returns:
            A reference to the result; a list of them for ``num_returns`` above 1; None for 0.

        Raises:
            TypeError: the arguments do not fit the function's signature.
            SerializationError: an argument, or the function, cannot be pickled; names the culprit.
            RayConnectionError: no session is running.
        """
        process = current()
        plain = self._plain_range
        if plain is None or kwargs or not plain[0] <= len(args) <= plain[1]:
            self._check_arguments(args, kwargs)
        exported = self._exported
        if exported is None or exported[0] is not process:
            exported = self._exported = (process, process.export_function(self._function, self._name))
        options = self._options
        refs = process.submit(
            exported[1], self._name, args, kwargs,
            num_returns=options.num_returns, shape=options.shape, max_retries=options.max_retries,
        )  # fmt: skip
        if options.num_returns == 1:
            return refs[0] if refs else None
        return refs or None

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as exc:
                raise TypeError(f"{self._name}{self._signature}: {exc}.") from None


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or repr(function)
    return str(name).rpartition("<locals>.")[2]


def rebuild(function: Callable[..., Any], given: dict[str, Any]) -> RemoteFunction:
    """What a pickled remote function becomes where it is loaded."""
    return RemoteFunction(function, TaskOptions(given))


@overload
def remote(function: Callable[..., Any], /) -> RemoteFunction: ...
@overload
def remote(**options: Any) -> Callable[[Callable[..., Any]], RemoteFunction]: ...
def remote(*args: Any, **options: Any) -> Any:
    """Make a function remote: ``@remote``, or ``@remote(num_cpus=2)``.

    Options:
        num_returns: how many values the function returns (a tuple or list of them); default 1.
        num_cpus: CPUs that a task takes while it runs; default 1; 0 and fractions are fine.
        resources: quantities of resources with names of your own.
        max_retries: how often a task is run again when its *process* died; default 3; -1: always.
            A Python exception is never retried.

    Raises:
        TypeError: applied to something that is not a function, or with no or unknown options.
    """
    if args:
        if len(args) > 1 or options:
            raise TypeError("Use @nbray.remote, or @nbray.remote(option=value).")
        return _wrap(args[0], TaskOptions({}))
    if not options:
        raise TypeError("@nbray.remote() without options: write @nbray.remote.")
    checked = TaskOptions(options)
    return lambda function: _wrap(function, checked)


def _wrap(function: Any, options: TaskOptions) -> RemoteFunction:
    if inspect.isclass(function):
        raise TypeError(f"Remote classes (actors) are not possible yet: {function.__name__}.")
    if isinstance(function, RemoteFunction) or not callable(function):
        raise TypeError(f"@nbray.remote applies to functions, not to {type(function).__name__}.")
    return RemoteFunction(function, options)
