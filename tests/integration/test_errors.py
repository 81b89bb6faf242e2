"""What goes wrong in a task arrives where its result is got, as what it was."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.sessions import await_empty_store, session

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


# --- exceptions -----------------------------------------------------------------------------------------


def test_exception_is_caught_as_its_own_class_and_tells_where_it_was_raised() -> None:
    @nbray.remote
    def half(n: int) -> float:
        return 1 / n

    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        nbray.get(half.remote(0))

    error = caught.value
    assert isinstance(error, nbray.RayTaskError)
    assert repr(error).startswith("RayTaskError(ZeroDivisionError)(")
    text = str(error)
    assert text.startswith("task half failed (pid ")
    assert "return 1 / n" in text
    assert "nbray/worker" not in text  # frames of ours are no help


def test_users_exception_keeps_its_arguments_attributes_and_methods() -> None:
    class QuotaError(Exception):
        def __init__(self, user: str, *, left: int) -> None:
            super().__init__(f"{user} has {left} left")
            self.user, self.left = user, left

        def doubled(self) -> int:
            return 2 * self.left

    @nbray.remote
    def spend() -> None:
        raise QuotaError("ann", left=3)

    with pytest.raises(QuotaError) as caught:
        nbray.get(spend.remote())

    error = caught.value
    assert (error.user, error.left, error.doubled()) == ("ann", 3, 6)
    assert error.args == ("ann has 3 left",)
    assert "ann has 3 left" in str(error)


def test_plain_exception_is_a_bare_task_error() -> None:
    @nbray.remote
    def fail() -> None:
        raise Exception("just that")  # noqa: TRY002  (that is the point)

    with pytest.raises(nbray.RayTaskError, match="just that") as caught:
        nbray.get(fail.remote())

    assert type(caught.value) is nbray.RayTaskError


def test_chain_of_causes_is_kept() -> None:
    @nbray.remote
    def fail() -> None:
        try:
            os.environ["NBRAY_TEST_NO_SUCH_KEY"]
        except KeyError as exc:
            raise RuntimeError("no such setting") from exc

    with pytest.raises(RuntimeError) as caught:
        nbray.get(fail.remote())

    assert "KeyError: 'NBRAY_TEST_NO_SUCH_KEY'" in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert isinstance(cause.__cause__, KeyError)


def test_failure_passes_through_nested_tasks_as_the_same_class() -> None:
    @nbray.remote
    def fail() -> None:
        raise LookupError("deep down")

    @nbray.remote
    def middle() -> Any:
        return nbray.get(fail.remote())

    @nbray.remote
    def top() -> Any:
        return nbray.get(middle.remote())

    with pytest.raises(LookupError, match="deep down") as caught:
        nbray.get(top.remote())

    assert repr(caught.value).startswith("RayTaskError(LookupError)(")


def test_body_does_not_run_when_an_argument_failed(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    @nbray.remote
    def fail() -> int:
        raise ValueError("first")

    @nbray.remote
    def touch(path: str, *values: int, **more: int) -> None:
        open(path, "w").close()

    bad = fail.remote()
    dependents = [touch.remote(str(ran), bad), touch.remote(str(ran), 1, x=bad), touch.remote(str(ran), bad)]
    last = touch.remote(str(ran), dependents[1])

    for ref in (*dependents, last):
        with pytest.raises(ValueError, match="first"):
            nbray.get(ref)
    assert not ran.exists()


def test_failed_task_fails_all_its_results() -> None:
    @nbray.remote(num_returns=3)
    def fail() -> Any:
        raise ValueError("all of them")

    for ref in fail.remote():
        with pytest.raises(ValueError, match="all of them"):
            nbray.get(ref)


def test_get_of_a_list_raises_without_waiting_for_the_rest(tmp_path: Path) -> None:
    @nbray.remote
    def fail() -> None:
        raise ValueError("early")

    @nbray.remote
    def stuck(path: str) -> None:
        while not os.path.exists(path):
            pass

    slow = stuck.remote(str(tmp_path / "go on"))
    with pytest.raises(ValueError, match="early"):
        nbray.get([slow, fail.remote()], timeout=10)

    (tmp_path / "go on").touch()
    nbray.get(slow, timeout=10)


def test_error_can_be_pickled_and_raised_again() -> None:
    @nbray.remote
    def fail() -> None:
        raise FileNotFoundError(2, "No such file", "data.csv")

    with pytest.raises(FileNotFoundError) as caught:
        nbray.get(fail.remote())
    again = pickle.loads(pickle.dumps(caught.value))

    for error in (caught.value, again):
        assert isinstance(error, FileNotFoundError)
        assert isinstance(error, nbray.RayTaskError)
        assert (error.errno, error.filename) == (2, "data.csv")


def test_failed_task_keeps_nothing_in_the_store() -> None:
    @nbray.remote
    def fail(array: Any) -> None:
        raise ValueError(array.sum())

    ref = fail.remote(np.ones(200_000))
    try:
        nbray.get(ref)
    except ValueError:
        pass
    del ref

    await_empty_store()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, BaseException])
def test_exceptions_that_are_no_exceptions_are_a_tasks_failure(kind: type[BaseException]) -> None:
    @nbray.remote
    def fail() -> None:
        raise kind("odd")

    with pytest.raises(nbray.RayTaskError, match="odd"):
        nbray.get(fail.remote())


# --- what cannot be pickled ------------------------------------------------------------------------------


def test_argument_that_cannot_be_pickled_is_refused_at_the_call_and_named() -> None:
    @nbray.remote
    def use(*args: Any, **kwargs: Any) -> None: ...

    lock = threading.Lock()

    with pytest.raises(nbray.SerializationError, match=r"args\[0\]\['model'\]\[1\].*lock"):
        use.remote({"model": [1, lock]})
    with pytest.raises(TypeError, match=r"kwargs\['guard'\]"):
        use.remote(guard=lock)
    with pytest.raises(nbray.SerializationError, match=r"value\.inner"):
        nbray.put(type("Holder", (), {"__init__": lambda self: setattr(self, "inner", lock)})())


def test_function_that_captured_what_cannot_be_pickled_is_refused_at_the_call() -> None:
    lock = threading.Lock()

    @nbray.remote
    def use() -> bool:
        return lock.locked()

    with pytest.raises(nbray.SerializationError, match="lock"):
        use.remote()


def test_result_that_cannot_be_pickled_is_a_typed_error_that_names_it() -> None:
    @nbray.remote
    def make() -> Any:
        return {"handles": [threading.Lock()]}

    with pytest.raises(nbray.SerializationError, match=r"result\['handles'\]\[0\].*lock"):
        nbray.get(make.remote())


def test_exception_that_cannot_be_pickled_keeps_its_text() -> None:
    @nbray.remote
    def fail() -> None:
        error = ValueError("the text stays")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(nbray.RayTaskError, match="the text stays"):
        nbray.get(fail.remote())


def test_value_whose_reading_fails_is_a_typed_error() -> None:
    class Rebuilt:
        def __reduce__(self) -> Any:
            return refuse, ()

    def refuse() -> None:
        raise OSError("no longer there")

    @nbray.remote
    def make() -> Any:
        return Rebuilt()

    @nbray.remote
    def take(value: Any) -> None: ...

    with pytest.raises(nbray.SerializationError, match="no longer there"):
        nbray.get(make.remote())
    with pytest.raises((nbray.SerializationError, nbray.RayTaskError), match="no longer there"):
        nbray.get(take.remote(Rebuilt()))


# --- declarations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [(1,), (1, 2, 3), [], 5, "ab", None])
def test_wrong_number_of_results_is_an_error_in_each(value: Any) -> None:
    @nbray.remote(num_returns=2)
    def give(value: Any) -> Any:
        return value

    for ref in give.remote(value):
        with pytest.raises(ValueError, match="num_returns=2"):
            nbray.get(ref)


def test_module_that_a_worker_does_not_have_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # after init: workers do not know it
    import only_here  # type: ignore[import-not-found]

    with pytest.raises(nbray.NbrayError, match="only_here"):
        nbray.get(nbray.remote(only_here.f).remote())
    del sys.modules["only_here"]


# --- processes that end ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (7, 7), (300, 44), ("text", 1)])
def test_exit_in_a_task_is_a_dead_worker_with_that_code(code: Any, expected: int) -> None:
    @nbray.remote(max_retries=0)
    def leave() -> None:
        sys.exit(code)

    with pytest.raises(nbray.RayWorkerError, match=f"exited with code {expected}") as caught:
        nbray.get(leave.remote())

    assert caught.value.exit_code == expected
    assert caught.value.term_signal == 0


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_signal_that_ended_a_worker_is_named(name: str) -> None:
    @nbray.remote(max_retries=0)
    def die() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), getattr(signal, name))

    with pytest.raises(nbray.RayWorkerError, match=f"was killed by {name}") as caught:
        nbray.get(die.remote())

    assert caught.value.term_signal == getattr(signal, name)
    assert caught.value.task_name == "die"


def test_last_words_on_stderr_are_in_the_error() -> None:
    @nbray.remote(max_retries=0)
    def die() -> None:
        os.write(2, b"disk on fire\n")
        os._exit(9)

    with pytest.raises(nbray.RayWorkerError, match="disk on fire"):
        nbray.get(die.remote())


def test_task_whose_worker_died_runs_again_as_often_as_it_may(tmp_path: Path) -> None:
    @nbray.remote(max_retries=2)
    def die_twice(folder: str) -> int:
        attempt = len(os.listdir(folder))
        open(f"{folder}/{attempt}", "w").close()
        if attempt < 2:
            os._exit(1)
        return attempt

    @nbray.remote(max_retries=1)
    def die_always() -> None:
        os._exit(1)

    assert nbray.get(die_twice.remote(str(tmp_path)), timeout=20) == 2
    with pytest.raises(nbray.RayWorkerError, match="attempt 2 of 2"):
        nbray.get(die_always.remote(), timeout=20)


def test_python_exception_is_not_retried(tmp_path: Path) -> None:
    @nbray.remote(max_retries=5)
    def fail(folder: str) -> None:
        open(f"{folder}/{len(os.listdir(folder))}", "w").close()
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        nbray.get(fail.remote(str(tmp_path)))

    assert len(list(tmp_path.iterdir())) == 1


def test_tasks_queued_behind_one_that_kills_its_worker_are_run_all_the_same() -> None:
    @nbray.remote(max_retries=0)
    def work(n: int) -> int:
        if n == 30:
            os._exit(1)
        return n

    refs = [work.remote(n) for n in range(60)]

    with pytest.raises(nbray.RayWorkerError):
        nbray.get(refs[30], timeout=20)
    assert nbray.get(refs[:30] + refs[31:], timeout=20) == [n for n in range(60) if n != 30]


def test_recursion_without_end_is_a_tasks_failure() -> None:
    @nbray.remote
    def forever() -> None:
        def again() -> None:
            again()

        again()

    with pytest.raises(RecursionError):
        nbray.get(forever.remote())


def test_task_that_may_not_be_retried_never_runs_twice(tmp_path: Path) -> None:
    @nbray.remote(max_retries=0)
    def once(folder: str, n: int) -> int:
        with open(f"{folder}/{n}", "x"):  # fails if the file is there
            pass
        if n % 20 == 19:
            os._exit(1)
        return n

    refs = [once.remote(str(tmp_path), n) for n in range(60)]

    for n, ref in enumerate(refs):
        if n % 20 == 19:
            with pytest.raises(nbray.RayWorkerError):
                nbray.get(ref, timeout=20)
        else:
            assert nbray.get(ref, timeout=20) == n


def test_healthy_task_does_not_fail_because_others_kill_its_worker(tmp_path: Path) -> None:
    @nbray.remote(max_retries=1)
    def work(n: int) -> int:
        if n % 10 == 9:
            os._exit(1)
        return n

    nbray.get([work.remote(0) for _ in range(200)])  # now they are known to be short, and pushed ahead
    refs = [work.remote(n) for n in range(60)]

    for n, ref in enumerate(refs):
        if n % 10 == 9:
            with pytest.raises(nbray.RayWorkerError, match="attempt 2 of 2"):
                nbray.get(ref, timeout=20)
        else:
            assert nbray.get(ref, timeout=20) == n
