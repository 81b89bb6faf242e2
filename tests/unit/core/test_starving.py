"""Who waits for what actors keep for life is told, and nobody else."""

from __future__ import annotations

from nbray.core.starving import AFTER_S, Holding, Starving, Wanting, keepers, named

CPU = (("CPU", 10_000),)


def wanting(name: str = "f", number: int = 1) -> Wanting:
    return Wanting(b"1", name, number, CPU, ("CPU",))


KEPT = Holding("Actor A", CPU, True)


def test_what_all_holders_keep_for_life_does_not_come_back() -> None:
    assert keepers(wanting(), [KEPT, KEPT]) == ["Actor A", "Actor A"]


def test_one_holder_who_may_give_back_is_enough_to_wait_for() -> None:
    assert keepers(wanting(), [KEPT, Holding("g", CPU, False)]) == []


def test_who_holds_something_else_does_not_matter() -> None:
    assert keepers(wanting(), [KEPT, Holding("g", (("GPU", 10_000),), False)]) == ["Actor A"]


def test_when_nobody_holds_it_nobody_is_accused() -> None:
    assert keepers(wanting(), []) == []


def test_it_is_told_when_it_has_lasted_and_again_much_later() -> None:
    starving = Starving()

    told = [starving.look(float(s), [wanting("task f", 3)], [KEPT]) for s in range(60)]

    times = [s for s, texts in enumerate(told) if texts]
    assert times == [AFTER_S, AFTER_S * 10]
    (text,) = told[3]
    assert "task f, and 2 like it, has waited for 1 CPU for 3 s. Actor A keeps all" in text


def test_a_wait_that_was_over_in_between_begins_anew() -> None:
    starving = Starving()
    for second in range(3):
        assert starving.look(float(second), [wanting()], [KEPT]) == []
    starving.look(3.0, [], [KEPT])

    assert [bool(starving.look(float(s), [wanting()], [KEPT])) for s in (4, 5, 6, 7)] == [False] * 3 + [True]


def test_many_are_counted() -> None:
    assert named(["Actor A"] * 3 + ["Actor B"]) == "Actor A (3 of them) and Actor B keep all"
    assert named([f"Actor {n}" for n in range(9)]).endswith("and 5 other kinds keep all")
