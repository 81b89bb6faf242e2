"""A zygote that cannot start: whoever waits for a worker hears so, again and again."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_each_task_ends_with_a_typed_error_when_no_worker_can_be_made(folder: Path) -> None:
    (folder / "numpy.py").write_text("raise ImportError('this NumPy is broken')")
    script = """
        import nbray
        nbray.init(num_cpus=1, log_to_driver=False)

        @nbray.remote
        def work():
            return 1

        for _ in range(3):
            try:
                nbray.get(work.remote(), timeout=20)
            except nbray.RayWorkerError as exc:
                print("died" in str(exc) and "ready" in str(exc))
        nbray.shutdown()
    """

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip

    assert done.stdout.splitlines() == ["True"] * 3, done.stderr
