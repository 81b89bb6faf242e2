"""Errors that nobody gets are kept, listed and shown: once, and late where the program may get them yet."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.runtime import pushed_errors
from nbray.runtime.pushed_errors import push
from tests.support.drivers import driver
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2, log_to_driver=False, object_store_memory=80 << 20):
        yield


def of_kind(kind: str, word: str = "") -> list[Any]:
    return [error for error in nbray.errors() if error["type"] == kind and word in error["message"]]


def pushed(kind: str, word: str = "", count: int = 1) -> list[Any]:
    """The errors of that kind, when there are so many."""
    until(lambda: len(of_kind(kind, word)) >= count, f"{count} errors of kind {kind} came")
    return of_kind(kind, word)


# --- what is kept ------------------------------------------------------------------------------------------


def test_every_failed_task_is_listed_whether_or_not_its_result_is_got() -> None:
    @nbray.remote
    def fails(word: str) -> None:
        raise ValueError(word)

    before_s = time.time()
    with pytest.raises(ValueError, match="somebody asks"):
        nbray.get(fails.remote("somebody asks"))
    fails.remote("nobody asks")

    (asked,) = pushed("task", "somebody asks")
    (alone,) = pushed("task", "nobody asks")
    for error in (asked, alone):
        assert "ValueError" in error["message"]
        assert "raise ValueError(word)" in error["message"]
        assert before_s - 1 < error["timestamp"] < time.time() + 1
    assert len(of_kind("task", "somebody asks")) == 1


def test_entries_answer_to_the_spelling_of_both_eras() -> None:
    push("checkpoint", "saved nowhere: é")

    (error,) = pushed("checkpoint", "nowhere")

    assert error["type"] == "checkpoint"
    assert error[b"type"] == b"checkpoint"
    assert error[b"message"].decode() == error["message"] == "saved nowhere: é"
    assert error.get(b"type") == b"checkpoint"
    assert error.get("data") is None
    assert b"message" in error
    assert b"data" not in error
    assert set(error) == {"type", "message", "timestamp"}
    assert nbray.error_info() == nbray.errors()
    assert nbray.error_info(worker=nbray.worker.global_worker)[-1][b"type"]


def test_errors_of_all_jobs_are_a_dict_by_job() -> None:
    push("checkpoint", "of this job")
    pushed("checkpoint", "of this job")

    everything = nbray.errors(all_jobs=True)

    assert everything[nbray.worker.global_worker.current_job_id.hex()] == nbray.errors()


def test_a_task_that_does_not_run_since_its_argument_failed_is_listed_as_failed() -> None:
    @nbray.remote
    def fails() -> None:
        raise ValueError("the root")

    @nbray.remote
    def follows(value: Any) -> Any:
        return value

    with pytest.raises(ValueError, match="the root"):
        nbray.get(follows.remote(fails.remote()))

    (error,) = pushed("task", "follows did not run")
    assert "ValueError: the root" in error["message"]


def test_a_result_that_cannot_be_pickled_is_listed_as_a_failure_of_its_task() -> None:
    @nbray.remote
    def locks() -> Any:
        return threading.Lock()

    locks.remote()

    (error,) = pushed("task", "task locks failed")
    assert "cannot be pickled" in error["message"]


def test_a_dead_worker_is_listed_once_when_its_task_is_given_up() -> None:
    @nbray.remote(max_retries=2)
    def leaves() -> None:
        sys.exit(9)

    leaves.remote()

    (error,) = pushed("worker_died", "leaves")
    assert "died or was killed while executing" in error["message"]
    assert "exited with code 9" in error["message"]
    assert "attempt 3 of 3" in error["message"]
    assert len(of_kind("worker_died", "leaves")) == 1


def test_code_that_a_worker_cannot_import_is_listed_once_for_each_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nbray_test_only_here.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # after init: workers do not know it
    import nbray_test_only_here  # type: ignore[import-not-found]

    function = nbray.remote(nbray_test_only_here.f)
    for _ in range(5):
        with pytest.raises(nbray.RayError, match="not imported properly"):
            nbray.get(function.remote())

    found = pushed("register_remote_function", "not imported properly")
    assert 1 <= len(found) <= 2  # workers
    assert "No module named" in found[0]["message"]
    assert len(pushed("task", "nbray_test_only_here", 5)) == 5
    del sys.modules["nbray_test_only_here"]


def test_a_function_with_much_captured_data_is_listed() -> None:
    data = np.zeros(1_300_000)

    @nbray.remote
    def captures() -> int:
        return len(data)

    with pytest.warns(UserWarning, match="captured data"):
        assert nbray.get(captures.remote()) == 1_300_000

    (error,) = pushed("pickling_large_object")
    assert "captures" in error["message"]


def test_a_task_that_no_node_can_run_is_listed() -> None:
    @nbray.remote(num_cpus=64)
    def large() -> None: ...

    with pytest.warns(RuntimeWarning, match="64"):  # noqa: PT031  (the warning comes while others work)
        ref = large.remote()
        (error,) = pushed("infeasible_task", "64")
    assert "large" in error["message"]
    del ref


def test_a_childs_task_that_no_node_can_run_is_listed_too() -> None:
    @nbray.remote(num_cpus=65)
    def larger() -> None: ...

    @nbray.remote
    def parent() -> int:
        ready, _rest = nbray.wait([larger.remote()], timeout=0.2)
        return len(ready)

    assert nbray.get(parent.remote(), timeout=10) == 0
    assert pushed("infeasible_task", "65")


def test_a_put_object_that_is_lost_is_listed() -> None:
    with driver(
        """
        import numpy
        nbray.init(num_cpus=1, object_store_memory=80 << 20, lru_evict=True)
        old = nbray.put(numpy.zeros(3_000_000))
        kept = [nbray.put(numpy.zeros(3_000_000)) for _ in range(4)]
        try:
            nbray.get(old)
        except nbray.UnreconstructableError as error:
            tell(str(error))
        deadline = time.time() + 5
        while not nbray.errors() and time.time() < deadline:
            time.sleep(0.01)
        tell([(error["type"], error["message"]) for error in nbray.errors()])
        """
    ) as running:
        text = running.told()
        assert running.told() == [["put_reconstruction", text]]


def test_a_failure_of_ours_in_a_worker_is_listed() -> None:
    @nbray.remote(max_retries=0)
    def breaks() -> None:
        from nbray.worker.executor import Executor

        def refuse(*_: Any) -> None:
            raise RuntimeError("planted")

        setattr(Executor, "_wait_for_work", refuse)  # noqa: B010  (mypy refuses the assignment)

    breaks.remote()

    (error,) = pushed("worker_crash")
    assert "RuntimeError: planted" in error["message"]


def test_many_nested_workers_are_listed_at_each_multiple_of_the_cpus() -> None:
    @nbray.remote
    def nest(depth: int) -> int:
        return 1 + (nbray.get(nest.remote(depth - 1)) if depth else 0)

    assert nbray.get(nest.remote(8), timeout=20) == 9

    found = pushed("worker_pool_large", count=2)
    assert [error["message"].split()[2] for error in found[:2]] == ["6", "8"]


def test_of_a_flood_the_last_ones_are_kept() -> None:
    for n in range(1200):
        push("checkpoint", f"flood {n}.")

    pushed("checkpoint", "flood 1199.")
    found = nbray.errors()

    assert len(found) <= 1000
    assert not [error for error in found if "flood 0." in error["message"]]


def test_a_long_message_loses_its_middle() -> None:
    push("checkpoint", "long " + "x" * 1_000_000 + " end \ud800")

    (error,) = pushed("checkpoint", "long ")

    assert len(error["message"]) < 70_000
    assert "characters cut" in error["message"]
    assert error["message"].endswith(" end \\ud800")


def test_a_worker_may_push_from_any_thread() -> None:
    @nbray.remote
    def tells() -> int:
        from nbray.runtime.pushed_errors import push

        thread = threading.Thread(target=push, args=("checkpoint", "from a thread of a task"))
        thread.start()
        thread.join()
        return os.getpid()

    nbray.get(tells.remote())

    assert len(pushed("checkpoint", "from a thread of a task")) == 1


def test_without_a_session_there_is_nothing_to_list_and_pushing_is_harmless() -> None:
    with driver(
        """
        from nbray.runtime.pushed_errors import push
        push("task", "nobody hears this")
        for look in (nbray.errors, nbray.error_info):
            try:
                look()
            except nbray.RayConnectionError as error:
                tell(type(error).__name__)
        """
    ) as running:
        assert running.told() == "RayConnectionError"
        assert running.told() == "RayConnectionError"


def test_local_mode_lists_its_errors_too() -> None:
    with driver(
        """
        nbray.init(local_mode=True)
        @nbray.remote
        def fails():
            raise ValueError("here")
        @nbray.remote
        def follows(value):
            return value
        ref = follows.remote(fails.remote())
        tell([error["type"] for error in nbray.errors()])
        tell([error["message"].splitlines()[0].split(" (pid")[0] for error in nbray.errors()])
        """
    ) as running:
        assert running.told() == ["task", "task"]
        first, second = running.told()
        assert first == "task fails failed"
        assert second.startswith("task follows did not run")


def test_names_of_all_releases_are_in_the_module_of_exceptions() -> None:
    from nbray import exceptions

    assert exceptions.RayGetError is exceptions.RayGetArgumentError is nbray.RayTaskError
    assert exceptions.WorkerCrashedError is nbray.RayWorkerError
    assert exceptions.TaskCancelledError is nbray.RayCancellationError
    assert exceptions.ObjectLostError is nbray.UnreconstructableError
    assert nbray.worker.RayTaskError is nbray.RayTaskError
    assert {name for name in nbray.__all__ if name.endswith("Error")} <= set(exceptions.__all__)


# --- what is shown -----------------------------------------------------------------------------------------

_SHOWING = """
    import logging
    from nbray.runtime import pushed_errors
    pushed_errors.GRACE_S = 0.5
    pushed_errors._BEFORE_S = 0.1
    shown = []
    class Keep(logging.Handler):
        def emit(self, record):
            shown.append((record.levelname, record.getMessage()))
    logging.getLogger("nbray").addHandler(Keep())
    nbray.init(num_cpus=2, log_to_driver=False, **OPTIONS)
    @nbray.remote(max_retries=0)
    def fails(word):
        if word == "exit":
            sys.exit(5)
        raise ValueError(word)
    def listed(count):
        deadline = time.time() + 10
        while len(nbray.errors()) < count and time.time() < deadline:
            time.sleep(0.005)
