"""More objects than the store holds: all are kept, on the disk, and come back; and what happens if not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray as ray
from nbray.model.errors import SessionStartError
from tests.support.sessions import await_empty_store, session, store_figures
from tests.support.waiting import until

pytestmark = pytest.mark.integration

MIB = 1 << 20
STORE = 80 * MIB
SIZE = 16 * MIB
PATIENCE_S = 2.5


@ray.remote
def total(*arrays: Any) -> int:
    return sum(int(array[::4096].astype(np.int64).sum()) for array in arrays)


@ray.remote
def full(n: int) -> Any:
    return np.full(SIZE, n, np.uint8)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "nbray-test", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def array(n: int, size_bytes: int = SIZE) -> Any:
    return np.full(size_bytes, n, np.uint8)


def is_right(found: Any, n: int) -> bool:
    return len(found) == SIZE and bool((found == n).all())


def put_until_refused(most: int = 40) -> tuple[list[Any], str]:
    """References of what was taken, and what the refusal says, which has to come in time."""
    refs: list[Any] = []
    for n in range(most):
        started_s = time.monotonic()
        try:
            refs.append(ray.put(array(n)))
        except ray.ObjectStoreFullError as exc:
            assert time.monotonic() - started_s < PATIENCE_S
            return refs, str(exc)
    raise AssertionError(f"{most} arrays were taken")


def daemon() -> int:
    pid: int = ray.status().to_dict()["processes"]["daemon"]
    return pid


def spill_file(directory: Path | str) -> str:
    """A way to the file that has no name in this directory."""
    for path in Path(f"/proc/{daemon()}/fd").iterdir():
        if str(directory) in os.readlink(path) and "deleted" in os.readlink(path):
            return str(path)
    raise AssertionError(f"the daemon has no nameless file in {directory}")


def test_twelve_arrays_in_a_store_that_holds_five_are_all_right(folder: Path) -> None:
    with session(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(folder)):
        refs = [ray.put(array(n)) for n in range(12)]
        assert store_figures()["spilled_bytes"] >= 7 * SIZE
        assert list(folder.iterdir()) == []

        for n, ref in enumerate(refs):
            assert is_right(ray.get(ref, timeout=10), n)
        assert ray.get([total.remote(ref) for ref in refs], timeout=20) == [n * 4096 for n in range(12)]

        # all at once: more than fits, so that some are read on the disk
        views = ray.get(refs, timeout=20)
        assert all(is_right(view, n) for n, view in enumerate(views))
        del views, refs, ref
        await_empty_store()
        until(lambda: store_figures()["spill_file_bytes"] == 0, "the disk is given back")
        assert os.stat(spill_file(folder)).st_blocks == 0
    assert list(folder.iterdir()) == []


def test_an_object_larger_than_the_store_is_read_on_the_disk_and_people_are_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with session(num_cpus=1, object_store_memory=STORE):
        large = np.arange(15_000_000)  # 120 MB
        ref = ray.put(large)

        assert (ray.get(ref, timeout=10) == large).all()
        assert ray.get(total.remote(ref), timeout=10) == int(large[::4096].sum())
        until(
            lambda: "larger than the whole object store of 80.0 MiB" in capfd.readouterr().err, "it is told"
        )
        assert store_figures()["used_bytes"] == 0
        del ref
        await_empty_store()
        until(lambda: store_figures()["spill_file_bytes"] == 0, "the disk is given back")


def test_wait_counts_what_lies_on_the_disk_as_ready_and_leaves_it_there() -> None:
    with session(num_cpus=2, object_store_memory=STORE):
        refs = [ray.put(array(n)) for n in range(10)]

        assert ray.wait(refs, num_returns=10, timeout=0) == (refs, [])
        assert store_figures()["total_objects_restored"] == 0
        assert store_figures()["spilled"] >= 5


def test_results_of_tasks_are_spilled_too(folder: Path) -> None:
    with session(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(folder)):
        refs = [full.remote(n) for n in range(10)]

        assert all(is_right(ray.get(ref, timeout=20), n) for n, ref in enumerate(refs))
        assert store_figures()["total_objects_spilled"] >= 5
        assert store_figures()["total_spill_failures"] == 0


def test_tasks_whose_arguments_exceed_the_store_together_all_run() -> None:
    with session(num_cpus=2, object_store_memory=STORE):
        first = [ray.put(array(n)) for n in range(3)]
        second = [ray.put(array(n)) for n in range(3)]
        third = [ray.put(array(n)) for n in range(3)]

        sums = ray.get([total.remote(*refs) for refs in (first, second, third)], timeout=20)

        assert sums == [3 * 4096] * 3


def test_a_store_full_of_arrays_that_somebody_holds_says_so_and_names_them() -> None:
    with session(num_cpus=1, object_store_memory=STORE):
        refs = [ray.put(array(n)) for n in range(4)]
        views = ray.get(refs, timeout=10)

        more, text = put_until_refused(3)
        assert "All of it is in use" in text
        assert text.count("16.0 MiB  sealed, in its owner's hand") >= 4

        del views
        refs.append(ray.put(array(4)))
        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs))
        assert len(more) <= 1


def test_arrays_in_cycles_are_collected_before_anything_is_refused() -> None:
    with session(num_cpus=1, object_store_memory=STORE):
        for n in range(4):
            cycle: list[Any] = [ray.get(ray.put(array(n)), timeout=10)]
            cycle.append(cycle)
            del cycle

        assert is_right(ray.get(ray.put(array(7)), timeout=10), 7)


def test_a_full_disk_is_typed_everything_stays_readable_and_it_recovers(small_disk: Path) -> None:
    with session(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(small_disk)):
        refs, text = put_until_refused()
        assert f"The disk of {small_disk} has no room for objects" in text
        assert len(refs) >= 6

        for n, ref in enumerate(refs):
            assert is_right(ray.get(ref, timeout=10), n)

        del refs[:3]
        until(lambda: store_figures()["objects"] <= len(refs), "the first three are freed")
        time.sleep(1.0)  # the disk has a rest after a refusal
        refs.append(ray.put(array(99)))
        assert is_right(ray.get(refs[-1], timeout=10), 99)
        assert is_right(ray.get(refs[0], timeout=10), 3)


def test_a_directory_that_vanishes_before_it_is_used_is_typed(folder: Path) -> None:
    gone = folder / "a" / "b"
    gone.mkdir(parents=True)
    with session(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(gone)):
        gone.rmdir()
        gone.parent.rmdir()

        refs, text = put_until_refused()

        assert f"Objects cannot be written to {gone}: No such file or directory" in text
        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs))
        gone.parent.mkdir()
        time.sleep(1.0)  # the disk has a rest after a refusal
        assert is_right(ray.get(ray.put(array(9)), timeout=10), 9)


def test_a_directory_that_vanishes_while_it_is_used_does_no_harm(folder: Path) -> None:
    directory = folder / "spill"
    directory.mkdir()
    with session(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(directory)):
        refs = [ray.put(array(n)) for n in range(7)]
        directory.rmdir()

        refs += [ray.put(array(n)) for n in range(7, 10)]

        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs))


def test_damaged_bytes_are_computed_again_or_are_an_error(folder: Path) -> None:
    with session(num_cpus=2, object_store_memory=STORE, object_spilling_directory=str(folder)):
        result, value = full.remote(1), ray.put(array(2))
        ray.wait([result], timeout=10)
        more = [ray.put(array(n)) for n in range(10, 18)]
        path = spill_file(folder)
        with open(path, "r+b") as file:
            for at in range(0, os.stat(path).st_size, MIB):
                file.seek(at)
                file.write(b"damaged")

        assert is_right(ray.get(result, timeout=20), 1)
        with pytest.raises(ray.UnreconstructableError, match="damaged"):
            ray.get(value, timeout=20)
        del more


def test_the_limit_on_the_disk_holds(folder: Path) -> None:
    with session(
        num_cpus=1,
        object_store_memory=STORE,
        object_spilling_directory=str(folder),
        object_spilling_limit=3 * SIZE,
    ):
        refs, text = put_until_refused()

        assert "object_spilling_limit is reached: 48.0 MiB" in text
        assert store_figures()["spill_file_bytes"] <= 3 * SIZE
        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs))


def test_without_spilling_a_full_store_refuses() -> None:
    with session(num_cpus=1, object_store_memory=STORE, object_spilling=False):
        refs, text = put_until_refused()
        assert "object_spilling=False" in text
        assert len(refs) in {4, 5}

        with pytest.raises(ray.ObjectStoreFullError, match="larger than the whole object store"):
            ray.put(array(0, 2 * STORE))


def test_where_objects_are_evicted_results_are_computed_again_and_puts_are_lost(folder: Path) -> None:
    with session(
        num_cpus=2, object_store_memory=STORE, lru_evict=True, object_spilling_directory=str(folder)
    ):
        result, value = full.remote(1), ray.put(array(2))
        ray.wait([result], timeout=10)

        more = [ray.put(array(n)) for n in range(10, 18)]

        assert store_figures()["total_objects_spilled"] == 0
        assert is_right(ray.get(more[-1], timeout=10), 17)
        with pytest.raises(ray.UnreconstructableError, match="evicted"):
            ray.get(value, timeout=20)
        assert is_right(ray.get(result, timeout=20), 1)


def test_weak_puts_are_evicted_and_others_are_not() -> None:
    with session(num_cpus=1, object_store_memory=STORE):
        weak, strong = ray.put(array(1), weakref=True), ray.put(array(2))
        more = [ray.put(array(n)) for n in range(10, 16)]

        assert is_right(ray.get(strong, timeout=10), 2)
        with pytest.raises(ray.UnreconstructableError, match="evicted"):
            ray.get(weak, timeout=10)
        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(more, 10))


def test_a_daemon_that_is_killed_leaves_nothing_on_the_disk(folder: Path) -> None:
    with session(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(folder)):
        refs = [ray.put(array(n)) for n in range(8)]
        os.kill(daemon(), 9)

        with pytest.raises(ray.RayError):
            ray.get([ray.put(array(9)), *refs], timeout=10)
    assert list(folder.iterdir()) == []


def test_shared_memory_may_lie_in_a_directory(folder: Path) -> None:
    with session(num_cpus=1, object_store_memory=STORE, plasma_directory=str(folder)):
        refs = [ray.put(array(n)) for n in range(7)]

        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs))
        assert ray.get(total.remote(refs[1]), timeout=10) == 4096
        assert os.stat(spill_file(folder)).st_size == STORE
        assert list(folder.iterdir()) == []


def huge_pages_free() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("HugePages_Free")), 0)


def test_huge_pages_that_the_machine_does_not_have_are_refused_with_what_to_do(folder: Path) -> None:
    if huge_pages_free() * 2 * MIB >= STORE:
        pytest.skip("this machine has reserved huge pages")
    with pytest.raises(SessionStartError, match=r"vm\.nr_hugepages"):
        ray.init(num_cpus=1, object_store_memory=STORE, huge_pages=True)
    with pytest.raises(SessionStartError, match="hugetlbfs"):
        ray.init(num_cpus=1, object_store_memory=STORE, huge_pages=True, plasma_directory=str(folder))


def test_shared_memory_may_consist_of_huge_pages() -> None:
    if huge_pages_free() * 2 * MIB < STORE:
        pytest.skip("this machine has not reserved enough huge pages")
    with session(num_cpus=1, object_store_memory=STORE, huge_pages=True):
        refs = [ray.put(array(n)) for n in range(8)]
        refs.append(ray.put(array(8, 200 * MIB)))

        assert all(is_right(ray.get(ref, timeout=10), n) for n, ref in enumerate(refs[:-1]))
        assert ray.get(total.remote(refs[1]), timeout=10) == 4096
        assert (ray.get(refs[-1], timeout=10) == 8).all()
