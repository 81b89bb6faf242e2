"""References among arguments become markers, and markers values."""

from __future__ import annotations

from typing import Any

import pytest

from nbray.core.references import Entry
from nbray.runtime.arguments import Argument, fill_in, mark_references
from nbray.runtime.refs import Home, ObjectRef, make_ref


@pytest.fixture
def ref() -> ObjectRef:
    return make_ref(Entry(b"x" * 20, None, 1), Home(b"p" * 16, lambda: None))


def test_arguments_without_references_are_left_as_they_are() -> None:
    args, kwargs = (1, [2]), {"k": "v"}

    marked = mark_references(args, kwargs)

    assert marked[0] is args
    assert marked[1] is kwargs
    assert marked[2] == []


def test_top_level_references_are_marked_in_order_and_filled_in_again(ref: ObjectRef) -> None:
    args, kwargs, found = mark_references((1, ref, ref), {"a": ref, "b": 2})

    assert found == [ref, ref, ref]
    assert [type(a) for a in args] == [int, Argument, Argument]
    assert fill_in(args, kwargs, ["x", "y", "z"]) == ((1, "x", "y"), {"a": "z", "b": 2})


def test_references_inside_containers_stay_references(ref: ObjectRef) -> None:
    values: tuple[Any, ...] = ([ref], {"k": ref})

    assert mark_references(values, {}) == (values, {}, [])
