"""nbray itself.

Called by:  benchmarks.adapters.load.
Imports:    nbray, when it is started.
Never:      uses more than its public API.
"""

from __future__ import annotations

from benchmarks.adapters.classic import Classic


class Nbray(Classic):
    """``import nbray as ray``."""

    title = "nbray"
    package = "nbray"
    module = "nbray"
    import_line = "import nbray"
    budget_s = 60.0  # its targets are for full counts

    def start(self, workers: int) -> None:
        import nbray

        self.api = nbray
        nbray.init(num_cpus=workers)


ADAPTER = Nbray
