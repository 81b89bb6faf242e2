"""The machine of moves notices mistakes: each of these is planted in the directory, and must be found.

Called by:  pytest.
Imports:    tests.stateful.test_object_moves_machine, nbray.core.{object_copies,object_moves,objects}.
Never:      leaves a mistake behind: each is planted with ``mock.patch`` for one test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nbray.core.object_commands import Command
from nbray.core.object_copies import TABLE, Do, E, S
from nbray.core.object_moves import Move, ObjectMoves
from nbray.core.object_records import Record
from nbray.core.objects import ObjectTable
from tests.stateful.test_object_moves_machine import ObjectMovesMachine

BUDGET = settings(
    max_examples=1500, stateful_step_count=80, deadline=None, derandomize=True, database=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip

original: dict[str, Any] = {
    name: getattr(cls, name)
    for cls in (ObjectTable, ObjectMoves)
    for name in vars(cls)
    if not name.startswith("__")
}


def forget_that_the_owner_has_it(record: Record) -> bool:
    return record.pins > 0


def forget_that_somebody_has_pinned_it(record: Record) -> bool:
    return record.in_hand


def keep_the_pins_at_a_yield(
    table: ObjectTable, process: bytes, ids: list[bytes], out: list[Command]
) -> None:
    for object_id in ids:
        record = table.record(object_id)
        if record is not None and record.owner == process:
            record.in_hand = False
            table._settle(record, out)


def drop_a_pin_too_many(
    table: ObjectTable, record: Record, process: bytes, count: int, out: list[Command]
) -> None:
    original["_unpin"](table, record, process, record.readers.get(process, 0), out)


def write_what_is_in_use(moves: ObjectMoves, object_id: bytes) -> Move | None:
    record = moves._table.record(object_id)
    if record is None or record.current is None or record.current.state is not S.SEALED:
        return None
    return Move(record, record.current) if record.current.extent is not None else None


def forget_what_became_unwanted(moves: ObjectMoves, move: Move, out: list[Command]) -> bool:
    return move.copy.state is S.ENDING


def tell_the_owner_each_time(table: ObjectTable, record: Record, out: list[Command]) -> None:
    if record.current is not None:
        record.current.reported = False
    original["report_loss"](table, record, out)


def tell_nobody_that_it_is_lost(table: ObjectTable, record: Record, out: list[Command]) -> None:
    pass


def dismiss_who_waits_for_an_orphan(
    table: ObjectTable, process: bytes, out: list[Command]
) -> dict[bytes, tuple[bytes, ...]]:
    orphans: dict[bytes, tuple[bytes, ...]] = original["process_lost"](table, process, out)
    for object_id in orphans:
        table._dismiss_all(object_id, "owner_died", out)
    return orphans


def leave_who_waits_for_an_orphan(table: ObjectTable, object_id: bytes, out: list[Command]) -> None:
    record = table.record(object_id)
    if record is not None:
        table._discard(record, out)


METHODS: list[tuple[type, str, Callable[..., Any] | property]] = [
    (Record, "in_use", property(forget_that_the_owner_has_it)),
    (Record, "in_use", property(forget_that_somebody_has_pinned_it)),
    (ObjectTable, "yielded", keep_the_pins_at_a_yield),
    (ObjectTable, "_unpin", drop_a_pin_too_many),
    (ObjectMoves, "_idle", write_what_is_in_use),
    (ObjectMoves, "_ended", forget_what_became_unwanted),
    (ObjectTable, "report_loss", tell_the_owner_each_time),
    (ObjectTable, "report_loss", tell_nobody_that_it_is_lost),
    (ObjectTable, "process_lost", dismiss_who_waits_for_an_orphan),
    (ObjectTable, "abandon", leave_who_waits_for_an_orphan),
]

ROWS: dict[str, tuple[tuple[S, E], tuple[S, Do]]] = {
    "release memory before it is written": ((S.SEALED, E.SPILL), (S.SPILLING, Do.RELEASE_MEMORY)),
    "release memory that may be in use again": ((S.SPILLING, E.WRITTEN), (S.SPILLED, Do.RELEASE_MEMORY)),
    "keep the memory of what is dropped": ((S.SEALED, E.DROP), (S.SPILLED, Do.NOTHING)),
    "release at once what a thread writes": ((S.SPILLING, E.DISCARD), (S.GONE, Do.RELEASE)),
    "release at once what a thread reads": ((S.RESTORING, E.DISCARD), (S.GONE, Do.RELEASE)),
    "lose what could not be written": ((S.SPILLING, E.MOVE_FAILED), (S.LOST, Do.RELEASE)),
    "lose what finds no memory": ((S.RESTORING, E.MOVE_FAILED), (S.LOST, Do.RELEASE)),
    "restore without a word": ((S.RESTORING, E.READ), (S.SEALED, Do.NOTHING)),
    "release what is read on the disk": ((S.SPILLED, E.DISCARD_PINNED), (S.GONE, Do.RELEASE)),
    "keep the disk when it is freed": ((S.SPILLED, E.DISCARD), (S.GONE, Do.NOTHING)),
    "release what somebody reads when the thread is done": ((S.ENDING, E.MOVED_PINNED), (S.GONE, Do.RELEASE)),
}


def run_the_machine() -> None:
    run_state_machine_as_test(ObjectMovesMachine, settings=BUDGET)


def name_of(mistake: object) -> str:
    function = mistake.fget if isinstance(mistake, property) else mistake
    return str(getattr(function, "__name__", ""))


@pytest.mark.stateful
@pytest.mark.parametrize(
    ("cls", "method", "mistake"), METHODS, ids=[name_of(mistake) for *_, mistake in METHODS]
)
def test_the_machine_finds(cls: type, method: str, mistake: Any) -> None:
    with mock.patch.object(cls, method, mistake), pytest.raises((AssertionError, KeyError, ValueError)):
        run_the_machine()


@pytest.mark.stateful
@pytest.mark.parametrize("row", ROWS)
def test_the_machine_finds_a_wrong_row(row: str) -> None:
    key, wrong = ROWS[row]
    with mock.patch.dict(TABLE, {key: wrong}), pytest.raises((AssertionError, KeyError, ValueError)):
        run_the_machine()
