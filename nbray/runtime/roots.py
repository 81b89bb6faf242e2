"""Where names begin: a notebook's or program's variables, what a kernel keeps by itself, the last traceback.

Called by:  runtime.describing (makes the roots), runtime.holders (walks from them).
Imports:    the standard library. IPython never: if somebody else imported it, its shell is looked at.
Never:      keeps what it looked at alive; changes it.
"""

from __future__ import annotations

import builtins
import inspect
import os
import re
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

#: Kinds of names: what a user named, what the notebook keeps by itself, what the last error keeps.
VARIABLE, OUTPUT, TRACEBACK = "variable", "output", "traceback"

UNDERSCORES = ("_", "__", "___")
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_CACHED = re.compile(r"_i*\d*|_i+|_[iod]h")  # IPython's own: _, __, _3, _i, _ii, _i3, _oh, _ih, _dh
_NUMBERED = re.compile(r"_\d+")
_NOT_VARIABLES = frozenset(
    {"In", "Out", "__", "___", "get_ipython", "exit", "quit", "open", "__builtins__", "__builtin__"}
)
#: Packages whose functions and instances hold what they hand on, under names that tell nobody anything.
MACHINERY = frozenset({"IPython", "ipykernel", "asyncio", "tornado", "traitlets", "zmq", "concurrent"})
_INSTALLED = (
    f"{os.sep}site-packages{os.sep}",
    f"{os.sep}dist-packages{os.sep}",
    os.path.dirname(os.__file__) + os.sep,
)


class Root(NamedTuple):
    """A value that has a name of its own. ``suffix`` follows whatever is appended to the name."""

    kind: str
    text: str
    value: Any
    suffix: str = ""


def roots() -> Iterator[Root]:
    """All roots of this process, those first by which people know their values best."""
    shell = notebook_shell()
    names = shell.user_ns if shell is not None else sys.modules["__main__"].__dict__
    yield from variables(names, shell is not None)
    for frame in _running_frames():
        yield from _variables_of(frame, VARIABLE)
    yield from outputs(names, shell)
    yield from tracebacks(shell)
    for module_name, module in list(sys.modules.items()):
        if _is_users(module_name, module):
            for name, value in list(module.__dict__.items()):
                if not name.startswith("__") and not isinstance(
                    value, (types.ModuleType, types.FunctionType, type)
                ):
                    yield Root(VARIABLE, f"{module_name}.{name}", value)


def notebook_shell() -> Any:
    """The IPython shell of this process, if it runs in one."""
    ipython = sys.modules.get("IPython")
    get = getattr(ipython, "get_ipython", None)
    return None if get is None else get()


def variables(names: dict[Any, Any], is_notebook: bool) -> Iterator[Root]:
    """What the user named."""
    for name, value in list(names.items()):
        if isinstance(name, str) and (not is_notebook or is_variable(name)):
            yield Root(VARIABLE, name, value)


def is_variable(name: str) -> bool:
    """Whether it is the user who gives values to this name in a notebook."""
    is_special = name.startswith("__") and name.endswith("__")
    return not (is_special or name in _NOT_VARIABLES or _CACHED.fullmatch(name))


def outputs(names: dict[str, Any], shell: Any) -> Iterator[Root]:
    """What a notebook, or the interactive interpreter, keeps of what its cells and lines returned."""
    if shell is None:
        yield Root(OUTPUT, "_", builtins.__dict__.get("_"))
        return
    cached = names.get("_oh")
    if isinstance(cached, dict):
        for number, value in list(cached.items()):
            yield Root(OUTPUT, f"Out[{number}]", value)
    hook, hidden = getattr(shell, "displayhook", None), getattr(shell, "user_ns_hidden", {})
    for name in UNDERSCORES:
        yield Root(OUTPUT, name, names.get(name))
        yield Root(OUTPUT, name, getattr(hook, name, None))
        yield Root(OUTPUT, name, hidden.get(name))
    for space in (names, hidden):
        for name, value in list(space.items()):
            if isinstance(name, str) and _NUMBERED.fullmatch(name):
                yield Root(OUTPUT, f"Out[{name[1:]}]", value)
    last = getattr(shell, "last_execution_result", None)
    yield Root(OUTPUT, "_", getattr(last, "result", None))


