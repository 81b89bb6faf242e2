"""notebooks/run.py: what it stores and what it refuses."""

from __future__ import annotations

import nbformat
from nbformat import v4

from notebooks import run as runner


def an_executed_notebook() -> nbformat.NotebookNode:
    cells = [v4.new_code_cell("print(1)"), v4.new_code_cell("1 / 0")]
    notebook: nbformat.NotebookNode = v4.new_notebook(cells=cells)
    for number, cell in enumerate(notebook.cells, 1):
        cell.execution_count = number
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    notebook.cells[1].metadata["tags"] = ["raises-exception"]
    notebook.cells[1].outputs = [
        v4.new_output("error", ename="ZeroDivisionError", evalue="by zero", traceback=["File /home/me"])
    ]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    return notebook


def test_a_saved_notebook_holds_no_time_path_or_python_version() -> None:
    notebook = an_executed_notebook()

    runner.tidy(notebook)

    text = nbformat.writes(notebook)
    assert "2026" not in text
    assert "/home/me" not in text
    assert "3.11.7" not in text
    assert runner.faults(notebook) == []


def test_a_notebook_with_traces_of_one_run_is_refused() -> None:
    assert "times" in " ".join(runner.faults(an_executed_notebook()))


def test_a_notebook_that_was_not_run_in_order_is_refused() -> None:
    notebook = an_executed_notebook()
    runner.tidy(notebook)
    notebook.cells[1].execution_count = 7

    assert "in order" in " ".join(runner.faults(notebook))


def test_a_stored_error_that_no_tag_expects_is_refused() -> None:
    notebook = an_executed_notebook()
    runner.tidy(notebook)
    notebook.cells[1].metadata.pop("tags")

    assert "holds an error" in " ".join(runner.faults(notebook))
