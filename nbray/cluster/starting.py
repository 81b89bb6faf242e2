"""A node daemon's process: started with next to nothing imported, and seen off at the end.

Called by:  api.session (first thing in ``init``), cluster.launch, which talks to it.
Imports:    cluster.session, control.source, transport.interpreter; none of what takes time to import.
Never:      says a word to the daemon; puts a secret on a command line or into the environment.

A daemon takes longer to boot than all else in ``init``. So it is started first, and this process
imports the rest of the runtime meanwhile, on another core.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from nbray.cluster.session import SessionDir
from nbray.control.source import locate
from nbray.model.errors import PlatformError
from nbray.transport import interpreter, linux

STOP_DEADLINE_S = 5.0
_LAST_STEPS_S = 2.0
#: Every process of a session starts with this in its environment; what survives its daemon is found by it.
SESSION_MARK = "NBRAY_SESSION"


class StartingDaemon:
    """A session directory and the daemon that boots in it. ``bury`` it, whatever happens.

    Args:
        temp_dir: where the session directory goes; None for the usual places.

    Raises:
        PlatformError, RedisNotFoundError, SessionStartError: nothing was started, nothing is left.
    """

    def __init__(self, temp_dir: str | None) -> None:
        if not linux.is_supported():
            raise PlatformError()
        self.redis = locate()
        self.session = SessionDir(temp_dir)
        try:
            self._daemon, self.socket = self._spawn()
        except BaseException:
            self.session.release()
            raise

    def _spawn(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        log_fd = self._log_file()
        try:
            with theirs:
                env = interpreter.environment(own_path())
                env[SESSION_MARK] = self.session.path.name
                daemon = subprocess.Popen(
                    interpreter.command("nbray.node.__main__", str(theirs.fileno()), site=False),
                    pass_fds=(theirs.fileno(),),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log_fd,
                    cwd="/",
                    start_new_session=True,  # Ctrl-C at a terminal, or Stop in a notebook, is not for it
                )
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(log_fd)
        return daemon, ours

    def _log_file(self) -> int:
        path = self.session.path / "logs" / "daemon.log"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(fd, 0o600)
        return fd

    @property
    def pid(self) -> int:
        """Of the node daemon."""
        return self._daemon.pid

    def bury(self) -> None:
        """See the daemon's end; it may have died badly: end whatever of this session outlived it."""
        try:
            self._daemon.wait(_LAST_STEPS_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        until_s = time.monotonic() + STOP_DEADLINE_S
        while self.end_survivors() and time.monotonic() < until_s:
            time.sleep(0.005)

    def end_survivors(self) -> bool:
        """Kill what carries this session's mark; False when there was nothing."""
        left = linux.processes_marked(SESSION_MARK, self.session.path.name)
        for pid in left:
            linux.kill_quietly(pid)
        return bool(left)

    def abandon(self) -> None:
        """It will not be talked to: end it and all that is its own."""
        self.socket.close()
        self.bury()
        self.session.release()


def own_path() -> list[str]:
    """The driver's import path, absolute; then its script's folder, its own, and that of this package."""
    package_root = str(Path(__file__).resolve().parents[2])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    path = [*sys.path, *([os.path.dirname(script)] if script else []), os.getcwd(), package_root]
    return list(dict.fromkeys(os.path.abspath(entry) for entry in path))
