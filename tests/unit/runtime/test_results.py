"""What counts as several results, and what as one."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

from nbray.runtime.results import returned


@pytest.mark.parametrize(
    "value",
    [(1, 2), [1, 2], np.array([1, 2]), range(1, 3), collections.deque([1, 2]), collections.UserList([1, 2])],
)
def test_sequences_and_arrays_are_as_many_results_as_they_have_elements(value: Any) -> None:
    assert returned("f", value, 2) == [("result[0]", 1), ("result[1]", 2)]


def test_one_result_may_be_anything_and_none_are_asked_for_none() -> None:
    assert returned("f", (1, 2), 1) == [("result", (1, 2))]
    assert returned("f", (1, 2), 0) == []


@pytest.mark.parametrize("value", [(1,), [1, 2, 3], np.zeros(3), np.zeros((3, 2))])
def test_a_wrong_number_of_results_is_refused_with_both_numbers(value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"Task f was declared with num_returns=2 but returned {len(value)} values"
    ):
        returned("f", value, 2)


@pytest.mark.parametrize("value", ["ab", b"ab", {"a": 1, "b": 2}, {1, 2}, None, 7, np.array(2), iter([1, 2])])
def test_texts_dicts_sets_and_scalars_are_not_several_results(value: Any) -> None:
    with pytest.raises(ValueError, match=f"returned {type(value).__name__}"):
        returned("f", value, 2)
