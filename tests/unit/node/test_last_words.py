"""Of what a dead worker wrote to stderr, the lines that say the most."""

from __future__ import annotations

from nbray.node import last_words as module
from nbray.node.last_words import LINES_MAX, Shown, last_words

OURS = module.__file__.replace("node/last_words.py", "worker/executor.py")
REPORT = f"""Fatal Python error: Segmentation fault

Thread 0x00007f4a2677f6c0 (most recent call first):
  File "/usr/lib/python3/threading.py", line 982 in run

Current thread 0x00007f4a4f3c1b80 (most recent call first):
  File "/usr/lib/python3/ctypes/__init__.py", line 519 in string_at
  File "/home/user/work.py", line 8 in crash
  File "{OURS}", line 294 in _attempt
  File "<string>", line 1 in <module>

Extension modules: numpy._core (total: 1)""".splitlines()


def test_the_last_lines_are_kept() -> None:
    lines = [f"line {n}" for n in range(100)]

    assert last_words(lines).splitlines() == lines[-LINES_MAX:]
    assert last_words([]) == ""


def test_of_a_crash_only_the_users_frames_of_the_thread_that_crashed_are_shown() -> None:
    assert last_words(["before", *REPORT]).splitlines() == [
        "before",
        "Fatal Python error: Segmentation fault",
        "Current thread 0x00007f4a4f3c1b80 (most recent call first):",
        '  File "/usr/lib/python3/ctypes/__init__.py", line 519 in string_at',
        '  File "/home/user/work.py", line 8 in crash',
    ]


def test_of_a_deep_recursion_the_newest_frames_are_shown_and_some_lines_before() -> None:
    frames = [f'  File "/home/user/work.py", line {n} in again' for n in range(100)]
    before = [f"line {n}" for n in range(50)]

    words = last_words([*before, *REPORT[:1], *REPORT[5:6], *frames]).splitlines()

    assert len(words) == LINES_MAX
    assert words[5] == "line 49"
    assert words[6] == REPORT[0]
    assert words[8] == frames[0]


def test_a_stack_in_c_is_shown_as_well() -> None:
    in_c = ["Current thread's C stack trace (most recent call first):", '  Binary file "/usr/lib/libc.so.6"']

    assert last_words([*REPORT, "", *in_c]).splitlines()[-2:] == in_c


def test_while_a_worker_writes_people_see_the_same_lines_of_a_report_as_in_the_error() -> None:
    shown = Shown()

    seen = [line for each in ["before", *REPORT] for line in shown.of([each])]

    assert seen == last_words(["before", *REPORT]).splitlines()


def test_when_a_child_of_the_worker_crashed_what_others_write_is_shown() -> None:
    after = [f"line {n}" for n in range(50)]

    seen = Shown().of([*REPORT, "", *after])

    assert seen[-50:] == after
    assert seen[0] == REPORT[0]