def tracebacks(shell: Any) -> Iterator[Root]:
    """What the functions that the last error went through had at hand."""
    seen: set[int] = set()
    for frame in _frames_of_last_errors(shell):
        if id(frame) not in seen:
            seen.add(id(frame))
            yield from _variables_of(frame, TRACEBACK)
    for error in last_errors(shell):
        yield Root(TRACEBACK, "args", args_of(error), f" of {type(error).__name__}")


def args_of(error: BaseException) -> Any:
    """Its arguments, whatever its class calls by that name."""
    return BaseException.__dict__["args"].__get__(error)


def last_errors(shell: Any) -> list[BaseException]:
    """The errors that the interpreter and the shell remember, each once."""
    last = getattr(shell, "last_execution_result", None)
    found = [
        getattr(sys, "last_exc", None),
        getattr(sys, "last_value", None),
        getattr(last, "error_in_exec", None),
        getattr(last, "error_before_exec", None),
    ]
    return list({id(error): error for error in found if isinstance(error, BaseException)}.values())


def _frames_of_last_errors(shell: Any) -> Iterator[types.FrameType]:
    for error in last_errors(shell):
        yield from frames_of_exception(error)
    yield from frames_of_traceback(getattr(sys, "last_traceback", None))
    yield from frames_of_traceback(getattr(getattr(shell, "InteractiveTB", None), "tb", None))


def frames_of_exception(error: BaseException) -> Iterator[types.FrameType]:
    """The functions that it, its causes and what it happened on top of went through."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        error_or_none = pending.pop()
        if error_or_none is None or id(error_or_none) in seen:
            continue
        seen.add(id(error_or_none))
        yield from frames_of_traceback(error_or_none.__traceback__)
        pending += [error_or_none.__cause__, error_or_none.__context__]


def frames_of_traceback(tb: types.TracebackType | None) -> Iterator[types.FrameType]:
    """Those of functions: the variables of a module or cell are found without them."""
    while isinstance(tb, types.TracebackType):
        if tb.tb_frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            yield tb.tb_frame
        tb = tb.tb_next


def _running_frames() -> Iterator[types.FrameType]:
    """What runs now, in this thread and then in others, without ourselves."""
    here = sys._getframe()  # noqa: SLF001  # as public as it gets
    others = list(sys._current_frames().values())  # noqa: SLF001  # likewise
    seen: set[int] = set()
    for top in (here, *others):
        frame: types.FrameType | None = top
        while frame is not None and id(frame) not in seen:
            seen.add(id(frame))
            code = frame.f_code
            package = str(frame.f_globals.get("__name__")).partition(".")[0]
            if (
                code.co_flags & inspect.CO_OPTIMIZED
                and not code.co_filename.startswith(_OURS)
                and package not in MACHINERY
            ):
                yield frame
            frame = frame.f_back


def _variables_of(frame: types.FrameType, kind: str) -> Iterator[Root]:
    where = f" in {frame.f_code.co_name}()"
    for name, value in locals_of(frame).items():
        if (
            name.isidentifier()
        ):  # else a tool made it up: comprehensions have a .0, rewritten asserts an @py_assert1
            yield Root(kind, name, value, where)


def locals_of(frame: types.FrameType) -> dict[str, Any]:
    """A copy of its variables.

    Before Python 3.13, ``f_locals`` is a dict that stays with the frame, and would keep all that was in it
    alive for as long as the function runs. So it is emptied again (Python fills it anew whenever it is asked
    for). Not if somebody else has it, who called ``locals()`` there. Nor if a debugger looks on: when it is
    done, Python takes the variables from the dict.
    """
    kept = frame.f_locals
    copy = dict(kept)
    is_watched = frame.f_trace is not None or sys.gettrace() is not None
    if type(kept) is dict and not is_watched and sys.getrefcount(kept) <= _REFERENCES_OF_NOBODY_ELSE:
        kept.clear()
    return copy


#: The frame's, the variable's, and the argument's of ``getrefcount``.
_REFERENCES_OF_NOBODY_ELSE = 3


def _is_users(name: str, module: Any) -> bool:
    if type(module) is not types.ModuleType or name == "__main__":
        return False
    package = name.partition(".")[0]
    file = module.__dict__.get("__file__")
    return (
        package not in sys.stdlib_module_names
        and package != "nbray"
        and isinstance(file, str)
        and not any(folder in file for folder in _INSTALLED)
    )
