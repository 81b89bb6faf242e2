"""Object IDs that users make, copy and compare, in a session; and IDs by seed."""

from __future__ import annotations

import copy
import gc
import pickle
import random
from collections.abc import Iterator

import numpy as np
import pytest

import nbray as ray
from tests.support.sessions import await_forgotten, session, this_process

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session(num_cpus=1):
        yield


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def fail() -> None:
    raise ValueError("no")


def handles_of(ref: ray.ObjectID) -> int:
    process = this_process()
    gc.collect()
    with process.loop.lock:
        process.objects.drain()
        entry = process.objects.table.entries.get(ref.binary())
        return entry.handles if entry is not None else 0


def test_an_id_made_of_known_bytes_works_like_the_reference_itself() -> None:
    ref = double.remote(4)

    made = ray.ObjectID(ref.binary())

    assert made == ref
    assert hash(made) == hash(ref)
    assert ray.get(made, timeout=10) == 8
    assert ray.wait([made], timeout=10) == ([ref], [])
    assert ray.get(double.remote(made), timeout=10) == 16
    assert ray.get(ray.get(ray.put([made]))[0]) == 8


def test_an_id_made_of_bytes_holds_its_object_on_its_own() -> None:
    ref = ray.put(np.arange(200_000))
    made = ray.ObjectID(ref.binary())
    assert handles_of(made) == 2

    del ref
    gc.collect()
    assert int(ray.get(made)[-1]) == 199_999
    del made

    await_forgotten()


def test_a_copy_counts_as_a_reference() -> None:
    ref = double.remote(1)
    first, second = copy.copy(ref), copy.deepcopy([ref])[0]

    assert handles_of(ref) == 3
    del ref, second
    assert ray.get(first, timeout=10) == 2
    del first

    await_forgotten()


def test_ids_that_name_nothing_are_refused_at_once() -> None:
    for made in (ray.ObjectID.from_random(), ray.ObjectID.nil(), ray.ObjectID(bytes(20))):
        for use in (
            ray.get,
            lambda ref: ray.wait([ref]),
            double.remote,
            lambda ref: ray.get([ref], timeout=5),
        ):
            with pytest.raises(ray.UnknownObjectError, match="This process knows no object") as caught:
                use(made)
            assert isinstance(caught.value, ray.UnreconstructableError)
            assert caught.value.object_id == made.binary()


def test_an_id_that_names_nothing_travels_as_the_name_it_is() -> None:
    made = ray.ObjectID.from_random()

    @ray.remote
    def look(container: list[ray.ObjectID]) -> bytes:
        return container[0].binary()

    assert ray.get(look.remote([made]), timeout=10) == made.binary()
    assert pickle.loads(pickle.dumps(made)) == made


def test_an_object_that_was_let_go_is_unknown_even_to_one_who_has_its_bytes() -> None:
    binary = double.remote(1).binary()
    await_forgotten()

    with pytest.raises(ray.UnknownObjectError):
        ray.get(ray.ObjectID(binary))


def test_the_id_of_a_failed_task_raises_its_error() -> None:
    ref = fail.remote()

    with pytest.raises(ValueError, match="no"):
        ray.get(ray.ObjectID(ref.binary()), timeout=10)


def test_the_results_of_a_task_name_it() -> None:
    first, second = double.options(num_returns=2).remote(1)

    assert isinstance(first.task_id(), ray.TaskID)
    assert first.task_id() == second.task_id() != double.remote(1).task_id()
    assert repr(first) == f"ObjectID({first.hex()})"


def test_seeding_random_and_numpy_repeats_no_id() -> None:
    made = []
    for _ in range(3):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002  # it is the old generator that people seed
        made += [ray.put(1), double.remote(1)]

    assert len(set(made)) == 6
