"""States of an actor on the disk: written whole or not at all, and known when they are damaged.

Called by:  worker.checkpoints.
Imports:    runtime.{pickling,process}, the standard library.
Never:      decides when.

A file is a mark, a checksum, and the pickled state. It gets its name only when all of it is on the disk. The
pickle is in one piece, without buffers beside it: what comes back can be written to, as an actor's own arrays
can.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

from nbray.model.limits import CHECKPOINTS_FOLDER
from nbray.runtime import pickling
from nbray.runtime.process import Process
from nbray.runtime.refs import ObjectRef

_MARK = b"nbray state 1\n"
_CHECKSUM_BYTES = 16


class SavedStates:
    """Those of one actor."""

    def __init__(self, process: Process, actor_id: bytes) -> None:
        self._process = process
        self._folder = Path(process.welcome.session_dir) / CHECKPOINTS_FOLDER / actor_id.hex()

    def write(self, checkpoint_id: bytes, state: Any) -> None:
        """Save a state.

        References in it are held as those in a pickle that a user made: as long as this process lives.

        Raises:
            OSError: there is no room, or no disk.
            Exception: whatever pickling raises.
        """
        refs: list[ObjectRef] = []
        data = pickling.dumps(state, refs)
        for ref in refs:
            self._process.sharing.export(ref)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / "new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(_MARK + _checksum(data))
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(new, self._path(checkpoint_id))
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, checkpoint_id: bytes) -> bytes:
        """A saved state, as ``load`` takes it.

        Raises:
            OSError: it is not there.
            ValueError: it is damaged.
        """
        content = self._path(checkpoint_id).read_bytes()
        start = len(_MARK) + _CHECKSUM_BYTES
        data = content[start:]
        if content[:start] != _MARK + _checksum(data):
            raise ValueError(f"its checksum does not fit its {len(data)} bytes")
        return data

    def load(self, data: bytes) -> Any:
        """What was saved."""
        return pickle.loads(data)  # noqa: S301  # an actor of this session wrote it into our folder

    def remove(self, checkpoint_id: bytes) -> None:
        """It will not be needed again."""
        self._path(checkpoint_id).unlink(missing_ok=True)

    def _path(self, checkpoint_id: bytes) -> Path:
        return self._folder / checkpoint_id.hex()


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES).digest()
