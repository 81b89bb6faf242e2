"""No more processes may be made: a typed error, and the session goes on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import ExitStack

import pytest

from tests.support.cgroups import process_cgroup

pytestmark = pytest.mark.integration


def test_refused_forks_fail_the_tasks_that_wait_for_a_worker_and_nothing_else() -> None:
    script = """
        import os, sys
        open(sys.argv[1], "w").write(str(os.getpid()))
        import nbray
        nbray.init(num_cpus=1)

        @nbray.remote(max_retries=0)
        def depth(n):
            return n and 1 + nbray.get(depth.remote(n - 1))

        try:
            nbray.get(depth.remote(15), timeout=30)
        except nbray.NbrayError as exc:
            print("RayWorkerError" in str(exc), isinstance(exc, TimeoutError))
        print(nbray.get(depth.remote(1), timeout=30))
        nbray.shutdown()
    """
    with ExitStack() as stack:
        try:
            group = stack.enter_context(process_cgroup(32))
        except OSError as exc:
            pytest.skip(f"cgroups that count processes cannot be made here: {exc}")

        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(group / "cgroup.procs")],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    assert done.stdout.splitlines() == ["True False", "1"], done.stderr
