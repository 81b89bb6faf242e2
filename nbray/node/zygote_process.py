"""The zygote as a process: started with nothing but the standard library's fastest modules.

Called by:  node.__main__ (the first, before the daemon imports anything else), node.zygote (later ones).
Imports:    transport.interpreter.
Never:      talks to it (node.zygote does).
"""

from __future__ import annotations

import os
import signal
import socket

from nbray.transport import interpreter

#: One thread for numeric libraries: forks with threads are unsafe, and workers share cores. A task with more
#: CPUs gets more (``worker.threads``).
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ZygoteProcess:
    """A zygote that boots, and our end of its control socket.

    Args:
        sys_path: where the driver finds modules, this package among them.
    """

    def __init__(self, sys_path: list[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = interpreter.command("nbray.worker.zygote", str(theirs.fileno()))
            env = interpreter.environment(sys_path)
            for name in _THREAD_VARIABLES:
                env.setdefault(name, "1")
            theirs.set_inheritable(True)
            # Not subprocess, whose import takes longer than the start. All our descriptors but the
            # standard ones and this socket are closed by exec.
            self.pid = os.posix_spawn(
                command[0], command, env, setsigdef=(signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)
            )
        ours.setblocking(False)
        self.socket = ours
