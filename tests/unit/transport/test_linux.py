"""The kernel's side of processes: who descends from whom, who is dead, who dies with whom.

Called by:  pytest.
Imports:    nbray.transport.linux.
Never:      signals a process that the test did not start.

What changes the calling process (subreaper, death signal, reaping) runs in a child of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbray.transport import linux
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
NOBODY = 2**22 + 1  # above the largest PID that Linux gives


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def run_child(code: str) -> str:
    """Run Python of its own; returns what it printed."""
    head = "import os, signal, subprocess, sys\nfrom nbray.transport import linux\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        cwd=ROOT, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_this_system_is_supported() -> None:
    assert linux.is_supported()


def test_a_process_is_told_from_another_with_its_number_by_its_start(
    sleeper: subprocess.Popen[bytes],
) -> None:
    first = linux.start_time_of(sleeper.pid)

    assert first is not None
    assert linux.start_time_of(sleeper.pid) == first
    assert first >= (linux.start_time_of(os.getpid()) or 0)


def test_a_process_that_is_gone_has_no_start() -> None:
    assert linux.start_time_of(NOBODY) is None
    assert not linux.is_zombie(NOBODY)
    assert linux.children_of(NOBODY) == []
    linux.kill_quietly(NOBODY)


def test_names_with_blanks_and_brackets_do_not_confuse_the_fields() -> None:
    out = run_child(
        "before = linux.start_time_of(os.getpid())\n"
        "linux.set_process_title('a) S 1 (b')\n"
        "print(before == linux.start_time_of(os.getpid()), linux.is_zombie(os.getpid()))"
    )

    assert out == "True False"


def test_a_title_is_cut_to_what_the_kernel_shows() -> None:
    out = run_child(
        "linux.set_process_title('nbray:a-very-long-title')\nprint(open('/proc/self/comm').read())"
    )

    assert out == "nbray:a-very-lo"


def test_a_dead_child_is_a_zombie_until_it_is_reaped() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not linux.is_zombie(process.pid)

        linux.kill_quietly(process.pid)

        until(lambda: linux.is_zombie(process.pid), "a zombie")
        assert process.pid in linux.children_of(os.getpid())
    assert not linux.is_zombie(process.pid)


def test_descendants_are_found_parents_first() -> None:
    """The shell waits for its own child, so there are two generations."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())

        assert linux.children_of(shell.pid) == [grandchild]
        mine = linux.descendants_of(os.getpid())

        assert mine.index(shell.pid) < mine.index(grandchild)
        linux.kill_quietly(grandchild)
        linux.kill_quietly(shell.pid)


def test_children_of_every_thread_are_found() -> None:
    """A process belongs to the thread that forked it; a notebook's are started from many."""
    out = run_child(
        "import threading\n"
        "started, go = threading.Event(), threading.Event()\n"
        "def work():\n"
        "    global child\n"
        "    child = subprocess.Popen(['sleep', '60']); started.set(); go.wait()\n"
        "thread = threading.Thread(target=work); thread.start(); started.wait()\n"
        "print(linux.children_of(os.getpid()) == [child.pid])\n"
        "child.kill(); child.wait(); go.set(); thread.join()"
    )

    assert out == "True"


def test_reaping_collects_all_that_ended_and_nobody_else() -> None:
    out = run_child(
        "ends = [subprocess.Popen(['sh', '-c', f'exit {n}']) for n in (3, 4)]\n"
        "stays = subprocess.Popen(['sleep', '60'])\n"
        "got = {}\n"
        "while len(got) < 2: got.update(linux.reap_children())\n"
        "print(sorted(os.waitstatus_to_exitcode(got[p.pid]) for p in ends), linux.reap_children())\n"
        "stays.kill(); stays.wait(); [p.wait() for p in ends]"
    )

    assert out == "[3, 4] []"


def test_reaping_without_children_finds_nothing() -> None:
    assert run_child("print(linux.reap_children())") == "[]"


def test_a_subreaper_ends_its_whole_tree_also_orphans() -> None:
    out = run_child(
        "linux.become_subreaper()\n"
        "shell = subprocess.Popen(['sh', '-c', 'sleep 60 & sleep 60 & echo ready'], stdout=subprocess.PIPE)\n"
        "shell.stdout.read(6); shell.wait()\n"
        "print(linux.kill_all_descendants(), linux.descendants_of(os.getpid()))"
    )

    assert out == "2 []"


def test_ending_a_tree_that_is_empty_ends_at_once() -> None:
    assert run_child("print(linux.kill_all_descendants())") == "0"


def test_a_process_may_ask_to_die_with_its_parent() -> None:
    """The child tells its number, the parent is killed, and the kernel ends the child."""
    child_code = (
        "import os, time; from nbray.transport import linux; linux.die_with_parent(); "
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    parent_code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child_code!r}])"
    with subprocess.Popen([sys.executable, "-c", parent_code], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())

        parent.send_signal(signal.SIGKILL)

        until(lambda: linux.start_time_of(child) is None or linux.is_zombie(child), "the child's end")


def test_processes_are_found_by_a_mark_in_their_environment() -> None:
    mark = f"test-{os.getpid()}"
    environ = {**os.environ, "NBRAY_TEST_MARK": mark}
    with subprocess.Popen(["sleep", "60"], env=environ) as marked, subprocess.Popen(["sleep", "60"]) as other:
        until(lambda: linux.processes_marked("NBRAY_TEST_MARK", mark) == [marked.pid], "the mark to be seen")

        assert linux.processes_marked("NBRAY_TEST_MARK", mark[:-1]) == []
        marked.kill()
        other.kill()


def test_the_out_of_memory_killer_can_be_pointed_at_a_process() -> None:
    assert run_child("linux.raise_oom_score(); print(open('/proc/self/oom_score_adj').read())") == "800"


def test_signals_to_others_are_quiet(sleeper: subprocess.Popen[bytes]) -> None:
    linux.kill_quietly(sleeper.pid, signal.SIGTERM)

    assert sleeper.wait(timeout=10) == -signal.SIGTERM
    linux.kill_quietly(sleeper.pid)


def test_helper_is_kept_off_the_core_of_its_caller() -> None:
    """Where there is more than one: then it may run on all others, and the caller where it could before."""
    allowed = os.sched_getaffinity(0)
    go_on, seen = threading.Event(), list[set[int]]()

    def help_out() -> None:
        go_on.wait(10)
        seen.append(os.sched_getaffinity(0))

    helper = threading.Thread(target=help_out)
    helper.start()
    assert helper.native_id is not None
    linux.keep_off_this_core(helper.native_id)
    go_on.set()
    helper.join()

    assert os.sched_getaffinity(0) == allowed
    assert seen[0] <= allowed
    assert len(seen[0]) == max(1, len(allowed) - 1)


def test_helper_that_is_over_already_is_no_error() -> None:
    helper = threading.Thread(target=lambda: None)
    helper.start()
    helper.join()
    assert helper.native_id is not None

    linux.keep_off_this_core(helper.native_id)
