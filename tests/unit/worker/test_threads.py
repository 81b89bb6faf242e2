"""As many threads of numeric libraries as a task has CPUs, unless the user said otherwise."""

from __future__ import annotations

import os

import pytest

from nbray.worker.threads import VARIABLES, ThreadLimit


@pytest.fixture(autouse=True)
def _as_the_zygote_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")


def test_libraries_are_told_the_number_of_cpus() -> None:
    limit = ThreadLimit()

    limit.set(2)
    assert [os.environ[name] for name in VARIABLES] == ["2", "2", "2"]
    limit.set(1)

    assert [os.environ[name] for name in VARIABLES] == ["1", "1", "1"]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    limit = ThreadLimit()

    limit.set(2)

    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert os.environ["MKL_NUM_THREADS"] == "2"
    limit.set(1)
