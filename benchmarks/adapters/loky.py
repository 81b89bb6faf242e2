"""loky, the pool behind joblib.

Called by:  benchmarks.adapters.load.
Imports:    loky, when it is started.
Never:      lets workers end for being idle in the middle of a workload.
"""

from __future__ import annotations

from benchmarks.adapters.futures import Pool


class Loky(Pool):
    """``loky.ProcessPoolExecutor``."""

    title = "loky"
    package = "loky"
    module = "loky"
    import_line = "import loky"
    stays = ("resource_tracker",)

    def start(self, workers: int) -> None:
        import loky

        self.pool = loky.ProcessPoolExecutor(workers)


ADAPTER = Loky
