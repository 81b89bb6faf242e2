"""``get`` and ``wait`` without a session: which complaint comes first."""

from __future__ import annotations

from typing import Any

import pytest

import nbray
from nbray.core.references import Entry
from nbray.runtime.refs import Home, make_ref

REF = make_ref(Entry(bytes(20), None), Home(bytes(16), lambda: None))


@pytest.mark.parametrize(("arguments", "error"), [
    ({"object_ids": REF, "timeout": -1}, TypeError), ({"object_ids": (REF,), "timeout": -1}, TypeError),
    ({"object_ids": None}, TypeError), ({"object_ids": [1], "timeout": -1}, ValueError),
    ({"object_ids": [REF], "timeout": -0.1}, ValueError),
    ({"object_ids": [REF], "timeout": float("nan")}, ValueError),
    ({"object_ids": [REF], "timeout": "1"}, TypeError), ({"object_ids": [REF, 1]}, TypeError),
    ({"object_ids": []}, nbray.RayConnectionError),
    ({"object_ids": [REF, REF]}, nbray.RayConnectionError),
    ({"object_ids": [REF], "num_returns": 0}, nbray.RayConnectionError),
])  # fmt: skip
def test_wait_looks_at_its_list_and_timeout_before_it_asks_for_a_session(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        nbray.wait(**arguments)


@pytest.mark.parametrize("object_ids", [REF, [REF], [], (REF,), [1]])
def test_get_asks_for_a_session_first(object_ids: Any) -> None:
    with pytest.raises(nbray.RayConnectionError):
        nbray.get(object_ids)


def test_put_of_a_reference_is_refused_with_or_without_a_session() -> None:
    with pytest.raises(TypeError, match="list"):
        nbray.put(REF)
    with pytest.raises(nbray.RayConnectionError):
        nbray.put(1, weakref=True)
