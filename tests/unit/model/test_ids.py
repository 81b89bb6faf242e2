"""IDs: how long they are, what they are derived from, and that no two things share one.

Called by:  pytest.
Imports:    nbray.model.ids.
Never:      draws randomness that a failing run could not repeat.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbray.model import ids

JOB = b"j" * ids.PROCESS_ID_BYTES
PARENT = b"p" * ids.TASK_ID_BYTES

counters = st.integers(0, 2**32 - 1)


def test_ids_have_the_lengths_that_they_promise() -> None:
    scope = ids.child_scope(JOB, PARENT, 0)
    task = ids.task_id(scope, 1)

    assert len(task) == ids.TASK_ID_BYTES
    assert len(ids.result_id(task, 0)) == ids.OBJECT_ID_BYTES
    assert len(ids.put_id(scope, 1)) == ids.OBJECT_ID_BYTES
    assert len(ids.function_id(b"code")) == ids.FUNCTION_ID_BYTES


def test_same_parent_and_counter_give_the_same_ids_again() -> None:
    """Lineage computes them a second time, on another day and in another process."""
    scope = ids.child_scope(JOB, PARENT, 0)

    assert scope == ids.child_scope(JOB, PARENT, 0)
    assert scope.hex() == "0502a9592f0e3e21f6eef148"
    assert ids.task_id(scope, 7) == ids.task_id(scope, 7)


def test_each_attempt_of_a_parent_names_its_children_anew() -> None:
    scopes = {ids.child_scope(JOB, PARENT, attempt) for attempt in range(100)}

    assert len(scopes) == 100


def test_scopes_of_other_jobs_and_parents_differ() -> None:
    scopes = {ids.child_scope(job, parent, 0) for job in (JOB, b"k" * 16) for parent in (PARENT, b"q" * 16)}

    assert len(scopes) == 4


@given(counter=counters, index=counters)
def test_a_result_names_its_task(counter: int, index: int) -> None:
    task = ids.task_id(b"s" * 12, counter)
    result = ids.result_id(task, index)

    assert result[: ids.TASK_ID_BYTES] == task
    assert int.from_bytes(result[ids.TASK_ID_BYTES :], "big") == index


@given(first=st.tuples(counters, counters), second=st.tuples(counters, counters))
def test_results_share_an_id_only_if_task_and_index_are_the_same(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    one, other = (ids.result_id(ids.task_id(b"s" * 12, counter), index) for counter, index in (first, second))

    assert (one == other) is (first == second)


@given(counter=counters, index=st.integers(0, 2**32 - 2))
def test_a_value_that_was_put_never_has_the_id_of_a_result(counter: int, index: int) -> None:
    """They count with one counter; the last index is kept for what was put."""
    scope = ids.child_scope(JOB, PARENT, 0)

    assert ids.put_id(scope, counter) != ids.result_id(ids.task_id(scope, counter), index)


def test_indices_around_the_end_of_the_prepared_ones_are_encoded_alike() -> None:
    task = ids.task_id(b"s" * 12, 0)

    ends = [ids.result_id(task, index)[-4:] for index in (62, 63, 64, 65)]

    assert [int.from_bytes(end, "big") for end in ends] == [62, 63, 64, 65]


def test_equal_code_has_one_name_and_other_code_another() -> None:
    assert ids.function_id(b"code").hex() == "6f8ef887023cf1f84aeb493c54d26b75"
    assert ids.function_id(b"code") != ids.function_id(b"code ")


def test_short_form_tells_siblings_apart() -> None:
    tasks = [ids.task_id(b"s" * 12, counter) for counter in range(20)]
    results = [ids.result_id(task, 0) for task in tasks]

    assert len({ids.short(task) for task in tasks}) == 20
    assert [ids.short(result) for result in results] == [ids.short(task) for task in tasks]
    assert all(len(ids.short(task)) == 8 for task in tasks)


def test_short_form_of_something_short_is_all_of_it() -> None:
    assert ids.short(b"\x01\x02") == "0102"
    assert ids.short(b"") == ""
