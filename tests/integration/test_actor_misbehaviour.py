"""Methods and constructors that misbehave: a value or a typed error, the next ten are right, nothing is left.

The rows of ``test_misbehaviour``, once without and once with three restarts and retries, in one session.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nbray
from nbray.model.actor_errors import RayActorError
from nbray.model.errors import RayTaskError, SerializationError
from tests.integration import test_misbehaviour as rows
from tests.support.drivers import is_gone, recorded
from tests.support.sessions import await_empty_store, session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

RETRIES = pytest.mark.parametrize("retries", [0, 3])


@pytest.fixture(scope="module", autouse=True)
def _cluster(_module_leaves_nothing_behind: None) -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False, logging_level="error"):
        yield


@nbray.remote
class Does:
    """Whatever it is told, in its constructor or in a method."""

    def __init__(self, act: Callable[[], Any] | None = None) -> None:
        self.calls = 0
        if act is not None:
            act()

    def do(self, act: Callable[[], Any]) -> Any:
        return act()

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()


def an_actor(retries: int, *args: Any) -> Any:
    if not retries:
        return Does.remote(*args)
    return Does.options(max_restarts=retries, max_task_retries=retries).remote(*args)


def assert_the_next_ten_are_right() -> None:
    """Of a fresh actor, and of tasks."""
    fresh = Does.remote()
    assert nbray.get([fresh.count.remote() for _ in range(10)], timeout=10) == list(range(1, 11))
    rows.assert_the_next_ten_are_right()


def assert_it_goes_on(actor: Any) -> None:
    """The actor itself has kept its state."""
    first = nbray.get(actor.count.remote(), timeout=10)
    assert nbray.get([actor.count.remote() for _ in range(10)], timeout=10) == [
        first + n for n in range(1, 11)
    ]
    assert_the_next_ten_are_right()


def deaths() -> int:
    return sum(error["type"] == "worker_died" for error in nbray.errors())


def crash(act: Callable[[], Any]) -> Callable[[], Any]:
    def without_core_dump() -> Any:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return act()

    return without_core_dump


# --- processes that end -----------------------------------------------------------------------------------

#: All rows but sys.exit run once; one of each sort is tried again after restarts, too.
ENDS = [(name, 0) for name in rows.ENDS if not name.startswith("sys.exit")]
ENDS += [(name, 3) for name in ("abort", "SIGKILL", "_exit 0", "stack overflow in json")]


@pytest.mark.parametrize(("end", "retries"), ENDS)
def test_an_actor_whose_process_ends_is_a_typed_error_that_says_how(end: str, retries: int) -> None:
    act, term_signal, exit_code, is_crash = rows.ENDS[end]
    if end.startswith("stack overflow") and sys.version_info >= (3, 12):
        pytest.skip("Python guards its C stack from 3.12 on: a RecursionError, or no error at all")
    before = deaths()
    actor = an_actor(retries)
    pid = nbray.get(actor.pid.remote(), timeout=10)

    with pytest.raises(RayActorError) as caught:
        nbray.get(actor.do.remote(crash(act)), timeout=20)

    error = caught.value
    assert (error.term_signal, error.exit_code) == (term_signal, exit_code)
    assert error.class_name == "Does"
    assert error.pid == pid or retries
    if is_crash:
        assert "Fatal Python error" in error.stderr_tail
        assert "in without_core_dump" in error.stderr_tail or "stack overflow" in end
        assert "executor.py" not in error.stderr_tail
        assert "Fatal Python error" in str(error)
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote(), timeout=10)
    until(lambda: deaths() == before + retries + 1, "each death was pushed once", 5.0)
    assert "died or was killed while executing" in nbray.errors()[-1]["message"]
    assert_the_next_ten_are_right()


@RETRIES
@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_method_is_the_actors_own_will(code: int, retries: int) -> None:
    before = len(nbray.errors())
    actor = an_actor(retries)

    with pytest.raises(RayActorError, match=r"exit_actor\(\) or sys.exit\(\)") as caught:
        nbray.get(actor.do.remote(lambda: sys.exit(code)), timeout=10)
    with pytest.raises(RayActorError):
        nbray.get(actor.count.remote(), timeout=10)

    assert caught.value.pid == 0
    assert len(nbray.errors()) == before
    assert_the_next_ten_are_right()


@RETRIES
def test_recursion_without_end_is_an_ordinary_failure(retries: int) -> None:
    actor = an_actor(retries)

    def forever() -> None:
        def again() -> None:
            again()

        again()

    with pytest.raises(RecursionError):
        nbray.get(actor.do.remote(forever), timeout=10)
    assert_it_goes_on(actor)


# --- descriptors ------------------------------------------------------------------------------------------


@RETRIES
@pytest.mark.parametrize(
    "act",
    [rows._close_all, rows._close_all_and_stay, rows._over_all_sockets, rows._close_newest_socket],
)
def test_an_actor_that_closes_our_descriptors_is_told_so(act: Callable[[], Any], retries: int) -> None:
    actor = an_actor(retries)
    nbray.get(actor.count.remote(), timeout=10)

    with pytest.raises(RayActorError, match="transport was closed by the task"):
        nbray.get(actor.do.remote(act), timeout=20)
    assert_the_next_ten_are_right()


@pytest.mark.parametrize("fds", [(0, 1, 2), (1,), (2,)])
def test_an_actor_may_close_its_standard_streams_and_goes_on(fds: tuple[int, ...]) -> None:
    actor = Does.remote()

    def closes() -> None:
        for fd in fds:
            os.close(fd)

    nbray.get(actor.do.remote(closes), timeout=10)
    time.sleep(0.5)  # a worker of tasks would be replaced by now

    assert_it_goes_on(actor)


# --- what cannot travel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", rows.UNPICKLABLE)
def test_a_result_that_cannot_be_pickled_is_named_with_its_path(kind: str) -> None:
    make = rows.UNPICKLABLE[kind]

    for retries in (0, 3):
        actor = an_actor(retries)
        with pytest.raises(SerializationError, match=r"result\[3\]\['x'\]"):
            nbray.get(actor.do.remote(lambda: [0, 1, 2, {"x": make()}]), timeout=10)
    assert_it_goes_on(actor)


@pytest.mark.parametrize("kind", ["lock", "generator", "reduce exits"])
def test_an_argument_that_cannot_be_pickled_is_refused_at_the_call_with_its_path(kind: str) -> None:
    value, actor = rows.UNPICKLABLE[kind](), Does.remote()

    with pytest.raises(SerializationError, match=r"args\[0\]\[3\]\['x'\]"):
        actor.do.remote([0, 1, 2, {"x": value}])
    with pytest.raises(SerializationError, match=r"kwargs\['act'\]"):
        Does.remote(act=value)
    assert_it_goes_on(actor)


def test_nothing_of_a_failed_result_stays_in_the_store() -> None:
    def large_and_bad() -> Any:
        import numpy as np

        return [np.ones(300_000), threading.Lock()]

    actor = an_actor(3)
    with pytest.raises(SerializationError):
        nbray.get(actor.do.remote(large_and_bad), timeout=10)

    await_empty_store()


# --- its process is its own -------------------------------------------------------------------------------


def test_what_an_actor_changes_of_its_process_stays_and_is_nobody_elses() -> None:
    before = nbray.get(rows.submitted(rows._surroundings, 0), timeout=10)
    actor = Does.remote()

    def changes() -> None:
        os.chdir("/")
        os.umask(0)

    nbray.get(actor.do.remote(changes), timeout=10)

    found = nbray.get(actor.do.remote(rows._surroundings), timeout=10)
    assert (found["cwd"], found["umask"]) == ("/", 0)
    for after in nbray.get([rows.submitted(rows._surroundings, 0) for _ in range(4)], timeout=10):
        assert after == before
    assert_it_goes_on(actor)


def test_an_actor_that_ignores_signals_can_be_killed() -> None:
    actor = Does.remote()

    def ignores() -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return os.getpid()

    (process,) = recorded([nbray.get(actor.do.remote(ignores), timeout=10)])
    nbray.kill(actor)

    until(lambda: is_gone(process), "it is gone", 3.0)
    assert_the_next_ten_are_right()


def test_an_actor_keeps_its_threads_and_they_may_get_results() -> None:
    actor = Does.remote()

    def leaves() -> int:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(nbray.get(rows.double.remote(4))))
        thread.start()
        thread.join()
        return found[0]

    assert nbray.get(actor.do.remote(leaves), timeout=10) == 8
    (process,) = recorded([nbray.get(actor.pid.remote(), timeout=10)])
    time.sleep(1.3)
    assert not is_gone(process)
    assert_it_goes_on(actor)


@RETRIES
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_returns_too_answers_nobody(retries: int) -> None:
    actor = an_actor(retries)

    assert nbray.get(actor.do.remote(lambda: "parent" if os.fork() else "child"), timeout=10) == "parent"
    assert_it_goes_on(actor)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *[(rows._plain_child, end) for end in ("exit", "crash", "sys.exit", "kill", "handles go")],
        *[(start, end) for start in (rows._own_session, rows._forked_twice) for end in ("crash", "kill")],
    ],
)
def test_children_of_an_actor_go_with_it(start: Callable[[], int], end: str) -> None:
    actor = Does.remote()
    (process,) = recorded([nbray.get(actor.do.remote(start), timeout=10)])
    ends: dict[str, Callable[[], Any]] = {
        "exit": lambda: os._exit(1), "crash": rows._kill_self("SIGKILL"), "sys.exit": lambda: sys.exit(0),
    }  # fmt: skip

    if end in ends:
        with pytest.raises(RayActorError):
            nbray.get(actor.do.remote(ends[end]), timeout=10)
    elif end == "kill":
        nbray.kill(actor)
    else:
        del actor

    until(lambda: is_gone(process), "the child is gone", 3.0)
    assert_the_next_ten_are_right()


# --- what is raised ---------------------------------------------------------------------------------------

KINDS = [KeyboardInterrupt, GeneratorExit, BaseException, StopIteration, TimeoutError]


@RETRIES
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_method_raises_is_raised_again_and_never_retried(
    kind: type[BaseException], retries: int, tmp_path: Any
) -> None:
    path, actor = str(tmp_path / "runs"), an_actor(retries)

    def fails() -> None:
        with open(path, "a") as file:
            file.write("x")
        raise kind("no more")

    with pytest.raises(kind) as caught:
        nbray.get(actor.do.remote(fails), timeout=10)

    assert isinstance(caught.value, RayTaskError)
    assert (tmp_path / "runs").read_text() == "x"
    assert_it_goes_on(actor)


# --- constructors -----------------------------------------------------------------------------------------


@RETRIES
@pytest.mark.parametrize("kind", [ValueError, *KINDS])
def test_whatever_a_constructor_raises_each_call_raises(kind: type[BaseException], retries: int) -> None:
    def fails() -> None:
        raise kind("not made")

    actor = an_actor(retries, fails)

    for _ in range(2):
        with pytest.raises(kind) as caught:
            nbray.get(actor.count.remote(), timeout=10)
        assert isinstance(caught.value, RayTaskError)
        assert "Does.__init__ failed" in str(caught.value)
    assert_the_next_ten_are_right()


@RETRIES
@pytest.mark.parametrize("end", ["abort", "SIGKILL", "_exit 0", "_exit 7"])
def test_a_constructor_that_ends_its_process_is_run_again_as_often_as_it_may(
    end: str, retries: int, tmp_path: Any
) -> None:
    act, term_signal, exit_code, is_crash = rows.ENDS[end]
    path = str(tmp_path / "runs")

    def ends() -> None:
        with open(path, "a") as file:
            file.write("x")
        crash(act)()

    actor = an_actor(retries, ends)
    with pytest.raises(RayActorError) as caught:
        nbray.get(actor.count.remote(), timeout=20)

    assert (caught.value.term_signal, caught.value.exit_code) == (term_signal, exit_code)
    assert (tmp_path / "runs").read_text() == "x" * (retries + 1)
    assert ("Fatal Python error" in str(caught.value)) == is_crash
    assert_the_next_ten_are_right()


@RETRIES
def test_sys_exit_in_a_constructor_is_the_actors_own_will(retries: int) -> None:
    before = len(nbray.errors())
    actor = an_actor(retries, lambda: sys.exit(3))

    with pytest.raises(RayActorError, match=r"sys\.exit"):
        nbray.get(actor.count.remote(), timeout=10)

    assert len(nbray.errors()) == before
    assert_the_next_ten_are_right()


def test_an_argument_that_failed_is_what_each_call_raises_and_no_constructor_runs(tmp_path: Any) -> None:
    def fails() -> None:
        raise LookupError("no argument")

    def runs() -> None:
        (tmp_path / "ran").touch()

    actor = Does.remote(rows.submitted(fails, 0))

    for _ in range(2):
        with pytest.raises(LookupError, match="no argument"):
            nbray.get(actor.count.remote(), timeout=10)
    assert_the_next_ten_are_right()
