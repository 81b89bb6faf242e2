"""``nbray.memory()`` and ``nbray.objects()`` on a cluster: who holds what, in every process."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.api.session import set_current_cell
from tests.support.sessions import session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

MB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, object_store_memory=200 * MB):
        yield


@pytest.fixture(autouse=True)
def _starts_empty() -> None:
    """What a failed test left stays in pytest's hands: then a new session."""
    end_s = time.monotonic() + 2
    while nbray.memory().rows and time.monotonic() < end_s:
        gc.collect()
        time.sleep(0.02)
    if nbray.memory().rows:
        nbray.shutdown()
        nbray.init(num_cpus=2, object_store_memory=200 * MB)


def row_of(object_id: str) -> dict[str, Any]:
    """By ID: a reference in a variable of this function would be a holder, too."""
    (row,) = [row for row in nbray.memory().rows if row["object"] == object_id]
    return row


def holders_of(object_id: str) -> list[tuple[str, str]]:
    return [(holder["kind"], holder["name"]) for holder in row_of(object_id)["holders"]]


@nbray.remote
def wait_for(path: str, *values: Any) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


@nbray.remote
def hold(path: str, values: list[Any]) -> list[Any]:
    """References inside its argument live in the worker while it runs."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return values


@pytest.fixture
def gate(folder: Path) -> Iterator[Callable[[], None]]:
    """Opens it for all tasks that wait."""
    path = folder / "gate"
    yield path.touch
    path.touch()


# --- the classic table --------------------------------------------------------------------------------------


def test_objects_is_empty_at_the_start_and_again_when_the_references_are_gone() -> None:
    assert nbray.objects() == {}

    small, large = nbray.put(1), nbray.put(np.zeros(MB))
    table = nbray.objects()

    assert set(table) == {small.hex(), large.hex()}
    assert table[large.hex()]["DataSize"] >= 8 * MB
    assert len(table[small.hex()]["Manager"]) == 32
    del small, large
    until(lambda: nbray.objects() == {}, "the table is empty again")


def test_objects_can_be_asked_for_one_by_reference_or_id() -> None:
    ref, other = nbray.put("x"), nbray.ObjectID.from_random()
    table = nbray.objects()

    assert nbray.objects(ref) == nbray.objects(ref.hex()) == nbray.objects(ref.binary()) == table[ref]  # type: ignore[index]  # a reference is looked up, too
    assert set(nbray.objects(ref)) == {"DataSize", "Manager"}
    assert ref in table
    assert nbray.objects(other) == {}
    assert other not in table


@pytest.mark.parametrize(
    ("wrong", "error"), [(1, TypeError), ("xyz", ValueError), ("00", ValueError), (b"", ValueError)]
)
def test_what_is_no_id_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        nbray.objects(wrong)


def test_results_that_are_on_their_way_are_not_in_the_table(folder: Path, gate: Callable[[], None]) -> None:
    ref = wait_for.remote(str(folder / "gate"))

    assert nbray.objects() == {}
    gate()
    nbray.get(ref)
    assert set(nbray.objects()) == {ref.hex()}


# --- who holds what -----------------------------------------------------------------------------------------


def test_variables_are_named_where_the_program_has_them() -> None:
    refs = [nbray.put(n) for n in range(3)]
    by_name = {"best": refs[1]}

    assert holders_of(refs[2].hex()) == [("variable", f"refs[2] in {_here()}()")]
    assert holders_of(by_name["best"].hex()) == [
        ("variable", f"refs[1] in {_here()}()"), ("variable", f"by_name['best'] in {_here()}()"),
    ]  # fmt: skip


def _here() -> str:
    return sys._getframe(1).f_code.co_name


def test_an_array_is_a_holder_although_its_reference_is_gone() -> None:
    array = nbray.get(nbray.put(np.arange(MB)))
    part = array[10:]

    (row,) = nbray.memory().rows

    assert [(h["kind"], h["count"]) for h in row["holders"]] == [("view", 1)]
    assert f"part in {_here()}()" in row["holders"][0]["name"]
    assert (row["state"], row["place"], row["leak"]) == ("in store", "store", "")
    del array, part


def test_unfinished_tasks_are_holders_by_name(folder: Path, gate: Callable[[], None]) -> None:
    ref = nbray.put(np.zeros(MB))
    tasks = [wait_for.remote(str(folder / "gate"), ref) for _ in range(5)]
    mine = row_of(ref.hex())

    assert ("argument", "wait_for", 5) in [(h["kind"], h["name"], h["count"]) for h in mine["holders"]]
    assert row_of(tasks[0].hex())["state"] == "pending"
    assert row_of(tasks[0].hex())["origin"]["name"] == "wait_for"
    gate()
    nbray.get(tasks)
    until(lambda: "argument" not in dict(holders_of(ref.hex())), "the tasks are over")


def test_a_worker_that_keeps_a_reference_is_a_holder_with_its_task(
    folder: Path, gate: Callable[[], None]
) -> None:
    ref = nbray.put("x")
    task = hold.remote(str(folder / "gate"), [ref])

    until(lambda: ("worker", "hold") in holders_of(ref.hex()), "the worker has it")
    (there,) = [holder for holder in row_of(ref.hex())["holders"] if holder["kind"] == "worker"]
    assert there["pid"] not in (0, os.getpid())
    gate()
    nbray.get(task)
    # Now the result holds it.
    until(lambda: ("container", task.hex()) in holders_of(ref.hex()), "the result contains it")
    assert "worker" not in dict(holders_of(ref.hex()))


def test_objects_that_contain_it_and_pickles_made_by_hand_are_holders() -> None:
    inner = nbray.put(1)
    outer = nbray.put([inner])
    assert ("container", outer.hex()) in holders_of(inner.hex())

    exported = nbray.put(2)
    pickle.dumps(exported)
    assert ("pickle", "") in holders_of(exported.hex())
    _forget_exports()


def _forget_exports() -> None:
    """What was pickled by hand stays for the life of a process; this test's must not."""
    process = this_process()
    with process.loop.lock:
        for entry in process.objects.table.entries.values():
            if entry.exported:
                entry.exported = False
                entry.kept -= 1


