"""The classic numbers for what a process is: ``driver_mode``, ``global_worker.mode``.

Called by:  api, users (``ray.SCRIPT_MODE``).
Imports:    nothing.
Never:      changes a number: old programs have them in their source.
"""

from __future__ import annotations

#: A driver, the usual thing.
SCRIPT_MODE = 0
#: A process that runs tasks.
WORKER_MODE = 1
#: A driver that runs its tasks itself: ``init(local_mode=True)``.
PYTHON_MODE = LOCAL_MODE = 2
#: A driver that does not print warnings about its work.
SILENT_MODE = 3
