"""Rows of the benchmark table: which way is better, what meets a target, how values read."""

from __future__ import annotations

import pytest

from benchmarks import workloads
from benchmarks.figures import BY_KEY, FIGURES, Figure, text_of

RATE = Figure("rate", "sync", "a rate", "/s", "higher", target=100)
TIME = Figure("time", "sync", "a time", "s", "lower", target=0.1)


def test_a_target_is_met_from_its_good_side() -> None:
    assert RATE.meets(100) is True
    assert RATE.meets(99) is False
    assert TIME.meets(0.1) is True
    assert TIME.meets(0.11) is False


def test_ratios_are_compared_with_their_target_as_they_are_printed() -> None:
    growth = BY_KEY["broadcast_growth"]

    assert growth.meets(1.004) is True
    assert growth.meets(1.006) is False


def test_twice_as_good_is_two_whichever_way_is_better() -> None:
    assert RATE.advantage(200, 100) == 2
    assert TIME.advantage(0.1, 0.2) == 2
    assert TIME.advantage(0.2, 0.1) == 0.5


def test_a_zero_has_no_ratio() -> None:
    assert RATE.advantage(0, 100) is None
    assert TIME.advantage(0.1, 0) is None


def test_every_figure_is_recorded_by_one_workload_of_its_group() -> None:
    recorded = [
        (key, one.group)
        for group in workloads.GROUPS
        for one in workloads.of_group(group)
        for key in one.figures
    ]

    assert sorted(recorded) == sorted((figure.key, figure.group) for figure in FIGURES)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0000123, "s", "12.3 µs"),
        (0.1, "s", "100 ms"),
        (3.456, "s", "3.46 s"),
        (80_400_000, "bytes", "80.4 MB"),
        (401, "bytes", "401 B"),
        (11_960_000_000, "bytes/s", "12.0 GB/s"),
        (123_456, "/s", "123 000 /s"),
        (0.954, "x", "0.95 x"),
        (5, "n", "5"),
    ],
)
def test_values_read_as_three_digits_in_a_unit_that_suits_them(value: float, unit: str, text: str) -> None:
    assert text_of(value, unit) == text
