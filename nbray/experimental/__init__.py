"""Classic names that old programs import from ``ray.experimental``.

Called by:  users.
Imports:    experimental.objects, which is built on nbray.api alone.
Never:      has a way of its own to do a thing: it spells what ``nbray`` has in the older manner.

    from nbray import experimental

    experimental.get({"a": ref, "b": 2})
"""

from nbray.experimental.objects import get, wait

__all__ = ["get", "wait"]
