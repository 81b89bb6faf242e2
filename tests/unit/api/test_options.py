"""What the options of a remote function may be, and when it is said that one may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbray.api.options import DEFAULT_MAX_RETRIES, TaskOptions
from nbray.model.errors import OptionError, ReservedNameError

MIB = 1024 * 1024
WITH_MEMORY = {"CPU": 20_000, "memory": 1_000_000}


def shape(**options: Any) -> dict[str, int]:
    return dict(TaskOptions(options).shape(WITH_MEMORY))


# --- spelling and types ------------------------------------------------------------------------------


def test_without_options_a_task_takes_one_cpu_and_gives_one_result() -> None:
    options = TaskOptions({})

    assert (options.num_returns, options.max_retries, options.max_calls) == (1, DEFAULT_MAX_RETRIES, 0)
    assert shape() == {"CPU": 10_000}


@pytest.mark.parametrize("name", ["num_cpu", "timeout", "name", ""])
def test_an_unknown_option_is_a_type_error_and_an_assertion_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(OptionError, match="num_gpus") as caught:
        TaskOptions({name: 1})

    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AssertionError)


def test_both_spellings_of_the_number_of_results_mean_the_same_and_exclude_each_other() -> None:
    assert TaskOptions({"num_returns": 3}).num_returns == TaskOptions({"num_return_vals": 3}).num_returns == 3

    with pytest.raises(OptionError, match="one of them"):
        TaskOptions({"num_returns": 3, "num_return_vals": 3})


@pytest.mark.parametrize(("options", "error"), [
    ({"num_returns": -1}, ValueError), ({"num_return_vals": -1}, ValueError),
    ({"num_returns": 1.5}, TypeError),
    ({"num_returns": True}, TypeError), ({"max_retries": -2}, ValueError), ({"max_retries": "3"}, TypeError),
    ({"max_calls": -1}, ValueError), ({"max_calls": 2.0}, TypeError),
    ({"checkpoint_interval": "x"}, TypeError),
    ({"resources": ["a"]}, TypeError), ({"resources": "a"}, TypeError),
    ({"resources": {"CPU": 1}}, ValueError), ({"resources": {"GPU": 1}}, ValueError),
    ({"resources": {"memory": 1}}, ValueError), ({"resources": {"object_store_memory": 1}}, ValueError),
    ({"max_restarts": 1}, ValueError), ({"max_task_retries": 1}, ValueError),
    ({"max_reconstructions": 1}, ValueError), ({"object_store_memory": 10**9}, NotImplementedError),
])  # fmt: skip
def test_what_cannot_be_is_refused_where_it_is_written(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options)).removeprefix("num_return")):
        TaskOptions(options)


def test_an_option_that_is_none_is_not_given() -> None:
    options = TaskOptions({"num_cpus": None, "resources": None, "num_returns": None, "max_calls": None})

    assert options.given == {}


# --- quantities --------------------------------------------------------------------------------------


def test_quantities_are_counted_in_ten_thousandths() -> None:
    given = shape(num_cpus=0.25, num_gpus=2, resources={"disk": 0.0001, "slots": 3}, memory=60 * MIB)

    assert given == {"CPU": 2_500, "GPU": 20_000, "disk": 1, "slots": 30_000, "memory": 20_000}


def test_nothing_at_all_may_be_asked_for() -> None:
    assert shape(num_cpus=0, num_gpus=0, resources={"disk": 0}) == {}


@pytest.mark.parametrize("options", [
    {"num_cpus": -1}, {"num_cpus": 1.5}, {"num_cpus": "2"}, {"num_cpus": 0.00001}, {"num_cpus": float("nan")},
    {"num_gpus": -0.5}, {"num_gpus": 2.5}, {"num_gpus": True}, {"resources": {"disk": 1.1}},
    {"memory": 50 * MIB - 1}, {"memory": 0}, {"memory": "1 GB"}, {"memory": float("inf")},
    {"memory": float("nan")},
])  # fmt: skip
def test_an_impossible_quantity_is_accepted_where_it_is_written_and_refused_by_the_call(
    options: dict[str, Any],
) -> None:
    written = TaskOptions(options)

    with pytest.raises(ValueError, match=r"must be|can be split|whole number"):
        written.shape(WITH_MEMORY)


def test_memory_is_reserved_where_the_cluster_knows_how_much_it_has() -> None:
    options = TaskOptions({"memory": 100 * MIB + 1})

    assert dict(options.shape(WITH_MEMORY))["memory"] == 30_000
    assert dict(options.shape({"CPU": 20_000})) == {"CPU": 10_000}


# --- changes -----------------------------------------------------------------------------------------


def test_changed_options_keep_the_others() -> None:
    options = TaskOptions({"num_cpus": 2, "num_return_vals": 3, "max_retries": 0})

    changed = options.replaced({"num_returns": 2, "resources": {"disk": 1}, "num_cpus": None})

    assert (changed.num_returns, changed.max_retries) == (2, 0)
    assert dict(changed.shape({})) == {"CPU": 20_000, "disk": 10_000}
    assert options.num_returns == 3


def test_max_calls_may_be_changed_too() -> None:
    assert TaskOptions({"max_calls": 3}).replaced({"max_calls": 5}).max_calls == 5


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory", "object_store_memory"])
def test_a_resource_that_has_an_option_of_its_own_is_an_assertion_error_too(name: str) -> None:
    with pytest.raises(ReservedNameError, match=name) as caught:
        TaskOptions({"resources": {name: 1}})

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AssertionError)


def test_numbers_of_numpy_are_numbers() -> None:
    options = TaskOptions({"num_returns": np.int64(2), "max_retries": np.int8(-1), "max_calls": np.uint8(3)})

    assert (options.num_returns, options.max_retries, options.max_calls) == (2, -1, 3)
    assert type(options.num_returns) is int
    assert shape(num_cpus=np.float32(0.5), resources={"a": np.int64(2)}) == {"CPU": 5_000, "a": 20_000}
    assert shape(memory=np.int64(60 * MIB))["memory"] == 20_000
    with pytest.raises(ValueError, match="num_cpus"):
        shape(num_cpus=np.True_)
