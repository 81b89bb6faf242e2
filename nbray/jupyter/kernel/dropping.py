"""Making a notebook let go: of outputs, of the last traceback, of variables that are named.

Called by:  nbray.jupyter (``drop``).
Imports:    nbray.api.looking, nbray.observe, IPython.
Never:      touches a variable of the user's that was not named.

A value that a cell returned is kept in many places (``Out``, ``_3``, ``_``, a copy of these that the shell
keeps, the display hook, the result of the last cell), and the last error in as many.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from nbray.api.looking import objects
from nbray.observe.cards import Dropped
from nbray.runtime.roots import UNDERSCORES, is_variable

TRACEBACK = "traceback"
_OUTPUT = re.compile(r"(?:Out\[(\d+)\]|_(\d+))")
#: Holds of other processes go a moment later; two looks so far apart that are alike are the last.
_LOOK_AGAIN_S = 0.05
_LOOKS_MAX = 20


def drop(shell: InteractiveShell, names: tuple[str, ...]) -> Dropped:
    """Let go of what these names hold, and wait a moment for the memory.

    Raises:
        ValueError: there is no such name; nothing was dropped.
    """
    numbers = [_check(shell, name) for name in names]
    before = _sizes()
    for name, number in zip(names, numbers, strict=True):
        _drop(shell, name, number)
    gc.collect()
    after = _sizes()
    for _ in range(_LOOKS_MAX):
        time.sleep(_LOOK_AGAIN_S)
        earlier, after = after, _sizes()
        if after.keys() == earlier.keys():
            break
    freed = [size_bytes for object_id, size_bytes in before.items() if object_id not in after]
    dropped = Dropped(sum(freed))
    dropped.names, dropped.objects = names, len(freed)
    return dropped


def _sizes() -> dict[str, int]:
    return {object_id: facts["DataSize"] for object_id, facts in objects().items()}


def _check(shell: InteractiveShell, name: str) -> int | None:
    """The number of an output; None for other names.

    Raises:
        ValueError: there is none of that name.
    """
    output = _OUTPUT.fullmatch(name)
    if output is not None:
        number = int(output[1] or output[2])
        if number not in shell.user_ns.get("_oh", {}):
            raise ValueError(f"There is no {name}: that cell returned nothing, or it was dropped before.")
        return number
    if name not in (TRACEBACK, "Out", *UNDERSCORES) and not (name in shell.user_ns and is_variable(name)):
        raise ValueError(
            f"There is nothing to drop by the name {name!r}. Name an output (Out[3]), all of them (Out), "
            "_, __ or ___, the last traceback (traceback), or a variable."
        )
    return None


def _drop(shell: InteractiveShell, name: str, number: int | None) -> None:
    if number is not None:
        _drop_output(shell, number)
    elif name == "Out":
        for each in list(shell.user_ns.get("_oh", {})):
            _drop_output(shell, each)
        for underscores in UNDERSCORES:
            _drop_underscores(shell, underscores)
    elif name in UNDERSCORES:
        _drop_underscores(shell, name)
    elif name == TRACEBACK:  # also where a module of that name was imported
        _drop_traceback(shell)
    else:
        shell.user_ns.pop(name, None)


def _drop_output(shell: InteractiveShell, number: int) -> None:
    value = shell.user_ns["_oh"].pop(number, None)
    for names in (shell.user_ns, shell.user_ns_hidden):
        if names.get(f"_{number}") is value:
            names.pop(f"_{number}", None)
    for name in UNDERSCORES:
        if shell.user_ns.get(name) is value or getattr(shell.displayhook, name, None) is value:
            _drop_underscores(shell, name)
    _drop_result(shell, value)


def _drop_underscores(shell: InteractiveShell, name: str) -> None:
    """As the shell does when it forgets its outputs: the name stays, with an empty text."""
    value: Any = getattr(shell.displayhook, name, None)
    setattr(shell.displayhook, name, "")
    for names in (shell.user_ns, shell.user_ns_hidden):
        if name in names:
            names[name] = ""
    if not any(kept is value for kept in shell.user_ns.get("_oh", {}).values()):
        _drop_result(shell, value)


def _drop_result(shell: InteractiveShell, value: Any) -> None:
    last = shell.last_execution_result
    if last is not None and last.result is value:
        last.result = None


def _drop_traceback(shell: InteractiveShell) -> None:
    for name in ("last_exc", "last_value", "last_type", "last_traceback"):
        sys.__dict__.pop(name, None)
    if getattr(shell.InteractiveTB, "tb", None) is not None:
        shell.InteractiveTB.tb = None
    last = shell.last_execution_result
    if last is not None:
        last.error_in_exec = last.error_before_exec = None
