"""The benchmark suite runs: every workload on nbray and the pool, with small counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import runner
from benchmarks.figures import FIGURES

ROOT = Path(runner.__file__).parents[1]
pytestmark = [pytest.mark.integration, pytest.mark.slow]


def run_suite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_quick_run_fills_every_row_and_leaves_nothing_behind(tmp_path: Path) -> None:
    outcome = run_suite("--quick", "--json", tmp_path / "results.json")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    document: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    figures = document["figures"]
    measured = {key for key, entry in {**figures["nbray"], **figures["machine"]}.items() if "median" in entry}
    assert measured == {figure.key for figure in FIGURES}
    assert "median" in figures["futures"]["sync_rate"]
    assert figures["futures"]["chain"]["missing"] == "a future cannot be the argument of a task"
    assert document["failures"] == document["left_behind"] == []
    assert "This was a quick run" in outcome.stdout


def run_child(start: str, deadline_s: float) -> dict[str, Any]:
    """What the runner tells of a child that runs ``start``. It adopts orphans, so it has its own process."""
    script = (
        "import dataclasses, json; from benchmarks import processes, runner; processes.become_subreaper(); "
        f"runner.START = {start!r}; runner.LEAVE_WITHIN_S = 0.0; "
        f"outcome = runner.run('nbray', ('sync',), quick=True, deadline_s={deadline_s}); "
        "print(json.dumps(dataclasses.asdict(outcome)))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


DETACH = "import subprocess; subprocess.Popen(['sleep', '3600'], start_new_session=True)"


def test_what_outlives_a_contender_is_named_and_ended() -> None:
    told = run_child(DETACH, deadline_s=30)

    # The leak fixture sees that it is gone.
    assert told["left_behind"] == ["sleep"]
    assert told["failure"] == ""


def test_a_child_that_never_ends_is_ended_with_all_that_it_started() -> None:
    told = run_child(f"{DETACH}; import signal; signal.pause()", deadline_s=0.5)

    assert told["failure"] == "ran past its deadline of 0.5 s"


def test_a_child_that_fails_says_why() -> None:
    told = run_child("raise SystemExit('no luck today')", deadline_s=30)

    assert told["failure"] == "ended with status 1: no luck today"
