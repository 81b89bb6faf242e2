"""Ray.

Called by:  benchmarks.adapters.load.
Imports:    ray, when it is started.
Never:      starts its dashboard; listens beyond loopback.
"""

from __future__ import annotations

import logging
import os
import tempfile

from benchmarks.adapters.classic import Classic


class Ray(Classic):
    """One node, without the dashboard."""

    title = "Ray"
    package = "ray"
    module = "ray"
    import_line = "import ray"

    def start(self, workers: int) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # else it warns of a change to come
        import ray

        self.api = ray
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
            _temp_dir=os.path.join(tempfile.gettempdir(), "ray"),
        )


ADAPTER = Ray
