"""What processes and the daemon said of an object, put together into one row."""

from __future__ import annotations

from typing import Any

from nbray.observe.held import Known
from nbray.wire.memory_messages import EntryFacts, MemoryReport, Origin, ProcessFacts, StoredFacts

NODE, DRIVER, WORKER, SILENT = b"n" * 16, b"d" * 16, b"w" * 16, b"s" * 16
ID, OTHER = b"o" * 20, b"p" * 20


def entry(object_id: bytes = ID, **fields: Any) -> EntryFacts:
    known: dict[str, Any] = {
        "object_id": object_id, "owner_id": b"", "size_bytes": 5, "state": "inline", "handles": 0,
        "arguments": 0, "views": 0, "kept": 0, "exported": False, "tasks": [], "inner": [],
        "origin": Origin(),
    }  # fmt: skip
    return EntryFacts(**{**known, **fields})


def stored(**fields: Any) -> StoredFacts:
    known: dict[str, Any] = {
        "object_id": ID, "owner_id": DRIVER, "size_bytes": 1000, "state": "in store", "place": "store",
        "pins": [], "holders": [], "parcels": 0, "containers": [],
    }  # fmt: skip
    return StoredFacts(**{**known, **fields})


def rows(
    own: list[EntryFacts],
    theirs: list[EntryFacts] | None = None,
    in_store: list[StoredFacts] | None = None,
    *,
    refs: dict[bytes, list[tuple[str, str]]] | None = None,
    arrays: dict[bytes, list[tuple[str, str]]] | None = None,
    running: str = "train",
) -> list[dict[str, Any]]:
    me = ProcessFacts(DRIVER, 10, "driver", "", own, 0)
    other = ProcessFacts(WORKER, 20, "worker", running, theirs or [], 0)
    report = MemoryReport(1, NODE, {}, in_store or [], [other], [(SILENT, 30)], 0)
    named = {object_id: len(names) for object_id, names in (refs or {}).items()}
    return Known(report, me, refs or {}, arrays or {}, named).rows()


def holders(*args: Any, **options: Any) -> list[tuple[str, str, int, int]]:
    (row,) = [row for row in rows(*args, **options) if row["object"] == ID.hex()]
    return [(h["kind"], h["name"], h["count"], h["pid"]) for h in row["holders"]]


def test_references_of_the_asker_have_names_and_the_rest_are_counted() -> None:
    refs = {ID: [("variable", "x"), ("output", "Out[3]")]}

    assert holders([entry(handles=5)], refs=refs) == [
        ("variable", "x", 1, 0), ("output", "Out[3]", 1, 0), ("unknown", "", 3, 0),
    ]  # fmt: skip


def test_references_of_a_worker_are_told_by_the_task_that_runs_there() -> None:
    borrowed = entry(owner_id=DRIVER, state="pending", size_bytes=-1, handles=2)

    assert holders([entry()], [borrowed]) == [("worker", "train", 2, 20)]


def test_unfinished_tasks_are_told_once_by_who_submitted_them() -> None:
    taken = entry(owner_id=DRIVER, arguments=1)

    assert holders([entry(arguments=3, tasks=["a", "b", "a"])], [taken]) == [
        ("argument", "a", 2, 0), ("argument", "b", 1, 0),
    ]  # fmt: skip


def test_a_task_of_an_owner_that_did_not_answer_is_told_from_where_it_runs() -> None:
    assert holders([], [entry(owner_id=SILENT, arguments=1)]) == [("argument", "train", 1, 20)]


def test_arrays_are_counted_and_named_where_they_can_be() -> None:
    arrays = {ID: [("variable", "a"), ("variable", "b[0]")]}

    assert holders([entry(views=2)], [entry(owner_id=DRIVER, views=1)], arrays=arrays) == [
        ("view", "a, b[0]", 2, 0), ("view", "train", 1, 20),
    ]  # fmt: skip


def test_containers_pickles_and_parcels_are_holders() -> None:
    outer = entry(OTHER, handles=1, inner=[ID])
    kept = entry(kept=2, exported=True)

    assert holders([kept, outer], in_store=[stored(parcels=2, containers=[OTHER])]) == [
        ("pickle", "", 1, 0), ("container", OTHER.hex(), 1, 0), ("parcel", "", 2, 0),
    ]  # fmt: skip


def test_of_a_process_that_did_not_answer_the_daemon_knows_a_little() -> None:
    there = stored(holders=[SILENT, WORKER], pins=[(SILENT, 2), (WORKER, 1)])

    assert holders([entry()], in_store=[there]) == [("worker", "", 1, 30), ("view", "", 2, 30)]


def test_the_daemon_knows_best_where_stored_bytes_are() -> None:
    (row,) = rows([entry(state="in store")], in_store=[stored(state="spilled", place="disk")])

    assert (row["state"], row["place"], row["size_bytes"]) == ("spilled", "disk", 1000)
    assert row["owner"] == {"process": "driver", "pid": 10}


def test_a_result_that_is_an_error_is_told_as_failed_wherever_it_lies() -> None:
    (row,) = rows([entry(state="failed")], in_store=[stored()])

    assert row["state"] == "failed"


def test_of_a_borrowed_object_the_borrower_tells_what_it_knows() -> None:
    borrowed = entry(owner_id=b"gone" * 4, state="in store", size_bytes=9, handles=1)

    (row,) = rows([borrowed])

    assert (row["state"], row["place"], row["size_bytes"]) == ("in store", "store", 9)
    assert row["owner"] == {"process": "worker", "pid": 0}


def test_what_is_not_there_yet_has_no_size_and_no_place() -> None:
    (row,) = rows([entry(state="pending", size_bytes=-1, origin=Origin("task", "load", "In[3]"))])

    assert (row["size_bytes"], row["place"]) == (None, "")
    assert row["origin"] == {"kind": "task", "name": "load", "cell": "In[3]", "file": "", "line": 0}


def test_the_largest_come_first() -> None:
    found = rows([entry(b"a" * 20), entry(b"b" * 20, size_bytes=9), entry(b"c" * 20, size_bytes=-1)])

    assert [row["object"][:2] for row in found] == ["62", "61", "63"]


def test_leaks_are_what_only_the_notebook_or_nobody_known_holds() -> None:
    def leak(handles: int = 1, views: int = 0, **names: str) -> str:
        refs = {ID: list(names.items())}
        (row,) = rows([entry(handles=handles, views=views)], refs=refs)
        return str(row["leak"])

    assert leak(variable="x") == ""
    assert leak(output="Out[3]") == "output"
    assert leak(2, output="Out[3]", traceback="batch in train()") == "output"
    assert leak(2, output="Out[3]", variable="x") == ""
    assert leak(1, views=1, output="Out[3]") == ""
    assert leak() == "unknown"
    assert leak(2, output="Out[3]") == "unknown"
    assert leak(0) == "unknown"
