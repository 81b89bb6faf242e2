"""What people read of an exception that was raised elsewhere.

Called by:  task_errors.
Imports:    nbray.model.
Never:      fails, whatever the exception's methods do; shows a frame of nbray.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

from nbray.model.errors import RayTaskError

#: Texts above this size lose their middle: the end of a traceback says the most.
TEXT_MAX_BYTES = 1024 * 1024
#: So many exceptions of a chain of causes are kept.
CHAIN_MAX = 16

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def chain_of(exc: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The exception, then what led to it: pairs (exception, how it led to the one before).

    How is "" for the first, then "cause" or "context". Cycles and long chains are cut; the chain
    ends at the error of another task, which brings its own.
    """
    seen: set[int] = set()
    link = ""
    current: BaseException | None = exc
    while current is not None and id(current) not in seen and len(seen) < CHAIN_MAX:
        yield current, link
        seen.add(id(current))
        if isinstance(current, RayTaskError):
            return
        if current.__cause__ is not None:
            current, link = current.__cause__, "cause"
        elif current.__context__ is not None and not current.__suppress_context__:
            current, link = current.__context__, "context"
        else:
            return


def traceback_text(exc: BaseException) -> str:
    """The traceback with its causes, frames of user code only, without trailing newline.

    The notes of ``exc`` itself are left out: they travel as notes, and Python prints those.
    """
    blocks: list[str] = []
    for current, link in chain_of(exc):
        if link:
            blocks.append(_CAUSE if link == "cause" else _CONTEXT)
        blocks.append(_block(current, with_notes=bool(link)))
    return shortened("".join(reversed(blocks)).rstrip("\n"))


def message_of(exc: BaseException) -> str:
    """``str(exc)``, or a sentence in its place if that raises."""
    try:
        return shortened(str(exc))
    except BaseException as failure:  # noqa: BLE001  (a user's __str__ may even exit)
        return f"(no text: str() of this {type(exc).__name__} raised {type(failure).__name__})"


def shortened(text: str) -> str:
    """Cut in the middle above ``TEXT_MAX_BYTES``; what UTF-8 and terminals cannot show, escaped."""
    raw = text.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00")
    if len(raw) > TEXT_MAX_BYTES:
        head, tail = TEXT_MAX_BYTES * 3 // 4, TEXT_MAX_BYTES // 5
        marker = f"\n... [{len(raw) - head - tail} bytes cut] ...\n".encode()
        raw = raw[:head] + marker + raw[-tail:]
    return raw.decode("utf-8", "ignore")


def _block(exc: BaseException, *, with_notes: bool) -> str:
    try:
        told = traceback.TracebackException(type(exc), exc, exc.__traceback__, compact=True)
        _cut_frames(told)
        if not with_notes:
            told.__notes__ = None  # type: ignore[attr-defined]
        return "".join(told.format(chain=False))
    except BaseException:  # noqa: BLE001  (hostile notes, a __str__ that exits, memory)
        return f"{type(exc).__name__}: {message_of(exc)}\n"


def _cut_frames(told: traceback.TracebackException) -> None:
    told.stack = traceback.StackSummary.from_list([f for f in told.stack if not f.filename.startswith(_OURS)])
    for inner in getattr(told, "exceptions", None) or ():
        _cut_frames(inner)
