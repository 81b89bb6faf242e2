"""IDs as users hold them: made from bytes, compared, pickled, and never repeated."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys

import pytest

import nbray
from nbray.runtime.identifiers import BaseID, JobID, TaskID, UniqueID

CLASSES: list[type[BaseID]] = [
    nbray.ActorCheckpointID, nbray.ActorClassID, nbray.ActorID, nbray.ClientID, nbray.FunctionID, nbray.JobID,
    nbray.TaskID, nbray.UniqueID, nbray.WorkerID,
]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES)
def test_an_id_gives_back_the_bytes_it_was_made_of(cls: type[BaseID]) -> None:
    binary = bytes(range(cls.size()))

    made = cls(binary)

    assert made.binary() == made.id() == binary
    assert made.hex() == binary.hex()
    assert made.size() == len(binary)
    assert repr(made) == f"{cls.__name__}({binary.hex()})"


@pytest.mark.parametrize("cls", CLASSES)
def test_only_bytes_of_the_right_length_make_an_id(cls: type[BaseID]) -> None:
    with pytest.raises(TypeError, match=f"{cls.__name__} takes the bytes of an ID, not str"):
        cls("0" * cls.size())  # type: ignore[arg-type]
    for length in (0, cls.size() - 1, cls.size() + 1):
        with pytest.raises(ValueError, match=f"{cls.__name__} needs to have length {cls.size()}"):
            cls(bytes(length))


@pytest.mark.parametrize("cls", CLASSES)
def test_the_nil_id_is_one_and_random_ones_are_not(cls: type[BaseID]) -> None:
    assert cls.nil() == cls.nil()
    assert cls.nil().is_nil()
    assert not cls.from_random().is_nil()
    assert type(cls.from_random()) is cls


def test_ids_of_two_classes_are_never_equal() -> None:
    binary = bytes(16)

    assert TaskID(binary) == TaskID(binary)
    assert hash(TaskID(binary)) == hash(TaskID(binary))
    assert TaskID(binary) != JobID(binary)
    assert len({TaskID(binary), TaskID(binary), JobID(binary)}) == 2
    assert TaskID(binary) != binary


@pytest.mark.parametrize("cls", CLASSES)
def test_an_id_survives_pickle_and_copy(cls: type[BaseID]) -> None:
    made = cls.from_random()

    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert twin == made
        assert type(twin) is cls


def test_a_job_id_is_made_of_a_small_number() -> None:
    assert JobID.from_int(7) == JobID.from_int(7) != JobID.from_int(8)
    assert JobID.from_int(65535).size() == 16
    for number in (-1, 65536):
        with pytest.raises(ValueError, match="between 0 and 65535"):
            JobID.from_int(number)
    for other in ("7", 7.0, True):
        with pytest.raises(TypeError, match="takes an integer"):
            JobID.from_int(other)  # type: ignore[arg-type]


def test_seeding_random_and_numpy_repeats_no_id() -> None:
    import numpy as np

    drawn = set()
    for _ in range(3):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  # it is the old generator that people seed
        drawn |= {UniqueID.from_random().binary(), nbray.ObjectID.from_random().binary()}

    assert len(drawn) == 6


def test_an_object_id_is_checked_like_any_other_and_is_a_mere_name_without_a_session() -> None:
    with pytest.raises(TypeError, match="ObjectID takes the bytes of an ID, not int"):
        nbray.ObjectID(20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs to have length 20"):
        nbray.ObjectID(bytes(19))

    made = nbray.ObjectID(bytes(range(20)))

    assert made.binary() == made.id() == bytes(range(20))
    assert repr(made) == f"ObjectID({bytes(range(20)).hex()})"
    assert made.size() == nbray.ObjectID.size() == 20
    assert made.task_id() == TaskID(bytes(range(16)))
    assert nbray.ObjectID.nil().is_nil()
    assert not made.is_nil()
    assert made == nbray.ObjectID(made.binary())
    assert len({made, nbray.ObjectID(made.binary()), nbray.ObjectID.nil()}) == 2
    assert made != UniqueID(made.binary())
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert twin == made


def test_importing_nbray_loads_neither_asyncio_nor_the_classic_worker() -> None:
    code = (
        "import sys, nbray; nbray.ObjectID.nil(); nbray.worker\n"
        "print([m for m in ('asyncio', 'numpy', 'nbray.runtime.awaiting', 'nbray.api.classic_worker',"
        " 'nbray.worker.executor', 'nbray.worker.zygote') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