"""


def showing(script: str, options: str = "{}") -> Any:
    import textwrap

    return driver(textwrap.dedent(_SHOWING).replace("**OPTIONS", f"**{options}") + textwrap.dedent(script))


def test_a_task_error_that_nobody_gets_is_shown_late_and_once() -> None:
    assert pushed_errors.GRACE_S == 5.0
    with showing(
        """
        fails.remote("alone")
        listed(1)
        tell(shown)
        time.sleep(0.8)
        tell(shown)
        time.sleep(0.8)
        tell(len(shown))
        """
    ) as running:
        assert running.told() == []
        ((level, message),) = running.told()
        assert level == "ERROR"
        assert "nobody has got its result" in message
        assert "ValueError: alone" in message
        assert running.told() == 1


def test_a_task_error_is_not_shown_when_the_program_raised_one() -> None:
    with showing(
        """
        ref = fails.remote("asked for")
        try:
            nbray.get(ref)
        except ValueError:
            pass
        listed(1)
        ref = fails.remote("asked for later")
        listed(2)
        time.sleep(0.2)
        try:
            nbray.get(ref)
        except ValueError:
            pass
        time.sleep(0.8)
        tell(shown)
        """
    ) as running:
        assert running.told() == []


def test_a_dead_worker_is_shown_at_once_and_once() -> None:
    with showing(
        """
        fails.remote("exit")
        listed(1)
        deadline = time.time() + 0.4
        while not shown and time.time() < deadline:
            time.sleep(0.005)
        tell(shown)
        time.sleep(0.8)
        tell(len(shown))
        """
    ) as running:
        ((level, message),) = running.told()
        assert level == "WARNING"
        assert "died or was killed while executing task fails" in message
        assert running.told() == 1


def test_silent_mode_shows_no_errors() -> None:
    with showing(
        """
        fails.remote("exit")
        fails.remote("alone")
        listed(2)
        time.sleep(0.8)
        tell([shown, len(nbray.errors())])
        """,
        "{'driver_mode': nbray.SILENT_MODE}",
    ) as running:
        assert running.told() == [[], 2]


def test_of_many_task_errors_a_few_are_shown_and_the_others_counted() -> None:
    with showing(
        """
        for n in range(200):
            fails.remote(f"number {n}")
        listed(200)
        time.sleep(2.5)
        tell([message for level, message in shown if level == "ERROR"])
        tell([message for level, message in shown if level == "WARNING"])
        """
    ) as running:
        alone = running.told()
        assert 1 <= len(alone) <= 15
        counted = running.told()
        total = len(alone) + sum(int(message.split()[0]) for message in counted)
        assert total == 200
