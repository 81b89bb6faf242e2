"""Classic names that old programs import from ``ray.experimental``.

from nbray import experimental

experimental.get({"a": ref, "b": 2})
"""

from nbray.experimental.objects import get, wait

__all__ = ["get", "wait"]
