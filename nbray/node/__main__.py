"""Where a node daemon begins: its zygote first, then everything else.

Called by:  cluster.starting, as a command line: the descriptor number of a socket to its launcher.
Imports:    node.zygote_process; node.start when the zygote boots already.
Never:      takes a secret from the command line or the environment; the launcher's socket brings it.

The zygote is what a first task waits for longest: it loads NumPy. It needs to know only where modules
are found, so it is started before this process has imported what it needs itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from nbray.node.zygote_process import ZygoteProcess


def main() -> None:
    driver = socket.socket(fileno=int(sys.argv[1]))
    driver.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    zygote = ZygoteProcess(sys.path)
    from nbray.node import start

    start.run(driver, zygote)


if __name__ == "__main__":
    main()
