"""``%ray_objects`` in a real kernel: outputs and tracebacks are known as holders, and dropped when asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4

from notebooks import run as runner

pytestmark = [pytest.mark.integration, pytest.mark.notebook]

RUN = Path(runner.__file__)
START = (
    "%load_ext nbray\n%ray_init --num-cpus 1 --object-store 200MB --quiet\nimport nbray, json, numpy as np"
)
#: Prints who holds what, by the ID's counter, without references of its own.
TELL = (
    "print(json.dumps([[(h['kind'], h['name']) for h in row['holders']] + [row['leak']] "
    "for row in nbray.memory().rows]))"
)


def run_cells(folder: Path, *sources: str, fails: tuple[int, ...] = ()) -> list[Any]:
    """The outputs of each cell: what a cell printed as JSON, else its text."""
    path = folder / "story.ipynb"
    cells = [v4.new_code_cell(source) for source in (START, *sources, "%ray_shutdown")]
    for number in fails:
        cells[number - 1].metadata["tags"] = ["raises-exception"]
    nbformat.write(v4.new_notebook(cells=cells), path)
    done = subprocess.run(
        [sys.executable, RUN, "--save", path], check=False, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [_said(cell) for cell in nbformat.read(path, as_version=4).cells]


def _said(cell: Any) -> Any:
    for output in cell.outputs:
        if output.output_type == "stream":
            return json.loads(output.text) if output.text.startswith("[") else output.text
        if output.output_type == "execute_result":
            return dict(output.data)
    return None


def test_outputs_hold_what_a_cell_returned_until_they_are_dropped(tmp_path: Path) -> None:
    said = run_cells(
        tmp_path,
        "nbray.put(np.zeros(1_000_000))",  # 2
        TELL,  # 3
        "%ray_objects --leaks",  # 4
        "dropped = %ray_objects --drop Out[2]\nprint(dropped, int(dropped))",  # 5
        TELL,  # 6
    )

    assert said[2] == [[["output", "Out[2]"], ["output", "_"], "output"]]
    assert "%ray_objects --drop Out[2] _" in said[3]["text/plain"]
    assert said[4].startswith("nbray: 7.6 MiB came back 80")
    assert said[5] == []


def test_a_variable_is_never_dropped_unless_it_is_named(tmp_path: Path) -> None:
    said = run_cells(
        tmp_path,
        "x = nbray.put(1)\nx",  # 2
        "y = [nbray.put(2)]",  # 3
        "print(repr(nbray.jupyter.drop('Out', 'traceback', '_')))",  # 4
        TELL,  # 5
        "_ = nbray.jupyter.drop('x')\n_ = 0\nprint('x' in globals(), 'y' in globals())",  # 6
        TELL,  # 7
    )

    assert said[3] == "nbray: nothing came back\n"
    assert sorted(said[4]) == [[["variable", "x"], ""], [["variable", "y[0]"], ""]]
    assert said[5] == "False True\n"
    assert said[6] == [[["variable", "y[0]"], ""]]


def test_the_last_traceback_holds_what_its_functions_had_until_it_is_dropped(tmp_path: Path) -> None:
    said = run_cells(
        tmp_path,
        "def train(data):\n    batch = [data]\n    raise ValueError('no')",  # 2
        "train(nbray.put(np.zeros(1_000_000)))",  # 3
        TELL,  # 4
        "print(int(nbray.jupyter.drop('traceback')) > 8_000_000)",  # 5
        TELL,  # 6
        fails=(3,),
    )

    ((*holders, leak),) = said[3]
    assert leak == "output"
    assert {kind for kind, _name in holders} == {"traceback"}
    assert ["traceback", "batch[0] in train()"] in holders
    assert said[4] == "True\n"
    assert said[5] == []


def test_objects_are_told_by_the_cell_that_made_them(tmp_path: Path) -> None:
    said = run_cells(
        tmp_path,
        "z = 0\nx = nbray.put(1)",  # 2
        "@nbray.remote\ndef load():\n    return 1",  # 3
        "y = load.remote()\nnbray.get(y);",  # 4
        "print(nbray.memory())",  # 5
    )

    assert "put in In[2], line 2" in said[4]
    assert "task load, In[4]" in said[4]


def test_a_notebook_shows_a_page_beside_the_text(tmp_path: Path) -> None:
    said = run_cells(
        tmp_path,
        "import os\ndel os.environ['NBRAY_RENDERER']",  # the runner asks for text alone
        "refs = [nbray.put(n) for n in range(2)]",
        "%ray_objects",
        "%ray_objects --holders",
    )

    for shown in said[3:5]:
        assert shown["text/html"].startswith("<table")
        assert "refs[1]" in shown["text/html"]
        assert "refs[1]" in shown["text/plain"]


def test_a_loop_over_cells_leaks_nothing_when_its_outputs_are_dropped(tmp_path: Path) -> None:
    """The magic itself, its table and its completion keep nothing."""
    said = run_cells(
        tmp_path,
        "[nbray.put(np.zeros(200_000)) for _ in range(5)]",  # 2
        "%ray_objects",  # 3
        "%ray_objects --leaks",  # 4
        "%ray_objects --drop Out",  # 5
        "print(json.dumps([len(nbray.objects())]))",  # 6
    )

    assert "5 objects" in said[2]["text/plain"]
    assert said[4]["text/plain"] == "nbray: 7.6 MiB came back"
    assert said[5] == [0]
