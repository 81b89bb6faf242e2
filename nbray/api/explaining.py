"""``nbray.why``: what a result waits for.

Called by:  users, jupyter.
Imports:    observe, runtime.
Never:      changes anything, or waits for the object.
"""

from __future__ import annotations

from nbray.observe.why import Why
from nbray.runtime import explaining
from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef

__all__ = ["why"]


def why(ref: ObjectRef) -> Why:
    """Why ``get(ref)`` would wait: the chain of causes from the reference to what goes on, or never will.

    Prints as one line for each cause, in a notebook as a table; ``why(ref).links`` are plain dicts. Asks all
    processes; those that are busy in native code for more than a second say nothing of themselves.

    Raises:
        TypeError: ``ref`` is not a reference.
        RayConnectionError: no session is running.
    """
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            f"nbray.why() takes one reference, as f.remote() returns it, not {type(ref).__name__}."
        )
    return Why(explaining.explain(current(), ref))
