"""Errors of tasks that nbray ended: their words, their bases, their pickles."""

from __future__ import annotations

import pickle

import pytest

import nbray
from nbray.model.ending_errors import RayOutOfMemoryError, TaskTimeoutError
from nbray.model.errors import RayWorkerError

GIB = 1 << 30
FIELDS = {"task_name": "eat", "attempt": 2, "max_attempts": 4, "pid": 77, "term_signal": 9}
OF_MEMORY = RayOutOfMemoryError(
    where="the machine", used_bytes=23 * GIB, limit_bytes=24 * GIB, threshold=0.95, held_bytes=3 * GIB,
    largest=[["nbray-worker (eat)", 77, 3 * GIB], ["firefox", 12, 2 * GIB]], **FIELDS,  # type: ignore[arg-type]
)  # fmt: skip
OF_TIME = TaskTimeoutError(limit_s=2.5, **FIELDS)


def test_out_of_memory_names_what_was_full_who_was_ended_and_the_largest_processes() -> None:
    text = str(OF_MEMORY)

    for part in ("23.00 of 24.00 GiB of the machine", "96%", "95%", "pid 77", "eat", "attempt 2 of 4"):
        assert part in text
    assert text.index("nbray-worker (eat)") < text.index("firefox")


def test_out_of_memory_by_the_kernel_claims_no_figure_that_nobody_saw() -> None:
    text = str(RayOutOfMemoryError(by_kernel=True, limit_bytes=GIB, used_bytes=5, **FIELDS))  # type: ignore[arg-type]

    assert "The kernel ended" in text
    assert "1.00 GiB of the machine were used up" in text


def test_timeout_says_how_long_it_was_allowed() -> None:
    assert "task_timeout_s=2.5" in str(OF_TIME)
    assert isinstance(OF_TIME, TimeoutError)


@pytest.mark.parametrize("error", [OF_MEMORY, OF_TIME])
def test_ending_errors_travel(error: RayWorkerError) -> None:
    again = pickle.loads(pickle.dumps(error))

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.pid == 77
    assert isinstance(again, RayWorkerError)


def test_out_of_memory_has_both_names() -> None:
    assert nbray.OutOfMemoryError is nbray.RayOutOfMemoryError is RayOutOfMemoryError
