"""``object_id_seed``: a driver that names its objects alike in each of its runs."""

from __future__ import annotations

import pytest

import nbray as ray
from tests.support.sessions import session

pytestmark = pytest.mark.integration


@ray.remote
def nested() -> list[bytes]:
    return [ray.put(1).binary()]


def ids_of_a_session(seed: int | None) -> tuple[list[bytes], list[bytes]]:
    with session(num_cpus=1, object_id_seed=seed):
        refs = [ray.put(0), nested.remote(), *nested.options(num_returns=2).remote(), ray.put(b"x" * 200_000)]
        return [ref.binary() for ref in refs], ray.get(refs[1], timeout=20)


def test_the_same_seed_gives_the_same_ids_in_the_driver_and_another_gives_others() -> None:
    one, in_task_one = ids_of_a_session(7)
    again, in_task_again = ids_of_a_session(7)
    other, _ = ids_of_a_session(8)
    free, _ = ids_of_a_session(None)

    assert one == again
    assert len({*one, *other, *free}) == 3 * len(one)
    assert in_task_one != in_task_again  # "in that driver": what its tasks make belongs to their job
