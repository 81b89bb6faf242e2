"""What a handle knows of its actor's class: enough to check a call, and to complete and explain it.

Called by:  api.{actor_classes,actor_handles}.
Imports:    api.parameters, the standard library.
Never:      holds the class itself: a handle goes to processes that never load it.
"""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

from nbray.api.parameters import Parameters

#: How many results a method has, as ``@nbray.method`` notes it.
NUM_RETURNS = "__ray_num_return_vals__"
_KEPT_DEFAULTS = (type(None), bool, int, float, str, bytes)


class _Shown:
    """Stands in a signature for a default that stays in the actor's process."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[Any, ...]:
        return _Shown, (self._text,)


class MethodInfo:
    """One method."""

    __slots__ = ("doc", "name", "num_returns", "parameters", "signature")

    def __init__(
        self, name: str, num_returns: int, signature: inspect.Signature | None, doc: str, shown: str
    ) -> None:
        self.name = name
        self.num_returns = num_returns
        self.signature = signature  # without ``self``
        self.doc = doc
        self.parameters = Parameters.of(signature, shown)

    @classmethod
    def of(
        cls, name: str, num_returns: int, signature: inspect.Signature | None, doc: str, owner: str = ""
    ) -> MethodInfo:
        """The method of a class of that name."""
        return cls(name, num_returns, signature, doc, f"{owner}.{name}" if owner else name)


class ClassInfo:
    """One class with the options of its actors, as far as their callers need them. Pickled as one piece."""

    __slots__ = ("_pickled", "doc", "keeps_calls", "max_concurrency", "max_task_retries", "methods", "name")

    def __init__(
        self, name: str, doc: str, methods: dict[str, MethodInfo], max_concurrency: int,
        max_task_retries: int, keeps_calls: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.doc = doc
        self.methods = methods
        self.max_concurrency = max_concurrency
        self.max_task_retries = max_task_retries
        self.keeps_calls = keeps_calls  # until a checkpoint covers them
        self._pickled = b""

    def public_names(self) -> list[str]:
        """Methods that people may call."""
        return [name for name in self.methods if not name.startswith("_")]

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._pickled:
            rows = [(m.name, m.num_returns, m.signature, m.doc) for m in self.methods.values()]
            facts = (
                self.name, self.doc, rows, self.max_concurrency, self.max_task_retries, self.keeps_calls
            )  # fmt: skip
            self._pickled = pickle.dumps(facts, 5)
        return _load, (self._pickled,)


@functools.lru_cache(maxsize=1024)
def _load(pickled: bytes) -> ClassInfo:
    name, doc, rows, *options = pickle.loads(pickled)  # noqa: S301  # ours
    methods = {m: MethodInfo.of(m, count, signature, text, name) for m, count, signature, text in rows}
    return ClassInfo(name, doc, methods, *options)


def methods_of(cls: type) -> dict[str, MethodInfo]:
    """The methods of a class: also those that it inherited, of the class, and static ones."""
    found = {}
    for name in dir(cls):
        static = inspect.getattr_static(cls, name)
        function = static.__func__ if isinstance(static, (classmethod, staticmethod)) else static
        if not (inspect.isfunction(function) or inspect.ismethoddescriptor(function)):
            continue
        if name.startswith("__") and _is_of_object(cls, name):
            continue
        signature = signature_of(function, skips_first=not isinstance(static, staticmethod))
        num_returns = getattr(function, NUM_RETURNS, 1)
        doc = inspect.getdoc(function) or ""
        found[name] = MethodInfo.of(name, num_returns, signature, doc, cls.__name__)
    return found


def _is_of_object(cls: type, name: str) -> bool:
    """What every class has is no method of an actor, unless the class defines it anew."""
    return getattr(cls, name, None) is getattr(object, name, None) or name in (
        "__init__", "__new__", "__init_subclass__", "__class_getitem__", "__subclasshook__", "__del__",
    )  # fmt: skip


def constructor_of(cls: type) -> inspect.Signature | None:
    """How it is called."""
    function = getattr(cls, "__init__")  # noqa: B009  # looked at, not called
    if function is object.__init__:
        return inspect.Signature()
    return signature_of(function, skips_first=True)


def signature_of(function: Callable[..., Any], *, skips_first: bool) -> inspect.Signature | None:
    """A signature that can be shown and pickled anywhere; None where Python knows none."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if skips_first and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        parameters = parameters[1:]
    return inspect.Signature([_shown(parameter) for parameter in parameters])


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    default = parameter.default
    if default is not inspect.Parameter.empty and type(default) not in _KEPT_DEFAULTS:
        default = _Shown(_short(default))
    return parameter.replace(annotation=inspect.Parameter.empty, default=default)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # a user's __repr__ may do anything
        text = type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."  # it is for a line on a screen