def test_a_reference_that_nobody_can_name_is_a_suspect() -> None:
    def generate() -> Generator[Any, None, None]:
        ref = nbray.put(np.zeros(MB))
        yield None
        del ref

    kept = generate()
    next(kept)

    (row,) = nbray.memory().rows

    assert [(h["kind"], h["count"]) for h in row["holders"]] == [("unknown", 1)]
    assert row["leak"] == "unknown"
    assert nbray.memory().leaks().rows == [row]
    assert "held by nobody known" in str(nbray.memory())
    kept.close()


def test_the_line_that_made_it_is_told() -> None:
    ref, line = nbray.put(1), _line()

    assert row_of(ref.hex())["origin"] == {
        "kind": "put",
        "name": "",
        "cell": "",
        "file": __file__,
        "line": line,
    }

    set_current_cell("In[3]")
    try:
        in_cell = nbray.put(1)
    finally:
        set_current_cell("")
    assert row_of(in_cell.hex())["origin"]["cell"] == "In[3]"


def _line() -> int:
    return sys._getframe(1).f_lineno


def test_a_task_may_ask_as_well() -> None:
    @nbray.remote
    def look(values: list[Any]) -> list[dict[str, Any]]:
        inside = values[0]  # noqa: F841  # it is what is named
        return nbray.memory().rows

    ref = nbray.put("x")

    (row,) = [row for row in nbray.get(look.remote([ref])) if row["object"] == ref.hex()]

    kinds = {holder["kind"] for holder in row["holders"]}
    assert {"variable", "driver", "argument"} <= kinds
    assert row["owner"] == {"process": "driver", "pid": os.getpid()}
    names = [holder["name"] for holder in row["holders"] if holder["kind"] == "variable"]
    assert "inside in look()" in names


