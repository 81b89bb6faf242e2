"""How many GPUs a node has."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbray.cluster import gpus


@pytest.fixture
def four(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    return tmp_path


def test_a_machine_without_the_driver_has_none(tmp_path: Path) -> None:
    assert gpus.count({}, tmp_path / "missing") == 0
    assert gpus.count({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, 4), ({"CUDA_VISIBLE_DEVICES": "1,3"}, 2), ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0), ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937, GPU-a"}, 2),
    ],
)  # fmt: skip
def test_as_many_are_counted_as_are_visible(environment: dict[str, str], found: int, four: Path) -> None:
    assert gpus.count(environment, four) == found
