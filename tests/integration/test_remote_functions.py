"""Remote functions to the letter: ways to call, what is in force when, what a worker cannot import."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from tests.support.drivers import driver
from tests.support.sessions import session, this_process
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


def process_is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


# --- ways to call ---------------------------------------------------------------------------------------


def test_all_ways_to_call_a_function_are_one() -> None:
    @nbray.remote
    def pair(a: Any, b: Any = 0) -> Any:
        return a, b

    one = nbray.put(1)

    assert nbray.get(pair._remote([1], {"b": 2})) == (1, 2)
    assert nbray.get(pair._remote(args=(1,), num_cpus=2)) == (1, 0)
    assert nbray.get(pair._remote(kwargs={"a": one, "b": one})) == (1, 1)
    assert nbray.get(pair._submit(args=[1, 2])) == (1, 2)
    assert nbray.get(pair.options(num_cpus=0.5).remote(1, b=one)) == (1, 1)
    assert nbray.get(pair._remote(args=[1, 2], num_return_vals=2)) == [1, 2]
    with pytest.raises(TypeError, match="pair"):
        pair._remote()


def test_options_that_are_given_again_and_again_are_not_remembered_again_and_again() -> None:
    @nbray.remote
    def one(x: Any) -> Any:
        return x

    def call_in_each_way() -> None:
        refs = [one.options(num_cpus=0.5, resources={}).remote(1), one._remote(args=[1], max_retries=0)]
        assert nbray.get([*refs, one.remote(1)]) == [1, 1, 1]

    call_in_each_way()
    known = len(this_process()._specs)
    for _ in range(20):
        call_in_each_way()

    assert len(this_process()._specs) == known


def test_number_of_results_may_be_changed_for_a_call_and_zero_gives_none() -> None:
    @nbray.remote(num_return_vals=3)
    def count(n: int) -> Any:
        return list(range(n))

    assert nbray.get(count.remote(3)) == [0, 1, 2]
    assert nbray.get(count._remote(args=[2], num_returns=2)) == [0, 1]
    assert nbray.get(count.options(num_return_vals=1).remote(4)) == [0, 1, 2, 3]
    assert count.options(num_returns=0).remote(5) is None
    assert nbray.get(count.options(num_cpus=2).remote(3)) == [0, 1, 2]


def test_impossible_quantity_is_refused_by_every_call_and_by_nothing_else() -> None:
    @nbray.remote(num_cpus=1.5)
    def f() -> int:
        return 1

    for _ in range(2):
        with pytest.raises(ValueError, match="num_cpus"):
            f.remote()
    with pytest.raises(ValueError, match="memory"):
        f.options(num_cpus=1, memory=1000).remote()
    assert nbray.get(f.options(num_cpus=1, memory=10**8).remote()) == 1


def test_task_that_needs_a_gpu_that_nobody_has_waits_and_says_so() -> None:
    @nbray.remote(num_gpus=1)
    def train() -> int:
        return 1

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ref = train.remote()
        until(lambda: [w for w in caught if "1 GPU" in str(w.message)], "the driver was warned")

    assert nbray.wait([ref], timeout=0) == ([], [ref])
    assert nbray.get(train.options(num_gpus=0).remote()) == 1


def test_submission_is_wrapped_by_the_invocation_decorator_here_and_in_workers() -> None:
    def doubled(submit: Any) -> Any:
        return lambda args, kwargs: [submit(args, kwargs), submit([10 * args[0]], kwargs)]

    def add(x: int, y: int = 1) -> int:
        return x + y

    add.__ray_invocation_decorator__ = doubled  # type: ignore[attr-defined]
    twice = nbray.remote(add)

    @nbray.remote
    def nested() -> Any:
        return nbray.get(twice.remote(3))

    assert nbray.get(twice.remote(1, y=2)) == [3, 12]
    assert nbray.get(twice.options(num_cpus=2).remote(1)) == [2, 11]
    assert nbray.get(nested.remote()) == [4, 31]


def test_builtin_functions_partials_and_methods_run() -> None:
    import functools

    words = ["b", "a"]

    assert nbray.get(nbray.remote(sorted).remote(words, reverse=True)) == ["b", "a"]
    assert nbray.get(nbray.remote(functools.partial(pow, 2)).remote(10)) == 1024
    assert nbray.get(nbray.remote("-".join).remote(words)) == "b-a"


def test_references_are_replaced_at_the_top_and_nowhere_else() -> None:
    ref = nbray.put("value")

    @nbray.remote
    def show(a: Any, b: Any, *rest: Any, c: Any, **more: Any) -> Any:
        inside = [b["ref"], rest[0][0], more["d"][0]]
        return a, [type(x).__name__ for x in inside], nbray.get(inside), c

    answer = nbray.get(show.remote(ref, {"ref": ref}, [ref], c=ref, d=(ref,)))

    assert answer == ("value", [type(ref).__name__] * 3, ["value"] * 3, "value")


# --- definitions ----------------------------------------------------------------------------------------


def test_function_may_use_what_is_defined_after_it() -> None:
    with driver("""
        nbray.init(num_cpus=2)
        @nbray.remote
        def f(n):
            return [LATER, helper(n), n if n == 0 else nbray.get(g.remote(n - 1))]
        @nbray.remote
        def g(n):
            return nbray.get(f.remote(n))
        def helper(n):
            return n * 100
        LATER = "later"
        tell(nbray.get(f.remote(2)))
    """) as running:
        assert running.told() == ["later", 200, ["later", 100, ["later", 0, 0]]]
        assert running.ended() == 0


def test_cell_that_is_run_again_counts_for_new_calls_even_if_only_a_global_changed() -> None:
    with driver("""
        nbray.init(num_cpus=2)
        cell = '''
        @nbray.remote
        def f():
            return FACTOR
        '''.replace("        ", "")
        refs = []
        for FACTOR in range(5):
            exec(compile(cell, "cell", "exec"), globals())
            refs.append([f.remote() for _ in range(200)])
        FACTOR = 99
        refs.append([f.remote()])               # the definition was pickled at its first call
        refs.append([f.options(num_cpus=1).remote()])   # and options are no new definition
        tell([sorted(set(nbray.get(some))) for some in refs])
        tell([len(some) for some in refs])
    """) as running:
        assert running.told() == [[0], [1], [2], [3], [4], [4], [4]]
        assert running.told() == [200] * 5 + [1, 1]
        assert running.ended() == 0


def test_next_session_pickles_anew() -> None:
    with driver("""
        FACTOR = 1
        @nbray.remote
        def f():
            return FACTOR
        for FACTOR in (2, 3):
            nbray.init(num_cpus=1)
            tell(nbray.get(f.remote()))
            nbray.shutdown()
    """) as running:
        assert [running.told(), running.told()] == [2, 3]
        assert running.ended() == 0


def test_two_drivers_may_use_one_name_for_different_functions() -> None:
    script = """
        nbray.init(num_cpus=1)
        @nbray.remote
        def f():
            return os.environ["ANSWER"] * VALUE
        VALUE = int(hear())
        tell(nbray.get([f.remote() for _ in range(3)]))
    """
    with driver(script, env={"ANSWER": "a"}) as one, driver(script, env={"ANSWER": "b"}) as other:
        one.say("1")
        other.say("2")

        assert (one.told(), other.told()) == (["a"] * 3, ["bb"] * 3)
        assert (one.ended(), other.ended()) == (0, 0)


def test_source_need_not_be_ascii() -> None:
    @nbray.remote
    def größe(länge: str = "ñ") -> str:  # noqa: PLC2401
        return f"日本 {länge} 🚀"

    assert nbray.get(größe.remote(länge="π")) == "日本 π 🚀"
    assert nbray.get(größe.remote()) == "日本 ñ 🚀"


def test_captured_reference_stays_although_nobody_else_holds_it() -> None:
    def make() -> Any:
        ref = nbray.put(np.arange(50_000))
        return nbray.remote(lambda: int(nbray.get(ref).sum()))

    total = make()

    assert nbray.get([total.remote() for _ in range(3)]) == [sum(range(50_000))] * 3


def test_large_capture_warns_and_one_that_cannot_be_sent_is_refused_and_says_what_to_do() -> None:
    data = np.zeros(1_500_000)
    huge = np.zeros(10_000_000)

    with pytest.warns(UserWarning, match=r"code of summed is 12 MB.*nbray\.put") as caught:
        assert nbray.get(nbray.remote(_capturing(data)).remote()) == 0
    assert [os.path.basename(warning.filename) for warning in caught] == [os.path.basename(__file__)]

    with pytest.raises(nbray.SerializationError, match=r"80 MB .*nbray\.put"):
        nbray.remote(_capturing(huge)).remote()


def _capturing(data: Any) -> Any:
    def summed() -> float:
        return float(data.sum())

    return summed


def test_definition_that_is_exported_a_hundred_times_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def logged() -> list[str]:
        return [r.getMessage() for r in caplog.records if "again_and_again" in r.getMessage()]

    for number in range(99):
        assert nbray.get(_again_and_again(number).remote()) == number
    assert logged() == []

    with caplog.at_level(logging.WARNING, "nbray"):
        nbray.get([_again_and_again(number).remote() for number in range(20)])
        until(logged, "the log has it")

    assert len(logged()) == 1
    assert "has been exported 100 times" in logged()[0]


def _again_and_again(number: int) -> Any:
    @nbray.remote
    def again_and_again() -> int:
        return number

    return again_and_again


def test_definitions_inside_tasks_are_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    @nbray.remote
    def outer() -> Any:
        @nbray.remote
        def defined_inside() -> int:
            return 1

        return nbray.get(defined_inside.remote())

    with caplog.at_level(logging.WARNING, "nbray"):
        assert nbray.get([outer.remote() for _ in range(120)]) == [1] * 120
        until(lambda: "defined_inside has been exported 100 times" in caplog.text, "the log has it")


def test_function_that_is_an_argument_of_many_tasks_is_no_new_definition(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @nbray.remote
    def handed_on() -> int:
        return 1

    @nbray.remote
    def call(f: Any) -> Any:
        return nbray.get(f.remote())

    assert nbray.get([call.remote(handed_on) for _ in range(120)]) == [1] * 120
    assert "handed_on" not in caplog.text


# --- what a worker can import ---------------------------------------------------------------------------


def test_function_that_a_worker_cannot_import_fails_each_call_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "missing_there.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # after init: workers do not know it
    import missing_there  # type: ignore[import-not-found]

    f = nbray.remote(num_returns=2)(missing_there.f)

    for ref in [*f.remote(), *f.remote()]:
        with pytest.raises(nbray.RayTaskError, match=r"f was not imported properly.*No module named"):
            nbray.get(ref, timeout=10)
    del sys.modules["missing_there"]


def test_workers_find_modules_in_the_scripts_folder_and_in_the_working_directory(tmp_path: Path) -> None:
    scripts, work = tmp_path / "scripts", tmp_path / "work"
    for folder, name in ((scripts, "beside_the_script"), (work, "in_the_folder")):
        folder.mkdir()
        (folder / f"{name}.py").write_text(f"NAME = {name!r}\n")
    (scripts / "main.py").write_text(
        textwrap.dedent("""
        import nbray, os, sys
        nbray.init(num_cpus=1)
        @nbray.remote
        def names():
            import beside_the_script, in_the_folder
            return beside_the_script.NAME, in_the_folder.NAME, os.getcwd()
        print(*nbray.get(names.remote()))
        """)
    )
    import subprocess

    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, str(scripts / "main.py")],
        cwd=work, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.stdout.split() == ["beside_the_script", "in_the_folder", str(work)], done.stderr


# --- max_calls ------------------------------------------------------------------------------------------


def test_worker_ends_after_max_calls_runs_and_no_call_is_lost() -> None:
    @nbray.remote(max_calls=3, max_retries=0)
    def pid(fail: bool = False) -> int:
        if fail:
            raise ValueError
        return os.getpid()

    failed = [pid.remote(fail=True) for _ in range(3)]
    pids = nbray.get([pid.remote() for _ in range(27)])

    runs = Counter(pids)
    assert all(count <= 3 for count in runs.values())
    for ref in failed:
        with pytest.raises(ValueError, match=r"^task pid"):
            nbray.get(ref)
    for number in [number for number, count in runs.items() if count == 3]:
        until(lambda number=number: process_is_gone(number), "a worker that is used up is gone")  # type: ignore[misc]


def test_max_calls_may_be_given_for_a_call_and_zero_means_never() -> None:
    @nbray.remote
    def pid() -> int:
        return os.getpid()

    once = [nbray.get(pid.options(max_calls=1).remote()) for _ in range(3)]
    for number in once:
        until(lambda number=number: process_is_gone(number), "it ran once")  # type: ignore[misc]
    again = {nbray.get(pid.options(max_calls=0).remote()) for _ in range(20)}

    assert len(set(once)) == 3
    assert not any(map(process_is_gone, again))


def test_used_up_worker_stays_until_its_own_children_are_done(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"

    @nbray.remote
    def child(number: int) -> None:
        while not go_on.exists():
            time.sleep(0.002)
        (tmp_path / f"child {number}").touch()

    @nbray.remote(max_calls=1, num_cpus=2)
    def parent() -> int:
        for number in range(4):  # more than run at once
            child.remote(number)
        return os.getpid()

    pid = nbray.get(parent.remote())
    # Its own CPUs are free again, though it waits: another task runs.
    assert nbray.get(nbray.remote(num_cpus=0)(os.getppid).remote(), timeout=10)
    assert not process_is_gone(pid)

    go_on.touch()

    until(lambda: len(list(tmp_path.glob("child *"))) == 4, "all children ran")
    until(lambda: process_is_gone(pid), "and then their parent went")
