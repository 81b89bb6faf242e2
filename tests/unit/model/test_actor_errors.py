"""Errors of actors: fields and texts, through pickle; who expects what catches it."""

from __future__ import annotations

import pickle

import pytest

from nbray.model.actor_errors import ActorOutOfMemoryError, ActorQuotaError, RayActorError
from nbray.model.ending_errors import RayOutOfMemoryError
from nbray.model.errors import NbrayError, RayWorkerError

ID = "ab" * 12 + "0000001c"
MIB = 1 << 20
EXAMPLES: list[NbrayError] = [
    RayActorError(class_name="Counter", actor_id=ID, why="Its constructor raised."),
    RayActorError(
        class_name="Counter", actor_id=ID, why="Its process (pid 41) died of SIGSEGV.", node="local", pid=41,
        term_signal=11, stderr_tail="Fatal Python error: Segmentation fault\n",
    ),
    ActorOutOfMemoryError(
        class_name="Counter", actor_id=ID, why="It was ended.", node="local", pid=41, term_signal=9,
        where="the machine", used_bytes=9 << 30, limit_bytes=10 << 30, threshold=0.9, held_bytes=300 * MIB,
        by_kernel=False, largest=[("nbray-Counter", 41, 300 * MIB)],
    ),
    ActorQuotaError(
        class_name="Counter", actor_id=ID, method="grow", task_name="Counter.grow", pid=41,
        held_bytes=150 * MIB, limit_bytes=100 * MIB,
    ),
]  # fmt: skip


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_through_pickle_with_its_class_fields_and_text(error: NbrayError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error)
    assert "None" not in str(error)
    assert "Actor Counter 0000001c" in str(error)


def test_last_lines_stand_between_how_it_died_and_what_to_do() -> None:
    lines = str(EXAMPLES[1]).splitlines()

    assert lines[0].endswith("died of SIGSEGV.")
    assert lines[1:3] == ["Last lines on its stderr:", "  Fatal Python error: Segmentation fault"]
    assert lines[3].startswith("Native code crashed")
    assert "max_restarts" in lines[3]


def test_actor_that_was_ended_for_memory_is_caught_as_either() -> None:
    error = EXAMPLES[2]

    assert isinstance(error, RayActorError)
    assert isinstance(error, RayOutOfMemoryError)
    assert "nbray ended the process (pid 41) of Actor Counter 0000001c, which held 300 MiB" in str(error)
    assert "nbray-Counter" in str(error)


def test_actor_over_its_quota_is_alive() -> None:
    error = EXAMPLES[3]

    assert isinstance(error, RayOutOfMemoryError)
    assert not isinstance(error, RayActorError)
    assert isinstance(error, RayWorkerError)
    assert "holds 150 MiB after grow(), and its memory= allows 100 MiB" in str(error)
