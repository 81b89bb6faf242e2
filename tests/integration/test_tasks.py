"""Tasks as users write them: arguments, definitions, get and wait, many of them, from many threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from tests.support.sessions import await_forgotten, session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture
def add() -> Any:
    @nbray.remote
    def add(x: int, y: int = 1) -> int:
        return x + y

    return add


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Any]:
    """A task that takes no CPU and ends with the test."""
    go_on = tmp_path / "the test is over"

    @nbray.remote(num_cpus=0)
    def stuck() -> str:
        while not go_on.exists():
            time.sleep(0.005)
        return "ended"

    refs: list[Any] = []

    class Stuck:
        def remote(self) -> Any:
            refs.append(stuck.remote())
            return refs[-1]

    yield Stuck()
    go_on.touch()
    assert nbray.get(refs, timeout=10) == ["ended"] * len(refs)


# --- arguments ------------------------------------------------------------------------------------------


def test_all_kinds_of_parameters_arrive() -> None:
    @nbray.remote
    def show(a: Any, b: Any = 2, *rest: Any, c: Any, d: Any = 4, **more: Any) -> Any:
        return a, b, rest, c, d, more

    ref = nbray.put("value")

    assert nbray.get(show.remote(1, c=3)) == (1, 2, (), 3, 4, {})
    assert nbray.get(show.remote(1, 5, 6, 7, c=8, d=9, e=10)) == (1, 5, (6, 7), 8, 9, {"e": 10})
    assert nbray.get(show.remote(ref, ref, ref, c=ref, e=ref)) == (
        "value", "value", ("value",), "value", 4, {"e": "value"}
    )  # fmt: skip


@pytest.mark.parametrize(("args", "kwargs"), [
    ((), {}), ((1, 2, 3), {}), ((1,), {"z": 1}), ((1,), {"x": 1}), ((), {"y": 1}),
])  # fmt: skip
def test_arguments_that_do_not_fit_are_refused_at_the_call(add: Any, args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError, match="add"):
        add.remote(*args, **kwargs)


def test_call_without_remote_says_how_to_call() -> None:
    @nbray.remote
    def f() -> None: ...

    with pytest.raises(TypeError, match=r"\.remote\("):
        f()


def test_several_results_and_none() -> None:
    @nbray.remote(num_returns=3)
    def three() -> Any:
        return [1, "two", 3.0]

    @nbray.remote(num_returns=0)
    def none() -> Any:
        return "nobody will see this"

    refs = three.remote()

    assert nbray.get(refs) == [1, "two", 3.0]
    assert len(set(refs)) == 3
    assert none.remote() is None
    assert len(three.options(num_returns=3).remote()) == 3
    assert nbray.get(three.options(num_returns=1).remote()) == [1, "two", 3.0]


# --- definitions ----------------------------------------------------------------------------------------


def test_closures_lambdas_and_recursion_work() -> None:
    factor = 3

    @nbray.remote
    def times(x: int) -> int:
        return x * factor

    @nbray.remote
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * int(nbray.get(factorial.remote(n - 1)))

    double = nbray.remote(lambda x: 2 * x)

    assert nbray.get(times.remote(5)) == 15
    assert nbray.get(factorial.remote(6)) == 720
    assert nbray.get(double.remote(4)) == 8


def test_mutual_recursion_works_whatever_is_defined_first() -> None:
    @nbray.remote
    def is_even(n: int) -> bool:
        return True if n == 0 else nbray.get(is_odd.remote(n - 1))

    @nbray.remote
    def is_odd(n: int) -> bool:
        return False if n == 0 else nbray.get(is_even.remote(n - 1))

    assert nbray.get(is_even.remote(6)) is True
    assert nbray.get(is_odd.remote(4)) is False


def test_redefinition_counts_for_new_calls_and_old_calls_keep_the_old_body() -> None:
    refs: list[Any] = []
    for version in range(5):

        @nbray.remote
        def f() -> int:
            return version  # noqa: B023  (pickled at the first call, at once)

        refs += [f.remote() for _ in range(200)]

    assert nbray.get(refs) == [version for version in range(5) for _ in range(200)]


def test_functions_are_arguments_and_captured(add: Any) -> None:
    @nbray.remote
    def apply(f: Any, x: int) -> int:
        return sum(nbray.get([f.remote(x), add.remote(x)]))

    assert nbray.get(apply.remote(add, 10)) == 22


def test_captured_reference_stays_and_leads_to_its_value() -> None:
    ref = nbray.put([1, 2, 3])

    @nbray.remote
    def total() -> int:
        return sum(nbray.get(ref))

    assert nbray.get([total.remote() for _ in range(3)]) == [6, 6, 6]


def test_function_works_again_in_the_next_session(add: Any) -> None:
    assert nbray.get(add.remote(1)) == 2
    old = add.remote(2)
    nbray.shutdown()
    with pytest.raises(nbray.RayConnectionError):
        add.remote(1)
    nbray.init(num_cpus=2)

    assert nbray.get(add.remote(1)) == 2
    with pytest.raises(nbray.StaleSessionError):
        nbray.get(old)
    with pytest.raises(nbray.StaleSessionError):
        add.remote(old)


# --- get and wait ---------------------------------------------------------------------------------------


def test_get_keeps_order_and_takes_duplicates(add: Any) -> None:
    refs = [add.remote(n) for n in range(20)]
    shuffled = random.Random(1).sample(refs, 20) + refs[:3] + refs[:3]

    assert nbray.get(shuffled) == [refs.index(ref) + 1 for ref in shuffled]
    assert nbray.get([]) == []


def test_get_refuses_what_is_not_a_reference_or_a_list_of_them(add: Any) -> None:
    ref = add.remote(1)

    for wrong in ((ref,), {ref}, 5, None, "x", iter([ref])):
        with pytest.raises(ValueError, match="reference"):
            nbray.get(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="int"):
        nbray.get([ref, 5])  # type: ignore[list-item]


def test_get_with_timeout_gives_up_in_time_and_the_task_goes_on(stuck: Any) -> None:
    ref = stuck.remote()

    for timeout_s in (0, 0.05):
        started_s = time.monotonic()
        with pytest.raises(nbray.RayTimeoutError, match="stuck") as caught:
            nbray.get(ref, timeout=timeout_s)
        assert timeout_s <= time.monotonic() - started_s < timeout_s + 1
        assert isinstance(caught.value, TimeoutError)


def test_get_with_timeout_zero_takes_what_is_there(add: Any) -> None:
    ref = add.remote(1)
    nbray.wait([ref])

    assert nbray.get(ref, timeout=0) == 2


def test_wait_returns_in_input_order_at_most_what_was_asked_for(add: Any, stuck: Any) -> None:
    refs = [add.remote(0), stuck.remote(), add.remote(1), add.remote(2)]

    for count in (1, 2, 3):
        ready, rest = nbray.wait(refs, num_returns=count)
        assert len(ready) == count
        assert ready == [ref for ref in refs if ref in ready]
        assert rest == [ref for ref in refs if ref not in ready]
        assert refs[1] in rest
    ready, rest = nbray.wait(refs, num_returns=4, timeout=0.05)
    assert (ready, rest) == ([refs[0], refs[2], refs[3]], [refs[1]])
    assert nbray.wait(refs, num_returns=2, timeout=0) == ([refs[0], refs[2]], [refs[1], refs[3]])
    assert nbray.wait(refs, num_returns=1)[0] == [refs[0]]


def test_failed_tasks_count_as_ready(stuck: Any) -> None:
    @nbray.remote
    def fail() -> None:
        raise ValueError

    @nbray.remote(max_retries=0)
    def die() -> None:
        import os

        os._exit(1)

    refs = [stuck.remote(), fail.remote(), die.remote()]

    assert nbray.wait(refs, num_returns=2, timeout=10) == (refs[1:], refs[:1])


def test_wait_checks_its_arguments(add: Any) -> None:
    ref, other = add.remote(1), add.remote(2)

    for wrong in (ref, (ref,), {ref}, None, [ref, 5]):
        with pytest.raises(TypeError):
            nbray.wait(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        nbray.wait([ref], timeout=-1)
    with pytest.raises(ValueError, match="distinct"):
        nbray.wait([ref, other, ref])
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match="num_returns"):
            nbray.wait([ref, other], num_returns=count)
    assert nbray.wait([]) == ([], [])
    assert nbray.wait([], num_returns=5) == ([], [])


def test_references_are_values_of_their_own(add: Any) -> None:
    import copy
    import pickle

    ref = add.remote(1)

    twins = [copy.copy(ref), copy.deepcopy(ref), pickle.loads(pickle.dumps(ref))]

    assert all(twin == ref and hash(twin) == hash(ref) for twin in twins)
    assert len(ref.binary()) == 20
    del ref
    assert nbray.get(twins) == [2, 2, 2]


def test_put_of_a_reference_is_refused_and_of_a_list_of_them_is_not(add: Any) -> None:
    ref = add.remote(1)

    with pytest.raises(TypeError, match="list"):
        nbray.put(ref)
    assert nbray.get(nbray.get(nbray.put([ref]))) == [2]


def test_reference_that_a_task_returns_is_got_twice(add: Any) -> None:
    @nbray.remote
    def outer() -> Any:
        return add.remote(41)

    assert nbray.get(nbray.get(outer.remote())) == 42


# --- many -----------------------------------------------------------------------------------------------


def test_twenty_thousand_tasks_give_right_answers(add: Any) -> None:
    refs = [add.remote(n, n) for n in range(20_000)]

    assert nbray.get(refs) == [2 * n for n in range(20_000)]
    del refs
    await_forgotten()


def test_chain_of_five_hundred_tasks(add: Any) -> None:
    ref = add.remote(0)
    for _ in range(499):
        ref = add.remote(ref)

    assert nbray.get(ref) == 500


def test_tree_of_references_is_summed(add: Any) -> None:
    level = [add.remote(n, 0) for n in range(256)]
    while len(level) > 1:
        level = [add.remote(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]

    assert nbray.get(level[0]) == sum(range(256))


def test_references_dropped_before_completion_leave_nothing(add: Any) -> None:
    for n in range(500):
        add.remote(add.remote(n))

    await_forgotten()
    assert nbray.get(add.remote(1)) == 2


def run_in_threads(work: Callable[[int], None], count: int) -> None:
    """Each thread gets its number; the first exception of any is raised here."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as exc:  # noqa: BLE001  (raised below)
            failures.append(exc)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not [t for t in threads if t.is_alive()], "a thread hangs"
    if failures:
        raise failures[0]


