"""A worker sees modules and files where its driver saw them.

Called by:  worker.executor.
Imports:    runtime.process, wire.
Never:      fails: a folder may be gone by now.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import partial

from nbray.runtime.process import Process
from nbray.wire.messages import JobContext

logger = logging.getLogger("nbray")


def enter_job(process: Process, message: JobContext) -> None:
    """Take on what the driver's process had when it connected. Lock held."""
    process.job_id = process.submitter.job_id = message.job_id
    os.umask(message.umask)
    known = set(sys.path)
    sys.path[:0] = [path for path in message.sys_path if path not in known]
    try:
        os.chdir(message.cwd)
    except OSError as exc:
        process.loop.later.append(partial(logger.warning, "cannot enter the driver's folder: %s", exc))
