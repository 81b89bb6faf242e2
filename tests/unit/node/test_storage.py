"""A node's memory and disk, as its user asked for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbray.model.errors import SessionStartError
from nbray.model.limits import STORE_MIN_BYTES
from nbray.model.store_plan import StorePlan
from nbray.node import storage
from nbray.store.budget import MemoryBudget

MIB = 1024 * 1024


@pytest.fixture
def budget() -> MemoryBudget:
    return MemoryBudget()


def test_the_store_has_the_size_that_was_asked_for(budget: MemoryBudget) -> None:
    arena = storage.make_arena(StorePlan(capacity_bytes=80 * MIB + 1), budget)

    assert arena.capacity_bytes == 80 * MIB + 4096
    arena.close()


def test_without_a_size_it_takes_a_share_of_what_is_free(budget: MemoryBudget) -> None:
    arena = storage.make_arena(StorePlan(), budget)

    assert arena.capacity_bytes >= STORE_MIN_BYTES
    assert arena.capacity_bytes == pytest.approx(budget.available() * 0.3, rel=0.3)
    arena.close()


def test_a_store_that_cannot_be_had_says_why(budget: MemoryBudget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbray.store.arena.free_huge_bytes", lambda: 0)
    monkeypatch.setattr(storage, "free_huge_bytes", lambda: 0)

    with pytest.raises(SessionStartError, match=r"of 78643200 bytes cannot be made: .*vm\.nr_hugepages"):
        storage.make_arena(StorePlan(huge_pages=True), budget)
    with pytest.raises(SessionStartError, match="plasma_directory '/no/such/place': No such file"):
        storage.make_arena(StorePlan(arena_directory="/no/such/place"), budget)


def test_huge_pages_are_nobody_elses_memory(budget: MemoryBudget) -> None:
    assert storage.available_memory(StorePlan(huge_pages=True), budget)() > 1 << 50
    assert storage.available_memory(StorePlan(), budget) == budget.available


def test_objects_are_spilled_into_the_sessions_directory_unless_another_was_named() -> None:
    assert storage.spill_plan(StorePlan(), "/s") == (Path("/s/spill"), None, False)
    assert storage.spill_plan(StorePlan(spill_directory="/d", spill_limit_bytes=5), "/s") == (
        Path("/d"), 5, False,
    )  # fmt: skip
    assert storage.spill_plan(StorePlan(spills=False, evicts=True), "/s") == (None, None, True)
