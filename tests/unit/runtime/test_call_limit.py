"""A function that may run so many times in a process."""

from __future__ import annotations

import pytest

from nbray.runtime.call_limit import CallLimit


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallLimit, "reached", False)


def test_the_last_run_is_noted_and_its_value_comes_through() -> None:
    limited = CallLimit(lambda x, y=1: x + y, 2)

    assert limited(1) == 2
    assert not CallLimit.reached
    assert limited(1, y=5) == 6
    assert CallLimit.reached


def test_a_run_that_raises_counts() -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        CallLimit(fail, 1)()

    assert CallLimit.reached


def test_functions_count_apart() -> None:
    one, other = CallLimit(int, 2), CallLimit(int, 2)

    one()
    other()

    assert not CallLimit.reached
