"""The worker process: forked by the zygote, it runs tasks, one at a time.

Called by:  node, which names ``nbray.worker.zygote`` on a command line and imports none of this.
Imports:    nbray.runtime and below; numpy and cloudpickle, loaded once in the zygote.
Never:      is imported by the driver or the daemon, but for this page of it.

Old programs look for ``ray.worker.global_worker`` and the like under the same name: what is not here is
asked of the root package, which serves the classic names from ``nbray.api``.
"""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    # Found, not imported: an import would point upwards, and worker processes need none of it.
    return sys.modules["nbray"].classic_worker_name(name)
