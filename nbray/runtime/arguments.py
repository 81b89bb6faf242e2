"""References among the arguments of a task: their values take their places where it runs.

Called by:  runtime.process (marks), worker.executor (fills in).
Imports:    runtime.refs.
Never:      looks into containers: references in there arrive as references.
"""

from __future__ import annotations

from typing import Any

from nbray.runtime.refs import ObjectRef


class Argument:
    """Stands in the pickled arguments for a top-level reference; ``index`` counts dependencies."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return Argument, (self.index,)


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def mark_references(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], list[ObjectRef]]:
    """Replace top-level references by markers; returns those that were replaced, too, in order."""
    found: list[ObjectRef] = []
    if ObjectRef not in map(type, args) and (not kwargs or ObjectRef not in map(type, kwargs.values())):
        return args, kwargs, found

    def marked(value: Any) -> Any:
        if type(value) is not ObjectRef:
            return value
        found.append(value)
        return Argument(len(found) - 1)

    return tuple([marked(a) for a in args]), {k: marked(v) for k, v in kwargs.items()}, found


def fill_in(args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]) -> Arguments:
    """Put the values in the places of the markers."""
    return (
        tuple([values[a.index] if type(a) is Argument else a for a in args]),
        {k: values[a.index] if type(a) is Argument else a for k, a in kwargs.items()},
    )
