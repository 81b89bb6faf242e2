"""Values: zero copies, read-only, kept while somebody looks at them, gone when nobody does."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.model.ids import short
from tests.support.sessions import await_empty_store, session, store_figures
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

MIB = 1 << 20
STORE_BYTES = 160 * MIB
ROOM_BYTES = 20 * MIB


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    # (What spilling does is told in test_spilling.)
    with session(num_cpus=2, object_store_memory=STORE_BYTES, object_spilling=False):
        yield


@pytest.fixture(autouse=True)
def _nothing_stays_in_the_store(_cluster: None) -> Iterator[None]:
    """Every test of this module lets go of all it had: then the store is empty."""
    yield
    await_empty_store()


def bytes_like(seed: int, size_bytes: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size_bytes, dtype=np.uint8)


def overwrite_free_space(seed: int) -> None:
    """Put and drop other bytes until every free page of the store has been written."""
    kept = [nbray.put(bytes_like(seed + n, ROOM_BYTES)) for n in range(STORE_BYTES // ROOM_BYTES - 2)]
    kept.clear()


# --- reading --------------------------------------------------------------------------------------------


def test_large_array_is_a_read_only_view_that_nothing_makes_writable() -> None:
    array = nbray.get(nbray.put(np.arange(500_000)))

    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    with pytest.raises(ValueError, match="WRITEABLE"):
        array[5:].setflags(write=True)
    assert array.sum() == np.arange(500_000).sum()


def test_two_gets_read_the_same_memory() -> None:
    ref = nbray.put(np.arange(500_000))

    first, second = nbray.get(ref), nbray.get(ref)

    assert np.shares_memory(first, second)


def test_arguments_and_results_are_read_only_too() -> None:
    @nbray.remote
    def flags(a: Any, b: Any) -> tuple[bool, bool]:
        return a.flags.writeable, b.flags.writeable

    @nbray.remote
    def ones() -> Any:
        return np.ones(200_000)

    ref = nbray.put(np.ones(200_000))

    assert nbray.get(flags.remote(ref, np.ones(200_000))) == (False, False)
    assert not nbray.get(ones.remote()).flags.writeable


def test_arrays_at_any_depth_come_back_as_views() -> None:
    value = {"a": [np.arange(100_000), (np.arange(50_000.0), "text")], "b": None}

    back = nbray.get(nbray.put(value))

    assert (back["a"][0] == value["a"][0]).all()  # type: ignore[index]
    assert (back["a"][1][0] == np.arange(50_000.0)).all()
    assert not back["a"][0].flags.writeable
    assert not back["a"][1][0].flags.writeable


@pytest.mark.parametrize("make", [
    lambda: np.empty(0),
    lambda: np.empty((0, 5), dtype=np.int8),
    lambda: b"",
    lambda: [np.empty(0), np.ones(100_000), np.empty(0)],
    lambda: bytearray(300_000),
    lambda: b"x" * 300_000,
    lambda: "é" * 300_000,
], ids=["no rows", "no rows 2d", "no bytes", "empty among full", "bytearray", "bytes", "text"])  # fmt: skip
def test_odd_sizes_survive(make: Any) -> None:
    @nbray.remote
    def same(value: Any) -> Any:
        return value

    value = make()

    for back in (
        nbray.get(nbray.put(value)),
        nbray.get(same.remote(value)),
        nbray.get(same.remote(nbray.put(value))),
    ):
        assert type(back) is type(value)
        np.testing.assert_equal(back, value)


@pytest.mark.parametrize("size_bytes", [102_300, 102_400, 102_401, 102_500])
def test_values_around_the_inline_limit_survive(size_bytes: int) -> None:
    @nbray.remote
    def turned(value: bytes) -> bytes:
        return value[::-1]

    value = bytes(range(256)) * (size_bytes // 256) + bytes(size_bytes % 256)

    assert nbray.get(turned.remote(value)) == value[::-1]
    assert nbray.get(nbray.put(value)) == value


def test_many_buffers_in_one_object_survive() -> None:
    arrays = [np.full(n % 40, n) for n in range(2_000)]

    back = nbray.get(nbray.put(arrays))

    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(arrays, back, strict=True))


def test_exact_types_survive() -> None:
    value = [
        np.float32(1.5),
        np.datetime64("2020-01-01"),
        {1, 2},
        frozenset("ab"),
        2**200,
        1j,
        range(3),
        None,
    ]

    back = nbray.get(nbray.put(value))

    assert back == value
    assert [type(v) for v in back] == [type(v) for v in value]


# --- lifetime -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("derive", [
    lambda a: a,
    lambda a: a[100:200],
    lambda a: a.reshape(-1, 2)[::3],
    lambda a: np.frombuffer(a, dtype=np.uint8),
    memoryview,
    lambda a: a.view(np.uint16),
    lambda a: np.asarray(memoryview(a)[10:5000]),
], ids=["whole", "slice", "reshaped", "frombuffer", "memoryview", "view", "asarray"])  # fmt: skip
def test_view_keeps_its_bytes_after_the_reference_is_gone(derive: Any) -> None:
    original = bytes_like(1, 4 * MIB)
    ref = nbray.put(original)
    view = derive(nbray.get(ref))
    expected = bytes(derive(original))

    del ref
    overwrite_free_space(100)

    assert bytes(view) == expected


def test_views_of_an_argument_in_a_workers_global_stay_right(tmp_path: Path) -> None:
    @nbray.remote
    def keep(array: Any) -> int:
        import builtins

        kept: list[Any] = builtins.__dict__.setdefault("_nbray_test_kept", [])
        kept.append(array[1_000:2_000])
        import os

        return os.getpid()

    @nbray.remote
    def kept(drop: bool) -> Any:
        import builtins
        import os

        views = builtins.__dict__.get("_nbray_test_kept", [])
        answer = os.getpid(), [bytes(view) for view in views]
        if drop:
            views.clear()
        return answer

    original = bytes_like(2, 4 * MIB)
    ref = nbray.put(original)
    assert nbray.get(keep.remote(ref))
    large = bytes_like(3, 4 * MIB)
    assert nbray.get(keep.remote(large))  # an argument that only the task held

    del ref
    overwrite_free_space(200)

    def all_kept(drop: bool) -> list[bytes]:
        answers = dict(nbray.get([kept.remote(drop) for _ in range(20)]))
        return sorted(view for views in answers.values() for view in views)

    right = sorted([bytes(original[1_000:2_000]), bytes(large[1_000:2_000])])
    until(lambda: all_kept(False) == right, "both views are found, unchanged")
    assert store_figures()["objects"] == 2
    until(lambda: not all_kept(True), "the views are dropped")


def test_argument_given_twice_goes_when_the_last_view_in_its_worker_does() -> None:
    @nbray.remote
    def keep_for_a_moment(array: Any, _same: Any) -> None:
        threading.Timer(0.1, len, [array]).start()

    # given a worker in which a view of an argument that it was given twice outlives the task
    ref = nbray.put(np.zeros(MIB))
    nbray.get(keep_for_a_moment.remote(ref, ref))

    # when the owner lets go, and then the worker
    del ref

    # then the memory comes back
    await_empty_store()


def test_space_comes_back_when_the_last_of_reference_and_view_goes() -> None:
    ref = nbray.put(np.ones(500_000))
    view = nbray.get(ref)[10:20]
    assert store_figures()["objects"] == 1

    del ref
    until(lambda: store_figures()["objects"] == 1, "the view holds it")
    assert view.sum() == 10

    del view
    await_empty_store()


def test_references_dropped_before_their_tasks_are_done_leave_nothing(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @nbray.remote
    def large(path: str) -> Any:
        import os

        while not os.path.exists(path):
            time.sleep(0.002)
        return np.ones(300_000)

    refs = [large.remote(str(go_on)) for _ in range(6)]
    del refs
    go_on.touch()

    def all_finished() -> bool:
        counts = nbray.status().to_dict()["functions"].get("large", {})
        return bool(counts.get("finished", 0) >= 6)

    until(all_finished, "all six ran")
    await_empty_store()


def test_argument_that_is_dropped_at_once_is_there_when_the_task_runs() -> None:
    @nbray.remote
    def total(array: Any) -> float:
        return float(array.sum())

    refs = [total.remote(nbray.put(np.full(200_000, n))) for n in range(12)]

    assert nbray.get(refs) == [200_000.0 * n for n in range(12)]


def test_four_tasks_with_one_large_array_take_its_memory_once(tmp_path: Path) -> None:
    @nbray.remote(num_cpus=0)
    def look(array: Any, folder: str, mine: int) -> float:
        import os

        open(f"{folder}/{mine}", "w").close()
        while not os.path.exists(f"{folder}/go on"):
            time.sleep(0.002)
        return float(array[-1])

    ref = nbray.put(np.arange(5_000_000.0))  # 40 MB
    before = store_figures()["used_bytes"]

    refs = [look.remote(ref, str(tmp_path), n) for n in range(4)]
    until(lambda: len(list(tmp_path.iterdir())) == 4, "all four have the array")
    during = store_figures()["used_bytes"]
    (tmp_path / "go on").touch()

    assert nbray.get(refs) == [4_999_999.0] * 4
    assert during == before


# --- references inside values ---------------------------------------------------------------------------


def test_references_inside_values_arrive_as_references_and_lead_to_the_values(tmp_path: Path) -> None:
    @nbray.remote
    def inner(n: int) -> Any:
        return nbray.put(n * 11)  # the task ends; its value must not

    @nbray.remote
    def open_all(values: dict[str, Any]) -> tuple[list[str], list[int]]:
        refs = [*values["list"], values["deep"][0]["ref"]]
        small, large, later, deep = nbray.get(refs)
        return [type(ref).__name__ for ref in refs], [small, int(large.sum()), later, deep]

    @nbray.remote
    def seven() -> int:
        return 7

    @nbray.remote
    def opens_for_another(refs: list[Any]) -> Any:
        return nbray.get(open_all.remote({"list": refs, "deep": [{"ref": refs[0]}]}))

    refs = [nbray.put(1), nbray.put(np.ones(200_000)), seven.remote()]
    right = (["ObjectRef"] * 4, [1, 200_000, 7, 1])

    assert nbray.get(open_all.remote({"list": refs, "deep": [{"ref": refs[0]}]})) == right
    assert nbray.get(opens_for_another.remote(refs)) == right  # a borrower hands them on
    assert nbray.get(nbray.get([inner.remote(n) for n in range(3)])) == [0, 11, 22]


@pytest.mark.parametrize("kind", ["put", "result", "result to come"])
def test_small_value_can_be_read_while_its_owner_holds_its_gil(kind: str, tmp_path: Path) -> None:
    @nbray.remote
    def read(refs: list[Any], folder: str) -> tuple[int, float]:
        open(f"{folder}/started", "w").close()
        while not Path(f"{folder}/go").exists():
            time.sleep(0.002)
        return nbray.get(refs[0]), time.monotonic()  # one clock for the whole machine

    @nbray.remote
    def seven(folder: str) -> int:
        while kind == "result to come" and not Path(f"{folder}/started").exists():
            time.sleep(0.002)
        return 7

    ref = nbray.put(7) if kind == "put" else seven.remote(str(tmp_path))
    if kind == "result":
        nbray.wait([ref])
    answer = read.remote([ref], str(tmp_path))
    numbers = np.random.default_rng(1).integers(0, 1 << 60, 1_500_000).tolist()
    until((tmp_path / "started").exists, "the reader has started")
    until(lambda: store_figures()["objects"] == 1, "the value has moved to the store")

    (tmp_path / "go").touch()
    numbers.sort()  # one call of C: no other thread of this process runs meanwhile
    sorted_s = time.monotonic()

    value, read_s = nbray.get(answer)
    assert value == 7
    assert read_s < sorted_s, f"the reader waited {read_s - sorted_s:.3f} s for the owner"


# --- a store that is full -------------------------------------------------------------------------------


def test_full_store_says_so_soon_names_what_it_holds_and_recovers() -> None:
    kept = [nbray.put(bytes_like(n, ROOM_BYTES)) for n in range(7)]
    started_s = time.monotonic()

    with pytest.raises(nbray.ObjectStoreFullError) as caught:
        kept.append(nbray.put(bytes_like(9, 2 * ROOM_BYTES)))

    assert time.monotonic() - started_s < 2
    text = str(caught.value)
    assert all(short(ref.binary()) in text for ref in kept[:3]), text
    assert "140.0 MiB of 160.0 MiB" in text
    assert (nbray.get(kept[3]) == bytes_like(3, ROOM_BYTES)).all()
    kept.clear()
    again = nbray.put(bytes_like(9, 2 * ROOM_BYTES))  # at once: a full store waits for frees on their way
    assert (nbray.get(again) == bytes_like(9, 2 * ROOM_BYTES)).all()


def test_references_in_garbage_cycles_do_not_fill_the_store() -> None:
    gc.disable()
    try:
        for n in range(20):
            cycle: list[Any] = [nbray.put(bytes_like(n, ROOM_BYTES))]
            cycle.append(cycle)
    finally:
        gc.enable()


def test_object_larger_than_the_store_is_refused_at_once() -> None:
    started_s = time.monotonic()

    with pytest.raises(nbray.ObjectStoreFullError, match="object_store_memory"):
        nbray.put(np.zeros(STORE_BYTES + 1, dtype=np.uint8))

    assert time.monotonic() - started_s < 2


def test_argument_and_result_that_do_not_fit_are_typed_errors() -> None:
    @nbray.remote
    def ignore(array: Any) -> None: ...

    @nbray.remote
    def too_large() -> Any:
        return np.zeros(STORE_BYTES + 1, dtype=np.uint8)

    with pytest.raises(nbray.ObjectStoreFullError):
        ignore.remote(np.zeros(STORE_BYTES + 1, dtype=np.uint8))
    with pytest.raises(nbray.ObjectStoreFullError, match="larger than the whole"):
        nbray.get(too_large.remote())


def test_put_that_failed_half_way_leaves_nothing() -> None:
    class Spiteful:
        def __reduce__(self) -> Any:
            raise RuntimeError("not today")

    with pytest.raises(nbray.SerializationError, match="not today"):
        nbray.put([np.zeros(MIB), Spiteful()])


def test_many_small_arguments_that_are_large_together_travel_through_the_store() -> None:
    """90 MB in 1 000 values, each of which would ride in a message by itself."""

    @nbray.remote
    def total(*arrays: Any) -> float:
        return float(sum(array[0] for array in arrays))

    refs = [nbray.put(np.full(11_000, float(n))) for n in range(1_000)]

    assert nbray.get(total.remote(*refs)) == sum(range(1_000))
    assert nbray.get(total.remote(*refs, refs[5])) == sum(range(1_000)) + 5
    del refs
    await_empty_store()


def test_many_small_results_that_are_large_together_travel_through_the_store() -> None:
    @nbray.remote(num_returns=1_000)
    def split() -> list[Any]:
        return [np.full(11_000, float(n)) for n in range(1_000)]

    refs = split.remote()

    assert sum(array[0] for array in nbray.get(refs)) == sum(range(1_000))
    del refs
    await_empty_store()
