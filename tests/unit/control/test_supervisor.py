"""How often the embedded server is started again."""

from __future__ import annotations

from nbray.control.supervisor import RestartBudget


def test_the_fourth_restart_within_the_window_is_refused() -> None:
    budget = RestartBudget(limit=3, window_s=30.0)

    assert [budget.allow(now_s) for now_s in (0.0, 1.0, 2.0, 29.9)] == [True, True, True, False]


def test_a_restart_comes_back_when_it_leaves_the_window() -> None:
    budget = RestartBudget(limit=3, window_s=30.0)
    for now_s in (0.0, 10.0, 20.0):
        budget.allow(now_s)

    assert budget.allow(30.0)
    assert not budget.allow(39.9)
    assert budget.allow(40.0)


def test_a_refusal_costs_nothing() -> None:
    budget = RestartBudget(limit=1, window_s=10.0)
    budget.allow(0.0)
    for now_s in (1.0, 5.0, 9.0):
        budget.allow(now_s)

    assert budget.allow(10.0)
