"""Local mode: the same program, in one process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbray as ray
from tests.support import procfs

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def local() -> Iterator[None]:
    info = ray.init(local_mode=True, num_cpus=2)
    assert set(info) <= {"node_ip_address", "redis_address", "address", "webui_url"}
    yield
    assert procfs.descendants(os.getpid()) == []
    ray.shutdown()


@ray.remote
def double(x: Any) -> Any:
    return 2 * x


@ray.remote
def factorial(n: int) -> int:
    return 1 if n == 0 else n * ray.get(factorial.remote(n - 1))


def test_a_task_runs_here_and_now_and_returns_a_reference() -> None:
    ran = []

    @ray.remote
    def note(pid: int) -> int:
        ran.append((pid, os.getpid()))
        return os.getpid()

    ref = note.remote(1)

    assert ran == [(1, os.getpid())]
    assert isinstance(ref, ray.ObjectID)
    assert ray.get(ref) == os.getpid()
    assert ray.worker.global_worker.mode == ray.LOCAL_MODE
    assert ray.is_initialized()


def test_arguments_recursion_and_several_results_are_as_on_a_cluster() -> None:
    @ray.remote(num_returns=2)
    def both(a: int, *rest: int, b: int = 5, **more: int) -> tuple[int, int]:
        return a + b, sum(rest) + sum(more.values())

    assert ray.get(factorial.remote(10)) == 3_628_800
    assert ray.get(both.remote(double.remote(1), 3, 4, b=double.remote(3), c=1)) == [8, 8]
    assert double.options(num_returns=0).remote(1) is None
    with pytest.raises(TypeError):
        double.remote()


def test_references_inside_containers_stay_references() -> None:
    @ray.remote
    def look(container: dict[str, Any]) -> Any:
        return ray.get(container["ref"])

    assert ray.get(look.remote({"ref": ray.put(7)})) == 7


def test_values_are_copies_and_arrays_are_read_only() -> None:
    data = {"a": [1]}
    array = np.zeros(1000)

    @ray.remote
    def change(taken: dict[str, list[int]], given: np.ndarray) -> tuple[dict[str, list[int]], np.ndarray]:
        taken["a"].append(2)
        with pytest.raises(ValueError, match="read-only"):
            given[0] = 1
        return taken, given

    stored = ray.put(array)
    changed, same = ray.get(change.remote(data, stored))

    assert data == {"a": [1]}
    assert changed == {"a": [1, 2]}
    for view in (same, ray.get(stored)):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_errors_show_when_the_result_is_asked_for_and_are_passed_on() -> None:
    @ray.remote
    def fail() -> None:
        raise KeyError("gone")

    ref = fail.remote()
    heir = double.remote(ref)

    for failed in (ref, heir):
        with pytest.raises(KeyError, match="gone") as caught:
            ray.get(failed)
        assert isinstance(caught.value, ray.RayTaskError)
    assert ray.wait([ref, heir], num_returns=2) == ([ref, heir], [])


def test_a_task_that_calls_exit_fails_and_the_program_goes_on() -> None:
    @ray.remote
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(ray.RayWorkerError, match="exited with code 3"):
        ray.get(leave.remote())


def test_what_cannot_be_pickled_is_refused_as_on_a_cluster() -> None:
    @ray.remote
    def lock() -> Any:
        return threading.Lock()

    with pytest.raises(ray.SerializationError, match="args"):
        double.remote(threading.Lock())
    with pytest.raises(ray.SerializationError, match="result"):
        ray.get(lock.remote())
    with pytest.raises(ray.SerializationError):
        ray.put(threading.Lock())


def test_a_wrong_number_of_results_is_the_tasks_error() -> None:
    refs = double.options(num_returns=3).remote(1)

    for ref in refs:
        with pytest.raises(ValueError, match="num_returns=3 but returned int"):
            ray.get(ref)


def test_references_can_be_awaited() -> None:
    async def main() -> list[int]:
        return list(await asyncio.gather(double.remote(1), ray.put(5)))

    assert asyncio.run(main()) == [2, 5]


def test_threads_have_tasks_of_their_own() -> None:
    @ray.remote
    def who() -> Any:
        return ray.worker.global_worker.current_task_id

    refs: list[ray.ObjectID] = []
    threads = [threading.Thread(target=lambda: refs.append(who.remote())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ray.get(refs) == [ref.task_id() for ref in refs]
    assert len(set(refs)) == 4


def test_the_status_tells_what_was_done() -> None:
    ray.get([double.remote(i) for i in range(3)])

    assert repr(ray.status()) == "nbray: 1 node, 2 CPUs"
    assert ray.status().to_dict()["tasks"]["finished"] == 3


def test_objects_are_told_with_their_holders_as_on_a_cluster() -> None:
    assert ray.objects() == {}
    x, refs = ray.put(1), [double.remote(2)]

    rows = {row["object"]: row for row in ray.memory().rows}

    assert set(rows) == set(ray.objects()) == {x.hex(), refs[0].hex()}
    put, result = rows[x.hex()], rows[refs[0].hex()]
    assert [holder["name"].split(" ")[0] for holder in put["holders"]] == ["x"]
    assert (put["state"], put["origin"]["kind"], put["origin"]["file"]) == ("inline", "put", __file__)
    assert (result["origin"]["name"], result["leak"]) == ("double", "")


def test_a_session_ends_and_another_begins_with_the_same_functions() -> None:
    old = double.remote(1)

    stopped = ray.shutdown()

    assert repr(stopped) == "nbray: stopped"
    assert not ray.is_initialized()
    with pytest.raises(ray.RayConnectionError):
        ray.get(old)
    ray.init(driver_mode=ray.PYTHON_MODE)
    with pytest.raises(ray.StaleSessionError):
        ray.get(old)
    assert ray.get(double.remote(1)) == 2


def test_nothing_is_kept_of_what_was_let_go() -> None:
    from tests.support.sessions import await_forgotten

    for i in range(50):
        ray.get(double.remote(ray.put(i)))

    await_forgotten()


def test_cancel_comes_too_late_for_every_task_and_refuses_what_was_put() -> None:
    ref = double.remote(21)

    ray.cancel(ref)
    ray.cancel(ref, force=True)

    assert ray.get(ref) == 42
    with pytest.raises(TypeError, match="was put"):
        ray.cancel(ray.put(1))


def test_why_says_that_a_result_is_there() -> None:
    @ray.remote
    def f() -> int:
        return 1

    (link,) = ray.why(f.remote()).links

    assert (link["kind"], link["state"]) == ("object", "inline")
