"""How many threads numeric libraries may use in a task: as many as it has CPUs, and one at least.

Called by:  worker.executor.
Imports:    the standard library; threadpoolctl, if it is there and a task has several CPUs.
Never:      overrules what the user's own environment says.
"""

from __future__ import annotations

import contextlib
import os

#: What libraries read when they are loaded. The zygote starts with 1 in each that the user has not set.
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ThreadLimit:
    """Of this worker, changed when a task has another number of CPUs than the one before."""

    def __init__(self) -> None:
        self.threads = 1
        self._ours = [name for name in VARIABLES if os.environ.get(name) == "1"]

    def set(self, threads: int) -> None:
        """From now on so many, also in libraries that are loaded already where they can be told."""
        self.threads = threads
        for name in self._ours:
            os.environ[name] = str(threads)
        if self._ours:
            with contextlib.suppress(ImportError):
                import threadpoolctl  # comes with scikit-learn

                threadpoolctl.threadpool_limits(threads)
