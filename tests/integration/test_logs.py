"""What tasks write reaches the driver: whole lines, with the task's name, before the task's result."""

# ruff: noqa: T201  (the tasks of these tests print)

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

import nbray
from tests.support.sessions import session
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def _plain_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without process IDs, which differ from run to run."""
    monkeypatch.setenv("NBRAY_RENDERER", "text")


@pytest.mark.usefixtures("_cluster")
class TestShown:
    def test_print_appears_with_the_tasks_name_before_get_returns(self, capsys: Capture) -> None:
        @nbray.remote
        def train(n: int) -> int:
            print("epoch", n)
            return n

        for n in range(100):
            assert nbray.get(train.remote(n)) == n
            assert capsys.readouterr().out == f"(train) epoch {n}\n"

    def test_lines_of_many_tasks_are_all_there_when_their_results_are(self, capsys: Capture) -> None:
        @nbray.remote
        def work(n: int) -> None:
            print(f"one {n}\ntwo {n}")

        nbray.get([work.remote(n) for n in range(200)])

        lines = capsys.readouterr().out.splitlines()
        assert sorted(lines) == sorted(f"(work) {word} {n}" for n in range(200) for word in ("one", "two"))
        for n in range(200):
            assert lines.index(f"(work) one {n}") < lines.index(f"(work) two {n}")

    def test_tag_names_the_process_unless_output_is_to_be_the_same_in_every_run(
        self, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        @nbray.remote
        def work() -> int:
            print("here")
            return os.getpid()

        monkeypatch.delenv("NBRAY_RENDERER")
        pid = nbray.get(work.remote())

        assert capsys.readouterr().out == f"(work pid={pid}) here\n"

    def test_wait_shows_lines_before_it_says_ready(self, capsys: Capture) -> None:
        @nbray.remote
        def work() -> None:
            print("here")

        ref = work.remote()
        nbray.wait([ref])

        assert capsys.readouterr().out == "(work) here\n"

    def test_stderr_goes_to_stderr(self, capsys: Capture) -> None:
        @nbray.remote
        def warn() -> None:
            print("careful", file=sys.stderr)
            sys.stderr.write("very\n")

        nbray.get(warn.remote())

        assert capsys.readouterr() == ("", "(warn) careful\n(warn) very\n")

    def test_partial_lines_become_whole_ones(self, capsys: Capture) -> None:
        @nbray.remote
        def dots() -> None:
            for _ in range(5):
                print(".", end="", flush=True)
            print()
            print("no end", end="")

        nbray.get(dots.remote())
        nbray.get(dots.remote())

        assert capsys.readouterr().out == "(dots) .....\n(dots) no end\n" * 2

    def test_text_of_every_kind_arrives(self, capsys: Capture) -> None:
        @nbray.remote
        def speak() -> None:
            print("żółw 🐢")
            print()
            print("\ud800")
            print("x" * 200_000)

        nbray.get(speak.remote())

        assert capsys.readouterr().out == "".join(
            f"(speak) {line}\n" for line in ("żółw 🐢", "", "\\ud800", "x" * 200_000)
        )

    def test_two_thousand_lines_arrive_in_order_before_the_result(self, capsys: Capture) -> None:
        @nbray.remote
        def talk() -> None:
            for n in range(2_000):
                print(n)

        nbray.get(talk.remote())

        assert capsys.readouterr().out == "".join(f"(talk) {n}\n" for n in range(2_000))

    def test_writes_past_python_arrive_too(self, capsys: Capture) -> None:
        @nbray.remote
        def native() -> None:
            os.write(1, b"from C\n")
            subprocess.run(["echo", "from a child"], check=True)
            os.write(2, b"complaint\n")
            sys.stdout.buffer.write(b"from the buffer\n")

        nbray.get(native.remote())
        out, err = [], []

        def all_there() -> bool:
            captured = capsys.readouterr()
            out.append(captured.out)
            err.append(captured.err)
            wanted = ("from C\n", "from a child\n", "from the buffer\n")
            return all(text in "".join(out) for text in wanted) and "complaint\n" in "".join(err)

        until(all_there, "what C code wrote is here")

    def test_nested_tasks_speak_under_their_own_names(self, capsys: Capture) -> None:
        @nbray.remote
        def inner() -> None:
            print("inside")

        @nbray.remote
        def outer() -> None:
            print("before")
            nbray.get(inner.remote())
            print("after")

        nbray.get(outer.remote())

        assert sorted(capsys.readouterr().out.splitlines()) == [
            "(inner) inside",
            "(outer) after",
            "(outer) before",
        ]

    def test_failed_task_shows_what_it_printed_first(self, capsys: Capture) -> None:
        @nbray.remote
        def fail() -> None:
            print("so far so good")
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011  (its text does not matter here)
            nbray.get(fail.remote())

        assert capsys.readouterr().out == "(fail) so far so good\n"

    def test_driver_whose_stdout_is_closed_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @nbray.remote
        def say() -> int:
            print("to nobody")
            return 1

        with open(os.devnull, "w") as closed:
            pass
        for target in (closed, None):
            monkeypatch.setattr(sys, "stdout", target)
            assert nbray.get(say.remote()) == 1
        monkeypatch.undo()


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    """A driver of its own, to see all that it writes."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_nothing_is_shown_with_log_to_driver_off() -> None:
    done = run_script("""
        import os, sys, nbray
        nbray.init(num_cpus=1, log_to_driver=False)
        @nbray.remote
        def say():
            print("silence")
            print("silence", file=sys.stderr)
            os.write(1, b"silence\\n")
        nbray.get([say.remote() for _ in range(5)])
        nbray.status()  # what was written has passed the daemon by now
    """)

    assert (done.stdout, done.stderr) == ("", "")


def test_lines_written_just_before_the_end_are_not_lost() -> None:
    done = run_script("""
        import nbray
        nbray.init(num_cpus=1)
        @nbray.remote
        def say(n):
            print("line", n)
        nbray.get([say.remote(n) for n in range(50)])
    """)

    assert done.stdout.splitlines() == [f"(say) line {n}" for n in range(50)]
    assert done.stderr == ""


def test_lines_of_tasks_that_nobody_got_still_appear_at_the_end() -> None:
    done = run_script("""
        import nbray
        nbray.init(num_cpus=1)
        @nbray.remote
        def say(n):
            print("line", n)
        nbray.wait([say.remote(n) for n in range(5)], num_returns=5)
    """)

    assert done.stdout.splitlines() == [f"(say) line {n}" for n in range(5)]
