"""``register_custom_serializer``: how instances of a class travel, when the default will not do.

Called by:  users.
Imports:    runtime.custom_serializers.
Never:      changes how other classes travel, subclasses included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbray.runtime import custom_serializers
from nbray.runtime.current import current

#: The pickler writes these itself and asks nobody.
_NATIVE = (
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset
)  # fmt: skip


def register_custom_serializer(
    cls: type,
    serializer: Callable[[Any], Any] | None = None,
    deserializer: Callable[[Any], Any] | None = None,
    use_pickle: bool = False,
    use_dict: bool = False,
    class_id: str | bytes | None = None,
) -> None:
    """Serialize instances of ``cls`` with functions of your own, here and on every worker.

    It holds for this session, for tasks that are submitted from now on. Classes need no registration:
    use this where pickling is impossible, slow, or not what you want.

    Args:
        cls: instances of exactly this class; also a subclass of ``numpy.ndarray``.
        serializer: makes of an instance a value that can be pickled, arrays included.
        deserializer: makes of that value an instance again. Both functions travel to other processes.
        use_pickle: back to the default way.
        use_dict: likewise; they were two ways in the first Ray releases.
        class_id: a name for the class, for old programs.

    Raises:
        RayConnectionError: no session is running.
        TypeError: ``cls`` is not a class, or one that cannot be serialized otherwise, as ``list``.
        ValueError: not exactly one of the three ways was given.
        SerializationError: ``cls``, ``serializer`` or ``deserializer`` cannot be pickled.
    """
    current()
    if not isinstance(cls, type):
        raise TypeError(f"register_custom_serializer() takes a class, not {cls!r}.")
    if cls in _NATIVE:
        raise TypeError(f"Instances of {cls.__name__} have a form of their own; register a subclass instead.")
    if (serializer is None) != (deserializer is None):
        raise ValueError("Give both, serializer and deserializer: what one writes the other has to read.")
    if bool(use_pickle) + bool(use_dict) + (serializer is not None) != 1:
        raise ValueError(
            "Give exactly one of use_pickle=True, use_dict=True, or serializer and deserializer."
        )
    for name, function in (("serializer", serializer), ("deserializer", deserializer)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function, not {function!r}.")
    custom_serializers.register(cls, serializer, deserializer, class_id)
