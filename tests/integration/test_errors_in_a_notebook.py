"""Errors of tasks in a real kernel: cells and lines by their names, nothing of nbray, nothing twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from notebooks import run as runner

pytestmark = [pytest.mark.integration, pytest.mark.notebook]

RUN = Path(runner.__file__)
START = """%load_ext nbray
%ray_init --num-cpus 2 --object-store 200MB --quiet
import ctypes, nbray, time

@nbray.remote
def divide(a):
    return 1 / a

@nbray.remote(max_retries=0)
def crash():
    ctypes.string_at(0)

@nbray.remote
def dawdle():
    while True:
        time.sleep(0.01)"""


def printed(folder: Path, *sources: str) -> list[str]:
    """What is seen below each cell; all but the first may fail."""
    path = folder / "story.ipynb"
    cells = [v4.new_code_cell(source) for source in (START, *sources, "%ray_shutdown")]
    for cell in cells[1:]:
        cell.metadata["tags"] = ["raises-exception"]
    nbformat.write(v4.new_notebook(cells=cells), path)
    done = subprocess.run(
        [sys.executable, RUN, path], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(r"^\[\d+/\d+\].*\n", done.stdout, flags=re.MULTILINE)[2:-1]


def test_a_traceback_quotes_the_cell_and_has_no_frame_of_nbray(tmp_path: Path) -> None:
    failed, again, listed = printed(
        tmp_path,
        "nbray.get(divide.remote(0))",
        "ref = divide.remote(divide.remote(0))\nnbray.get(ref)",
        "print(nbray.errors()[0]['message'])\nnbray.errors()",
    )

    for text in (failed, again):
        assert "  Cell In[1], line 7, in divide\n          return 1 / a\n" in text
        assert text.count("ZeroDivisionError: division by zero") == 1
        assert "direct cause" not in text
        assert "/nbray/" not in text
        assert "ipykernel_" not in text
    assert "----> 1 nbray.get(divide.remote(0))" in failed
    assert "Cell In[1], line 7, in divide" in listed
    assert "task  divide failed: ZeroDivisionError: division by zero" in listed


def test_a_crash_is_told_with_its_cell_and_without_threads_that_did_not_crash(tmp_path: Path) -> None:
    (crashed,) = printed(tmp_path, "nbray.get(crash.remote())")

    error = crashed[crashed.index("RayWorkerError: ") :]
    assert "was killed by SIGSEGV" in error
    assert "Cell In[1], line 11 in crash\n            ctypes.string_at(0)" in error
    for noise in ("Extension modules", "Thread 0x", "/nbray/", "ipykernel_"):
        assert noise not in crashed.replace("Current thread 0x", "")
    # Once as the worker wrote it, once in the error that get() raised.
    assert crashed.count("Fatal Python error: Segmentation fault") == 2


def test_why_names_the_line_of_a_cell_that_runs(tmp_path: Path) -> None:
    (why,) = printed(
        tmp_path,
        "ref = dawdle.remote()\n"
        "until = time.monotonic() + 20\n"
        "while 'dawdle at' not in str(nbray.why(ref)) and time.monotonic() < until: time.sleep(0.01)\n"
        "nbray.why(ref)",
    )

    assert re.search(r"in dawdle at Cell In\[1\], line 1[56]", why)
