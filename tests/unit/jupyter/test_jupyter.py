"""The magics as plain functions."""

from __future__ import annotations

import pytest

from nbray import jupyter
from tests.unit.jupyter.conftest import FakeSession


def test_status_without_a_session_is_not_an_error(fake: FakeSession) -> None:
    assert repr(jupyter.status()) == "nbray: not running"


def test_status_of_a_session_is_that_of_its_cluster(fake: FakeSession) -> None:
    fake.init(num_cpus=4, object_store_memory=None)

    assert repr(jupyter.status()) == "nbray: 1 node, 4 CPUs"


def test_shutdown_counts_what_it_ended(fake: FakeSession) -> None:
    fake.init(num_cpus=4, object_store_memory=None)

    assert jupyter.shutdown() == 5
    assert jupyter.shutdown() == 0


def test_objects_without_a_session_are_none(fake: FakeSession) -> None:
    assert repr(jupyter.objects()) == "nbray: no objects"


def test_outside_of_a_notebook_there_is_nothing_to_drop() -> None:
    with pytest.raises(ValueError, match="for notebooks"):
        jupyter.drop("Out[3]")
