"""References inside values of every kind are counted: they lead to their objects, and let go of them."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.references import KINDS, LAST, Point, go_all_ways, last_of, new_object
from tests.support.sessions import await_empty_store, await_forgotten, session, store_figures

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.mark.parametrize("third", range(3))  # of the kinds: a leak is narrowed down, and seldom waited for
def test_reference_in_a_value_leads_to_its_object_and_lets_go_of_it(third: int) -> None:
    for name in list(KINDS)[third::3]:
        go_all_ways(name)

    await_empty_store()
    await_forgotten()


def test_views_and_references_in_a_workers_garbage_do_not_keep_their_objects() -> None:
    @nbray.remote
    def leave_cycles(array: Any, box: list[Any]) -> None:
        cycle: list[Any] = [array, box[0], nbray.put(np.arange(LAST))]
        cycle.append(cycle)

    nbray.get(leave_cycles.remote(new_object(), [new_object()]))

    await_empty_store()


def test_what_a_worker_keeps_on_purpose_stays_while_it_is_idle() -> None:
    @nbray.remote
    def keep(box: list[Any]) -> None:
        import builtins

        builtins.__dict__["_nbray_test_kept"] = box

    @nbray.remote
    def read_kept(drop: bool) -> int | None:
        import builtins

        box = builtins.__dict__.get("_nbray_test_kept")
        if drop:
            builtins.__dict__.pop("_nbray_test_kept", None)
        return last_of(box[0]) if box else None

    nbray.get(keep.remote([new_object()]))
    gc.collect()
    threading.Event().wait(0.3)  # it is idle, and looks for garbage

    assert store_figures()["objects"] == 1
    assert LAST in nbray.get([read_kept.remote(False) for _ in range(20)])
    nbray.get([read_kept.remote(True) for _ in range(20)])
    await_empty_store()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_of_containers_hold_what_is_in_them(again: Callable[[Any], Any]) -> None:
    ref = new_object()
    held = again({"point": Point(again(ref))})

    del ref
    gc.collect()

    assert last_of(held["point"].x) == LAST
    del held
    await_empty_store()
    await_forgotten()
