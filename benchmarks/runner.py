"""Runs a child: a fresh process with a deadline, and nothing left of it afterwards.

Called by:  benchmarks.__main__.
Imports:    the standard library, benchmarks.processes.
Never:      imports a contender; leaves a process or file of one behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.workloads.session import SPAWNED

ROOT = Path(__file__).parents[1]
START = "from benchmarks.child import main; main()"
LEAVE_WITHIN_S = 5.0
_OUTPUT_TAIL = 2_000


@dataclass(frozen=True)
class Outcome:
    """What one child wrote down, and how it ended."""

    contender: str
    groups: tuple[str, ...]
    lines: list[dict[str, Any]]
    failure: str = ""  # why it did not come to its end
    left_behind: list[str] = field(default_factory=list)  # processes that outlived it and were ended
    output_tail: str = ""


def run(contender: str, groups: tuple[str, ...], *, quick: bool, deadline_s: float) -> Outcome:
    """Run groups of workloads of one contender, mostly a single one, in a fresh process."""
    folder = tempfile.mkdtemp(prefix="nbb-")  # short: sockets are made below it
    try:
        return _run_in(Path(folder), contender, groups, quick=quick, deadline_s=deadline_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run_in(
    folder: Path, contender: str, groups: tuple[str, ...], *, quick: bool, deadline_s: float
) -> Outcome:
    command = [
        sys.executable,
        "-c",
        START,
        contender,
        "+".join(groups),
        "quick" if quick else "full",
        str(folder),
    ]
    failure = ""
    with (folder / "output").open("w+b") as output:
        environ = _environment(folder)
        environ[SPAWNED] = repr(time.monotonic())
        child = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            status = child.wait(deadline_s)
            if status:
                failure = f"ended with status {status}"
        except subprocess.TimeoutExpired:
            failure = f"ran past its deadline of {deadline_s:g} s"
        finally:
            if child.returncode is None:
                child.kill()
                child.wait()
            left = processes.end_descendants(0.0 if failure else LEAVE_WITHIN_S)
        text = (folder / "output").read_text(errors="replace")
    if failure and (last := text.strip().splitlines()[-1:]):
        failure += f": {last[0][:200]}"
    return Outcome(
        contender, groups, _lines(folder / "sheet"), failure,
        left_behind=[] if failure else left, output_tail=text[-_OUTPUT_TAIL:] if failure else "",
    )  # fmt: skip


def _environment(folder: Path) -> dict[str, str]:
    environ = dict(os.environ)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")]))
    environ["TMPDIR"] = environ["IPYTHONDIR"] = str(folder)
    return environ


def _lines(sheet: Path) -> list[dict[str, Any]]:
    try:
        text = sheet.read_text()
    except FileNotFoundError:
        return []
    # The last line may be half written if the child was killed.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
