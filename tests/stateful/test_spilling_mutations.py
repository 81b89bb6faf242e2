"""The machine of spilling notices mistakes in the store's hands: each is planted, and must be found.

Called by:  pytest.
Imports:    tests.stateful.test_spilling_machine, nbray.store to break it.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nbray.core.object_moves import Move
from nbray.store import disk_io, disk_jobs
from nbray.store.creating import Creation, Creations
from nbray.store.disk_jobs import DiskJobs
from nbray.store.pressure import Pressure, Wish
from nbray.store.spill_file import SpillFile
from tests.stateful.test_spilling_machine import SpillingMachine

BUDGET = settings(
    max_examples=400, stateful_step_count=100, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip

read_done = DiskJobs._read_done
read_in_place = DiskJobs.read_in_place
write_out = disk_io.write_out
allocate = SpillFile.allocate


def believe_what_comes_back(jobs: DiskJobs, move: Move, is_right: bool, error: BaseException | None) -> None:
    read_done(jobs, move, error is None, error)


def show_what_was_not_looked_at(jobs: DiskJobs, object_id: bytes) -> None:
    copy = jobs._moves.wanted(object_id)
    if copy is not None:
        copy.verified = True
    read_in_place(jobs, object_id)


def write_half_of_it(
    source: int, page_bytes: int, target: int, pieces: Iterable[disk_io.Piece], pulse: disk_io.Pulse
) -> list[int]:
    halves = [piece._replace(size_bytes=piece.size_bytes // 2) for piece in pieces]
    write_out(source, page_bytes, target, halves, pulse)
    return [disk_io.checksum_of(target, piece.target, piece.size_bytes, pulse) for piece in pieces]


def write_to_the_wrong_place(file: SpillFile, size_bytes: int) -> Any:
    extent = allocate(file, size_bytes)
    return extent._replace(offset=0) if extent is not None else None


def never_lose_patience(pressure: Pressure, wish: Wish, now_s: float) -> bool:
    return False


def forget_disk_space(jobs: DiskJobs, extent: object) -> None:
    pass


def refuse_without_a_word(creations: Creations, creation: Creation) -> None:
    creations._waiting.pop(creation.key, None)


MISTAKES: list[tuple[Any, str, Callable[..., Any]]] = [
    (DiskJobs, "_read_done", believe_what_comes_back),
    (DiskJobs, "read_in_place", show_what_was_not_looked_at),
    (disk_jobs, "write_out", write_half_of_it),
    (SpillFile, "allocate", write_to_the_wrong_place),
    (Pressure, "_has_lost_patience", never_lose_patience),
    (DiskJobs, "release", forget_disk_space),
    (Creations, "refuse", refuse_without_a_word),
]


@pytest.mark.stateful
@pytest.mark.parametrize(
    ("place", "name", "mistake"), MISTAKES, ids=[mistake.__name__ for *_, mistake in MISTAKES]
)
def test_the_machine_finds(place: Any, name: str, mistake: Any) -> None:
    with mock.patch.object(place, name, mistake), pytest.raises((AssertionError, ValueError, KeyError)):
        run_state_machine_as_test(SpillingMachine, settings=BUDGET)
