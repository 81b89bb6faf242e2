"""A task that crashes its worker as soon as it starts, twice in the same way, is not tried again."""

from __future__ import annotations

from nbray.core.poison import QUICK_S, Poison

SEGV, ABRT, KILL = 11, 6, 9


def test_the_second_quick_crash_of_the_same_kind_is_poison() -> None:
    poison = Poison({SEGV, ABRT})

    assert not poison.is_found_in(b"t", SEGV, 0.01)
    assert poison.is_found_in(b"t", SEGV, QUICK_S)


def test_another_signal_or_another_task_begins_anew() -> None:
    poison = Poison({SEGV, ABRT})

    assert not poison.is_found_in(b"t", SEGV, 0.01)
    assert not poison.is_found_in(b"u", SEGV, 0.01)
    assert not poison.is_found_in(b"t", ABRT, 0.01)
    assert not poison.is_found_in(b"t", SEGV, 0.01)
    assert poison.is_found_in(b"t", SEGV, 0.01)


def test_a_crash_after_a_while_is_none_and_breaks_the_row() -> None:
    poison = Poison({SEGV})

    assert not poison.is_found_in(b"t", SEGV, 0.01)
    assert not poison.is_found_in(b"t", SEGV, 2 * QUICK_S)
    assert not poison.is_found_in(b"t", SEGV, 0.01)


def test_a_signal_that_others_send_is_none() -> None:
    poison = Poison({SEGV})

    assert not any(poison.is_found_in(b"t", signal, 0.0) for signal in (KILL, KILL, 0, 0))


def test_what_is_remembered_is_bounded() -> None:
    poison = Poison({SEGV})
    for n in range(1000):
        poison.is_found_in(n.to_bytes(2, "big"), SEGV, 0.0)

    assert not poison.is_found_in((0).to_bytes(2, "big"), SEGV, 0.0)
    assert poison.is_found_in((999).to_bytes(2, "big"), SEGV, 0.0)
