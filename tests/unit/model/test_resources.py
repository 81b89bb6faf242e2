"""Resource quantities: exact sums, refused nonsense, one shape per demand.

Called by:  pytest.
Imports:    nbray.model.resources.
Never:      compares floats where units are meant.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.model.resources import UNIT, describe, to_shape, to_units

quantities = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "license"]), st.integers(0, 10 * UNIT))


def test_tenths_add_up_exactly() -> None:
    assert to_units("CPU", 0.1) + to_units("CPU", 0.2) == to_units("CPU", 0.3) == 3_000


@pytest.mark.parametrize(
    ("amount", "units"), [(0, 0), (1, 10_000), (2.0, 20_000), (0.5, 5_000), (0.0001, 1), (100_000, 10**9)]
)
def test_amounts_become_units(amount: float, units: int) -> None:
    assert to_units("CPU", amount) == units


@given(st.integers(0, UNIT))
def test_every_fraction_of_one_is_exact(units: int) -> None:
    assert to_units("GPU", units / UNIT) == units


@given(st.integers(1, 100_000))
def test_every_whole_number_is_exact(amount: int) -> None:
    assert to_units("CPU", amount) == to_units("CPU", float(amount)) == amount * UNIT


@pytest.mark.parametrize("amount", [-1, -0.0001, 100_001, float("inf"), float("nan"), float("-inf")])
def test_amounts_out_of_range_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="CPU must be between 0 and 100000"):
        to_units("CPU", amount)


@pytest.mark.parametrize("amount", [1.5, 2.0001, 99_999.9])
def test_fractions_above_one_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="GPU above 1 must be a whole number"):
        to_units("GPU", amount)


@pytest.mark.parametrize("amount", [0.00001, 0.33333, 1e-300, 0.99999])
def test_fractions_finer_than_a_unit_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match=r"parts of 0\.0001"):
        to_units("GPU", amount)


@pytest.mark.parametrize("amount", [True, False, "1", None, 1j, [1]])
def test_what_is_no_number_is_refused_by_name(amount: Any) -> None:
    with pytest.raises(ValueError, match="license must be a number"):
        to_units("license", amount)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_float_is_converted_or_refused_with_a_sentence(amount: float) -> None:
    try:
        units = to_units("CPU", amount)
    except ValueError as exc:
        assert str(exc).startswith("CPU ")  # noqa: PT017 (most floats are refused, some are not)
    else:
        assert abs(units - amount * UNIT) < 1e-2


@given(quantities)
def test_a_shape_does_not_depend_on_order_or_zeros(demand: dict[str, int]) -> None:
    backwards = dict(reversed(list(demand.items())))

    assert to_shape(demand) == to_shape(backwards) == to_shape({**demand, "nothing of this": 0})
    assert dict(to_shape(demand)) == {name: units for name, units in demand.items() if units}
    assert to_shape(dict(to_shape(demand))) == to_shape(demand)


def test_demands_are_described_for_people() -> None:
    assert describe({"CPU": 15_000}) == "1.5 CPU"
    assert describe({"GPU": 10_000, "CPU": 20_000, "x": 0}) == "2 CPU, 1 GPU"
    assert describe({}) == "nothing"