def test_eight_threads_submit_and_get_at_once(add: Any) -> None:
    def work(number: int) -> None:
        for n in range(200):
            assert nbray.get(add.remote(n, number), timeout=30) == n + number

    run_in_threads(work, 8)


def test_threads_that_mix_put_get_wait_and_tasks_get_right_answers(add: Any) -> None:
    def work(number: int) -> None:
        rng = random.Random(number)
        for n in range(25):
            refs = [add.remote(nbray.put(n), k) for k in range(rng.randrange(1, 20))]
            ready, rest = nbray.wait(refs, num_returns=rng.randrange(1, len(refs) + 1), timeout=30)
            assert nbray.get(rest + ready, timeout=30) == [n + refs.index(ref) for ref in rest + ready]

    run_in_threads(work, 6)
    await_forgotten()


def test_threads_may_wait_for_the_same_object(stuck: Any, add: Any, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @nbray.remote
    def later() -> int:
        while not go_on.exists():
            time.sleep(0.002)
        return 5

    ref = later.remote()
    waiting: list[int] = []

    def work(number: int) -> None:
        waiting.append(number)
        assert nbray.get(ref, timeout=30) == 5

    def release() -> None:
        until(lambda: len(waiting) == 6 and this_process().loop.is_led(), "all wait")
        assert nbray.get(add.remote(1), timeout=30) == 2
        go_on.touch()

    run_in_threads(lambda number: work(number) if number < 6 else release(), 7)


def test_answer_that_nobody_waits_for_arrives_by_itself(add: Any) -> None:
    ref = add.remote(1)

    until(lambda: this_process().objects.table.entries[ref.binary()].value is not None, "the answer is here")
    assert nbray.get(ref, timeout=0) == 2
