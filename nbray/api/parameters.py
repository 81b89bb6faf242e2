"""Whether arguments fit a function, asked at each call.

Called by:  api.tasks.
Imports:    the standard library.
Never:      looks at a value: what fits depends on how many are positional and how the others are called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

#: How many kinds of calls are remembered; a function that takes *args may see any number of them.
_REMEMBERED_MAX = 256


class Parameters:
    """The parameters of one function.

    ``fits`` holds the kinds of calls that are known to fit: a number for positional arguments alone,
    else a tuple of that number and the keywords. ``check`` is for those that are not in it.
    """

    __slots__ = ("_name", "_signature", "fits")

    def __init__(self, function: Callable[..., Any] | None, name: str) -> None:
        self._name = name
        self.fits: set[int | tuple[int | str, ...]] = set()
        self._signature: inspect.Signature | None = None
        if function is None:
            return
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):  # some C functions have none: the worker will tell
            return

    @classmethod
    def of(cls, signature: inspect.Signature | None, name: str) -> Parameters:
        """The parameters of a signature that was found elsewhere; None: any call may fit."""
        made = cls(None, name)
        made._signature = signature  # its own
        return made

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a call that does not fit; remember one that does.

        Raises:
            TypeError: too few or too many arguments, an unknown keyword, or one parameter twice.
        """
        if self._signature is not None:
            try:
                self._signature.bind(*args, **kwargs)
            except TypeError as exc:
                raise TypeError(f"{self._name}{self._signature}: {exc}.") from None
        if len(self.fits) < _REMEMBERED_MAX:
            self.fits.add((len(args), *kwargs) if kwargs else len(args))
