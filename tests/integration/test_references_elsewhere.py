"""References inside values in local mode, in other processes, and in pickles that a user made."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from typing import Any

import pytest

import nbray
from tests.support.references import KINDS, LAST, Point, go_all_ways, last_of, new_object
from tests.support.sessions import await_empty_store, await_forgotten, session, store_figures

pytestmark = pytest.mark.integration


def test_references_in_values_are_counted_in_local_mode_too() -> None:
    with session(num_cpus=2, local_mode=True):
        for name in KINDS:
            go_all_ways(name)

        await_empty_store()
        await_forgotten()


def name_of(box: list[Any]) -> tuple[bytes, str]:
    try:
        nbray.get(box[0])
    except nbray.RayConnectionError as exc:
        return box[0].binary(), str(exc)
    return box[0].binary(), "it had a session"


def test_reference_that_goes_through_a_pool_of_processes_comes_back() -> None:
    with session(num_cpus=1):
        ref = new_object()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            binary, text = pool.apply_async(name_of, ([ref],)).get(10)
            back: Any = pool.apply_async(list, ([ref],)).get(10)[0]
            pool.close()
            pool.join()

        assert (binary, back) == (ref.binary(), ref)
        assert "fork" in text
        del ref
        assert last_of(back) == LAST


def test_reference_pickled_by_hand_holds_its_object_for_good() -> None:
    with session(num_cpus=1):
        pickled = pickle.dumps({"point": Point(new_object())})

        gc.collect()

        assert store_figures()["objects"] == 1
        assert last_of(pickle.loads(pickled)["point"].x) == LAST
