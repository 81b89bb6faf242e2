"""notebooks/run.py in a real kernel: a failing cell fails the command, and saving is reproducible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from notebooks import run as runner

RUN = Path(runner.__file__)
pytestmark = [pytest.mark.integration, pytest.mark.notebook, pytest.mark.slow]


def write_a_notebook(path: Path, *sources: str) -> None:
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source) for source in sources]), path)


def test_a_failing_cell_fails_the_command_and_shows_why(tmp_path: Path) -> None:
    path = tmp_path / "story.ipynb"
    write_a_notebook(path, "print('begun')", "1 / 0", "print('never')")
    before = path.read_bytes()

    outcome = subprocess.run([sys.executable, RUN, path], check=False, capture_output=True, text=True)

    assert outcome.returncode == 1
    assert "[1/3] print('begun')\n      begun\n" in outcome.stdout
    assert "ZeroDivisionError: division by zero" in outcome.stdout
    assert "[3/3]" not in outcome.stdout
    assert path.read_bytes() == before


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "story.ipynb"
    write_a_notebook(path, "print('one')\nprint('two')", "1 + 1")

    runs = []
    for _ in range(2):
        subprocess.run([sys.executable, RUN, "--save", path], check=True, capture_output=True)
        runs.append(path.read_bytes())

    assert runs[0] == runs[1]
    assert runner.faults(nbformat.read(path, as_version=4)) == []
