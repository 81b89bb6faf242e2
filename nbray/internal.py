"""What old programs find as ``ray.internal``.

Called by:  users.
Imports:    runtime.current, runtime.refs.
Never:      does what dropping a reference would do by itself.
"""

from __future__ import annotations

from nbray.runtime.current import current
from nbray.runtime.refs import ObjectRef

__all__ = ["free"]


def free(
    object_ids: ObjectRef | list[ObjectRef],
    local_only: bool = False,  # noqa: ARG001
    delete_creating_tasks: bool = False,  # noqa: ARG001
) -> None:
    """Free objects now, although somebody holds references to them.

    Who asks for one from now on gets ``UnreconstructableError``: this process at once, others as soon as
    the process that owns it has heard of it; who has it already may read it on. Views that exist stay
    good, and so do tasks that run with it. What is not there yet is left alone: free it when it is. As a
    rule there is no need: an object is freed by itself when nobody holds it any more.

    Args:
        object_ids: a reference, or a list of them.
        local_only: accepted, for old programs.
        delete_creating_tasks: accepted, for old programs.

    Raises:
        TypeError: not a list of references.
        RayConnectionError: no session is running.
    """
    refs = [object_ids] if isinstance(object_ids, ObjectRef) else object_ids
    if not isinstance(refs, list):
        raise TypeError(f"internal.free() takes a list of references, not {type(refs).__name__}.")
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"internal.free() takes a list of references; it holds a {type(ref).__name__}.")
    process = current()
    for ref in refs:
        process.gets.entry(ref)  # of this session, and known
    process.free([ref.binary() for ref in refs])
