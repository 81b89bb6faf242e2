"""Every parameter of ``init``: what is accepted, and how the rest is refused."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.api import settings
from nbray.model.errors import SocketPathError
from nbray.model.store_plan import StorePlan

DEFAULTS = {name: p.default for name, p in inspect.signature(nbray.init).parameters.items()}

#: As in the classic tutorials and references of both eras.
E3 = (
    "redis_address node_ip_address object_id_seed num_workers driver_mode redirect_output num_cpus num_gpus "
    "resources num_custom_resource num_redis_shards redis_max_clients plasma_directory huge_pages "
    "include_webui redirect_worker_output object_store_memory"
)
E8 = (
    "address redis_address redis_port num_cpus num_gpus memory object_store_memory resources "
    "driver_object_store_memory redis_max_memory log_to_driver node_ip_address object_id_seed local_mode "
    "redirect_worker_output redirect_output ignore_reinit_error num_redis_shards redis_max_clients "
    "redis_password plasma_directory huge_pages include_java include_webui webui_host job_id "
    "configure_logging logging_level logging_format plasma_store_socket_name raylet_socket_name temp_dir "
    "load_code_from_local java_worker_options use_pickle _internal_config lru_evict"
)


def check(**changes: Any) -> settings.Settings:
    assert set(changes) <= set(DEFAULTS)
    return settings.check({**DEFAULTS, **changes})


def test_init_has_every_parameter_of_both_eras() -> None:
    assert set(E3.split()) | set(E8.split()) <= set(DEFAULTS)


def test_only_the_address_may_be_given_by_position() -> None:
    kinds = {name: p.kind for name, p in inspect.signature(nbray.init).parameters.items()}

    assert [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY] == ["address"]


def test_without_settings_a_node_has_the_cpus_of_this_process_and_its_own_name() -> None:
    wanted = check()

    assert wanted.resources["CPU"] == len(os.sched_getaffinity(0)) * 10_000
    assert wanted.resources["node:127.0.0.1"] == 10_000
    assert (wanted.mode, wanted.store, wanted.job_id, wanted.id_seed) == (0, StorePlan(), None, None)
    assert wanted.notes == []


def test_zeros_vanish_and_no_cpus_are_fine() -> None:
    wanted = check(num_cpus=0, num_gpus=0, resources={"a": 0, "b": 2, "c": 3.0})

    assert wanted.resources == {"node:127.0.0.1": 10_000, "b": 20_000, "c": 30_000}


def test_memory_is_counted_in_units_of_50_mib() -> None:
    assert check(memory=120 << 20).resources["memory"] == 2 * 10_000
    with pytest.raises(ValueError, match="memory must be at least 50 MiB"):
        check(memory=1000)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_cpus": -1}, {"num_cpus": 1.5}, {"num_cpus": 100_001}, {"num_cpus": "2"}, {"num_cpus": True},
        {"num_gpus": -1}, {"num_gpus": 0.5}, {"resources": {"a": -1}}, {"resources": {"a": 1.5}},
        {"resources": {"a": 0.5}}, {"resources": {"a": 100_001}}, {"resources": {"a": "many"}},
        {"resources": {"CPU": 1}}, {"resources": {"GPU": 1}}, {"resources": {"memory": 1}},
        {"resources": {"object_store_memory": 1}}, {"object_store_memory": (75 << 20) - 1},
        {"object_store_memory": -1}, {"memory": -5}, {"num_workers": -1}, {"driver_mode": 1},
        {"driver_mode": 4}, {"driver_mode": "script"}, {"webui_host": "example.org"},
        {"logging_level": "loud"},
        {"_internal_config": "not JSON"}, {"_internal_config": "[1]"}, {"plasma_directory": "/no/such/place"},
        {"object_spilling_directory": "/no/such/place"}, {"object_spilling_limit": 0},
        {"object_spilling_limit": -1}, {"object_spilling": False, "object_spilling_limit": 1 << 30},
        {"object_spilling": False, "object_spilling_directory": "/tmp"},
        {"node_ip_address": "no.such.host.invalid"},
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        check(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"resources": [("a", 1)]}, {"resources": {1: 1}}, {"object_store_memory": 1e9}, {"memory": "1GB"},
        {"job_id": 7}, {"job_id": b"x" * 16}, {"job_id": nbray.TaskID.nil()}, {"object_id_seed": "x"},
        {"num_workers": 1.5}, {"redis_port": "6379"}, {"temp_dir": 3}, {"namespace": 3},
        {"logging_level": None},
        {"logging_format": 7}, {"_internal_config": {}}, {"redis_password": 5},
        {"driver_object_store_memory": "1"},
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_a_type_error(bad: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(bad))):
        check(**bad)


@pytest.mark.parametrize("name", ["plasma_store_socket_name", "raylet_socket_name"])
def test_a_socket_name_over_the_limit_is_an_os_error(name: str) -> None:
    with pytest.raises(OSError, match=name) as caught:
        check(**{name: "/tmp/" + "s" * 103})

    assert isinstance(caught.value, SocketPathError)
    assert check(**{name: "/tmp/" + "s" * 102}).notes


def test_more_gpus_than_are_visible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")

    assert check(num_gpus=2).resources["GPU"] == 20_000
    with pytest.raises(ValueError, match=r"num_gpus=3 is more than the 2 that CUDA_VISIBLE_DEVICES names"):
        check(num_gpus=3)


@pytest.mark.parametrize(("asked", "mode"), [({}, 0), ({"driver_mode": 0}, 0), ({"driver_mode": 3}, 3)])
def test_the_driver_mode_is_one_of_the_classic_numbers(asked: dict[str, Any], mode: int) -> None:
    assert check(**asked).mode == mode


@pytest.mark.parametrize("asked", [{"driver_mode": nbray.PYTHON_MODE}, {"local_mode": True}])
def test_python_mode_is_the_old_name_of_local_mode(asked: dict[str, Any]) -> None:
    wanted = check(**asked)

    assert wanted.is_local
    assert wanted.mode == nbray.LOCAL_MODE


@pytest.mark.parametrize("asked", [
    {"num_workers": 0}, {"num_workers": 7}, {"num_custom_resource": 3}, {"redirect_output": True},
    {"redirect_worker_output": False}, {"use_pickle": False}, {"load_code_from_local": True},
    {"_internal_config": '{"num_heartbeats_timeout": 10}'}, {"include_webui": False},
])  # fmt: skip
def test_what_is_not_needed_any_more_is_accepted_without_a_word(asked: dict[str, Any]) -> None:
    assert check(**asked).notes == []


@pytest.mark.parametrize("asked", [
    {"driver_object_store_memory": 1 << 30},
    {"num_gpus": 1}, {"redis_max_memory": 1 << 30}, {"redis_port": 6379},
    {"num_redis_shards": 2}, {"redis_max_clients": 9},
    {"redis_password": "secret"}, {"include_webui": True}, {"include_java": True},
    {"java_worker_options": "-X"},
])  # fmt: skip
def test_what_has_no_effect_is_said_once_by_name_and_without_its_value(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    (note,) = check(**asked).notes

    assert note.startswith(f"init({next(iter(asked))}=...)")
    assert "secret" not in note


@pytest.mark.parametrize("asked", [
    {"num_cpus": 2}, {"num_cpus": 0}, {"num_gpus": 0}, {"resources": {}}, {"num_workers": 1},
    {"num_redis_shards": 1}, {"redis_max_clients": 1}, {"memory": 1 << 30}, {"object_store_memory": 1 << 30},
    {"redis_max_memory": 1 << 30}, {"plasma_directory": "/tmp"}, {"huge_pages": True}, {"temp_dir": "/tmp"},
    {"plasma_store_socket_name": "/tmp/s"}, {"raylet_socket_name": "/tmp/r"}, {"_internal_config": "{}"},
    {"lru_evict": True}, {"object_spilling": False}, {"object_spilling_directory": "/tmp"},
    {"object_spilling_limit": 1 << 30},
])  # fmt: skip
def test_who_joins_a_cluster_cannot_choose_how_it_is_started(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(asked))} cannot be chosen when joining"):
        settings.refuse_for_joining({**DEFAULTS, **asked})


def test_who_joins_a_cluster_may_choose_what_is_the_drivers_own() -> None:
    own = {"object_id_seed": 1, "log_to_driver": False, "job_id": nbray.JobID.from_int(3), "namespace": "n"}

    settings.refuse_for_joining({**DEFAULTS, **own})
    with pytest.raises(ValueError, match="local_mode"):
        settings.refuse_for_joining({**DEFAULTS, "local_mode": True})


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory", "object_store_memory"])
def test_a_resource_that_has_an_argument_of_its_own_is_an_assertion_error_too(name: str) -> None:
    with pytest.raises(AssertionError, match=f"resources may not name {name}") as caught:
        check(resources={name: 1})

    assert isinstance(caught.value, ValueError)


def test_numbers_of_numpy_are_numbers() -> None:
    wanted = check(
        num_cpus=np.int64(3), resources={"a": np.int32(2)}, object_store_memory=np.int64(80 << 20),
        memory=np.int64(120 << 20), object_id_seed=np.int64(7), driver_mode=np.int64(3),
    )  # fmt: skip

    assert wanted.resources == {"CPU": 30_000, "a": 20_000, "memory": 20_000, "node:127.0.0.1": 10_000}
    assert (wanted.store.capacity_bytes, wanted.id_seed, wanted.mode) == (80 << 20, 7, 3)
    numbers = (wanted.store.capacity_bytes, wanted.id_seed, *wanted.resources.values())
    assert {type(n) for n in numbers} == {int}


def test_what_becomes_of_objects_when_the_store_is_full_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spill").mkdir()

    assert check(object_spilling=False).store == StorePlan(spills=False)
    assert check(lru_evict=True, object_spilling_limit=np.int64(5)).store == StorePlan(
        evicts=True, spill_limit_bytes=5
    )
    assert check(object_spilling_directory="spill").store.spill_directory == str(tmp_path / "spill")
    assert check(plasma_directory="/dev/shm", huge_pages=True).store == StorePlan(
        arena_directory="/dev/shm", huge_pages=True
    )


def test_a_directory_where_nothing_may_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(ValueError, match="object_spilling_directory '/tmp': you may not write there"):
        check(object_spilling_directory="/tmp")


# --- what is watched ------------------------------------------------------------------------------------


def test_memory_is_watched_and_time_is_not_limited_unless_asked() -> None:
    assert (check().memory_threshold, check().task_timeout_s) == (0.95, 0.0)
    asked = check(memory_usage_threshold=0.5, task_timeout_s=7)
    assert (asked.memory_threshold, asked.task_timeout_s) == (0.5, 7.0)


@pytest.mark.parametrize("wrong", [0, -0.1, 1.01, float("nan")])
def test_impossible_marks_of_memory_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="memory_usage_threshold"):
        check(memory_usage_threshold=wrong)


@pytest.mark.parametrize("name", ["memory_usage_threshold", "task_timeout_s"])
def test_what_is_watched_is_set_by_numbers(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        check(**{name: "much"})
