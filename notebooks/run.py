"""Run a notebook without a browser, cell by cell, and show what it prints.

Called by:  `make demo`, `make lint` (--check), people who changed a lesson (--save).
Imports:    nbclient, nbformat, ipykernel. Not nbray: the notebook does that.
Never:      writes to a notebook without --save.

    python notebooks/run.py notebooks/00_quickstart.ipynb            run and show; exit 1 if a cell fails
    python notebooks/run.py --save notebooks/*.ipynb                 run and store the outputs
    python notebooks/run.py --check notebooks/*.ipynb                is each stored as --save leaves it?
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

CELL_TIMEOUT_S = 120
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_HEADING = re.compile(r"^#+ +(.+)", re.MULTILINE)
_EXPECTED_FAILURE_TAGS = {"raises-exception", "nbval-raises-exception"}


class _ThisPython(KernelSpecManager):
    """The kernel is the interpreter that runs this file, whatever kernels the machine has installed."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


def run(path: Path) -> nbformat.NotebookNode:
    """Execute a notebook in a fresh kernel, printing each cell's outcome as it finishes.

    Raises:
        CellExecutionError: a cell raised and is not tagged ``raises-exception``.
        CellTimeoutError: a cell took longer than CELL_TIMEOUT_S.
        DeadKernelError: the kernel died.
    """
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)
    code_cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    started_s: dict[int, float] = {}

    def on_start(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "markdown":
            for heading in _HEADING.findall(cell.source):
                print(f"\n{heading}", flush=True)
        if cell_index in code_cells:
            started_s[cell_index] = time.monotonic()
            print(f"[{code_cells.index(cell_index) + 1}/{len(code_cells)}] {_first_line(cell)}", flush=True)

    def on_executed(cell: nbformat.NotebookNode, cell_index: int, **_reply: Any) -> None:
        for text in _texts(cell):
            print("".join(f"      {line}\n" for line in text.splitlines()), end="")
        took_s = time.monotonic() - started_s[cell_index]
        if took_s >= 1:
            print(f"      ({took_s:.1f} s)")
        sys.stdout.flush()

    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_spec_manager=_ThisPython()),
        timeout=CELL_TIMEOUT_S,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own remarks are no part of the lesson
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=on_start,
        on_cell_executed=on_executed,
    )
    print(f"== {path}")
    client.execute(cleanup_kc=True)  # we made the kernel manager, so nothing else ends the kernel
    return notebook


def _first_line(cell: nbformat.NotebookNode) -> str:
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return f"{lines[0]} ..." if len(lines) > 1 else "".join(lines)


def _texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """What a cell shows to somebody who sees text only."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield _ANSI.sub("", "\n".join(output.traceback) or f"{output.ename}: {output.evalue}")
        elif "image/png" in output.data:
            yield "(a picture: the notebook shows it)"
        else:
            yield output.data.get("text/plain", "")


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Take out what another run, or another Python, would write differently."""
    notebook.metadata.get("language_info", {}).pop("version", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                # nbval compares name and value; the frames hold the paths of this machine.
                output.traceback = [f"{output.ename}: {output.evalue}"]


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """How a stored notebook differs from what ``--save`` writes; empty when it does not."""
    found = []
    tidied = nbformat.from_dict(notebook)
    tidy(tidied)
    code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [c.execution_count for c in code_cells] != list(range(1, len(code_cells) + 1)):
        found.append("the cells were not all run once, in order, in a fresh kernel")
    for number, cell in enumerate(code_cells, 1):
        tags = set(cell.metadata.get("tags", []))
        fails = any(output.output_type == "error" for output in cell.outputs)
        if fails and not tags & _EXPECTED_FAILURE_TAGS:
            found.append(f"code cell {number} holds an error, and no tag says that it should")
    if nbformat.writes(notebook) != nbformat.writes(tidied):
        found.append("it holds times, widget states, frames or a Python version of one run")
    return found


def _check(paths: list[Path]) -> int:
    bad = 0
    for path in paths:
        for fault in faults(nbformat.read(path, as_version=4)):
            bad = 1
            print(f"{path}: {fault}. Run: python notebooks/run.py --save {path}")
    return bad


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("paths", nargs="*", type=Path, metavar="NOTEBOOK")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--save", action="store_true", help="store the outputs in the notebook")
    how.add_argument("--check", action="store_true", help="run nothing; compare with what --save stores")
    options = parser.parse_args(arguments)
    if options.check:
        return _check(options.paths)
    os.environ["NBRAY_RENDERER"] = "text"  # outputs that do not depend on machine or moment
    for path in options.paths:
        try:
            notebook = run(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            # The cell's own traceback was printed when it finished.
            print(f"\n== {path}: failed ({type(error).__name__})")
            return 1
        if options.save:
            tidy(notebook)
            nbformat.write(notebook, path)
        print(f"\n== {path}: all cells passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