def test_a_failed_task_and_a_large_result_are_told_as_such() -> None:
    @nbray.remote
    def fail() -> None:
        raise ValueError

    @nbray.remote
    def large() -> Any:
        return np.zeros(MB)

    failed, stored = fail.remote(), large.remote()
    nbray.wait([failed, stored], num_returns=2)

    assert row_of(failed.hex())["state"] == "failed"
    assert (row_of(stored.hex())["state"], row_of(stored.hex())["origin"]["name"]) == ("in store", "large")


# --- time ---------------------------------------------------------------------------------------------------


def test_a_worker_that_is_stopped_is_waited_for_a_second_and_counted(
    folder: Path, gate: Callable[[], None]
) -> None:
    @nbray.remote
    def tell_pid(path: str) -> None:
        Path(path).write_text(str(os.getpid()))
        while not os.path.exists(path + ".end"):
            time.sleep(0.01)

    pid_file = folder / "pid"
    task = tell_pid.remote(str(pid_file))
    until(lambda: pid_file.exists() and pid_file.read_text() != "", "the worker runs")
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        memory = nbray.memory()
        took_s = time.monotonic() - began_s
    finally:
        os.kill(pid, signal.SIGCONT)

    assert memory.summary["silent"] == 1
    assert "1 process is busy" in str(memory)
    assert 0.9 < took_s < 3
    (folder / "pid.end").touch()
    nbray.get(task)


def test_a_worker_whose_task_computes_answers_all_the_same(folder: Path, gate: Callable[[], None]) -> None:
    @nbray.remote
    def compute(path: str) -> None:
        # Seldom a system call: one that is short and frequent keeps the interpreter from other threads.
        while not os.path.exists(path):
            for _ in range(300):
                sum(range(10_000))

    task = compute.remote(str(folder / "gate"))
    time.sleep(0.1)
    began_s = time.monotonic()
    for _ in range(5):
        assert nbray.memory().summary["silent"] == 0
    assert time.monotonic() - began_s < 2
    gate()
    nbray.get(task)


def test_ten_thousand_objects_are_looked_at_in_a_moment() -> None:
    refs = [nbray.put(n) for n in range(10_500)]

    began_s = time.monotonic()
    memory = nbray.memory()

    assert time.monotonic() - began_s < 3
    assert len(memory.rows) == 10_000
    assert memory.summary["left_out"] == 500
    del refs


# --- looking changes nothing --------------------------------------------------------------------------------


def test_looking_holds_nothing() -> None:
    ref = nbray.put(np.zeros(MB))
    memory, table = nbray.memory(), nbray.objects()

    del ref

    until(lambda: not nbray.memory().rows, "the object is gone, although it was looked at")
    assert len(memory.rows) == len(table) == 1


def test_without_a_session_both_raise() -> None:
    nbray.shutdown()
    try:
        with pytest.raises(nbray.RayConnectionError):
            nbray.objects()
        with pytest.raises(nbray.RayConnectionError):
            nbray.memory()
    finally:
        nbray.init(num_cpus=2, object_store_memory=200 * MB)


# --- advice -------------------------------------------------------------------------------------------------


def test_an_array_that_is_sent_for_the_third_time_brings_advice(caplog: pytest.LogCaptureFixture) -> None:
    @nbray.remote
    def total(values: Any) -> float:
        return float(values.sum())

    data = np.ones(MB)
    caplog.set_level(logging.WARNING, "nbray")
    results = [total.remote(data) for _ in range(8)]

    told = [record.getMessage() for record in caplog.records if "third time" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"{__file__}:")
    assert nbray.get(results) == [MB] * 8


def test_an_array_that_was_put_brings_none(caplog: pytest.LogCaptureFixture) -> None:
    @nbray.remote
    def total(values: Any) -> float:
        return float(values.sum())

    data = nbray.put(np.ones(MB))
    caplog.set_level(logging.WARNING, "nbray")

    assert nbray.get([total.remote(data) for _ in range(8)]) == [MB] * 8
    assert not [record for record in caplog.records if "third time" in record.getMessage()]
