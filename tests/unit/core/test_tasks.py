"""A task's life at its owner: one state at a time, numbered attempts, answers that count once.

Called by:  pytest.
Imports:    nbray.core.tasks.
Never:      starts a process.
"""

from __future__ import annotations

import pytest

from nbray.core.tasks import TABLE, IllegalTransitionError, Task, TaskEvent, TaskSpec, TaskState, TaskTable

E, S = TaskEvent, TaskState


def make(name: str = "task", max_retries: int = 0) -> Task:
    spec = TaskSpec(1, b"f", name, 1, (("CPU", 10_000),), max_retries, 0, "In[1]")
    return Task(name.encode(), spec, b"", not max_retries)


def pushed(table: TaskTable, task: Task) -> Task:
    table.add(task, 0)
    task.step(E.PUSHED)
    return task


# --- arguments -------------------------------------------------------------------------------------------


def test_task_without_missing_arguments_may_be_queued_at_once() -> None:
    table, task = TaskTable(), make()

    assert table.add(task, 0)

    assert task.state is S.QUEUED
    assert len(table) == 1


def test_task_waits_until_the_last_of_its_arguments_is_there() -> None:
    table, task = TaskTable(), make()

    assert not table.add(task, 3)
    assert [table.argument_ready(task) for _ in range(3)] == [False, False, True]

    assert task.state is S.QUEUED


def test_argument_that_comes_too_late_changes_nothing() -> None:
    """The task was given up while it waited: its arguments still arrive."""
    table, task = TaskTable(), make()
    table.add(task, 2)
    table.given_up(task)

    assert not table.argument_ready(task)

    assert task.state is S.FAILED
    assert len(table) == 0


# --- answers ---------------------------------------------------------------------------------------------


def test_answer_of_the_current_attempt_counts() -> None:
    table = TaskTable()
    task = pushed(table, make())

    assert table.current(b"task", 0) is task


def test_answer_counts_once() -> None:
    table = TaskTable()
    task = pushed(table, make())
    table.answered(task)

    assert table.current(b"task", 0) is None
    assert task.state is S.DONE


def test_answer_of_an_earlier_attempt_does_not_count() -> None:
    table = TaskTable()
    task = pushed(table, make(max_retries=1))
    table.worker_lost(task)
    task.step(E.PUSHED)

    assert table.current(b"task", 0) is None
    assert table.current(b"task", 1) is task


def test_answer_to_a_task_that_is_not_with_a_worker_does_not_count() -> None:
    table, task = TaskTable(), make()
    table.add(task, 0)

    assert table.current(b"task", 0) is None
    assert table.current(b"another", 0) is None


# --- attempts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_retries", [0, 1, 3])
def test_task_is_attempted_once_and_then_as_often_as_it_may_be_retried(max_retries: int) -> None:
    table = TaskTable()
    task = pushed(table, make(max_retries=max_retries))

    attempts = 1
    while table.worker_lost(task):
        attempts += 1
        task.step(E.PUSHED)

    assert attempts == max_retries + 1
    assert task.state is S.PUSHED, "the caller gives it up, with the cause"


def test_task_with_minus_one_retries_is_attempted_without_end() -> None:
    table = TaskTable()
    task = pushed(table, make(max_retries=-1))

    for attempt in range(1, 100):
        assert table.worker_lost(task)
        assert task.attempt == attempt
        task.step(E.PUSHED)


def test_task_that_is_handed_back_keeps_its_attempt() -> None:
    """It never ran: its next push is the same attempt."""
    table = TaskTable()
    task = pushed(table, make(max_retries=1))

    task.step(E.HANDED_BACK)

    assert task.attempt == 0
    assert task.may_retry()


def test_task_that_may_run_only_once_travels_alone() -> None:
    assert make(max_retries=0).alone
    assert not make(max_retries=1).alone
    assert not make(max_retries=-1).alone


# --- the table -------------------------------------------------------------------------------------------


def task_in(state: TaskState) -> Task:
    task = make()
    task.state = state
    return task


@pytest.mark.parametrize("event", TaskEvent)
@pytest.mark.parametrize("state", TaskState)
def test_only_the_table_is_followed(state: TaskState, event: TaskEvent) -> None:
    task = task_in(state)
    if (state, event) in TABLE:
        task.step(event)
        assert task.state is TABLE[state, event]
    else:
        with pytest.raises(IllegalTransitionError):
            task.step(event)
        assert task.state is state


@pytest.mark.parametrize("state", [S.DONE, S.FAILED])
def test_what_is_over_stays_over(state: TaskState) -> None:
    with pytest.raises(IllegalTransitionError, match="allowed: nothing"):
        task_in(state).step(E.PUSHED)


def test_illegal_event_is_refused_with_task_state_and_what_was_allowed() -> None:
    task = make("train")

    with pytest.raises(
        IllegalTransitionError,
        match=r"task train is waiting for arguments: event 'answered' .*allowed: arguments ready, given up",
    ):
        task.step(E.ANSWERED)


def test_every_state_can_be_reached_and_every_living_one_left() -> None:
    assert {S.WAITING, *TABLE.values()} == set(S)
    assert {state for state, _event in TABLE} == set(S) - {S.DONE, S.FAILED, S.CANCELLED}


def test_every_task_that_is_not_over_can_be_given_up_or_cancelled() -> None:
    given_up = {state for state, event in TABLE if event is E.GIVEN_UP}
    assert given_up == set(S) - {S.DONE, S.FAILED, S.CANCELLING, S.CANCELLED}
    assert {state for state, event in TABLE if event is E.CANCEL} == given_up | {S.CANCELLING}
