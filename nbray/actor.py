"""What programs find as ``ray.actor``: checkpoints of actors that save their own state, and the way out.

Called by:  users.
Imports:    api.actors, runtime.checkpointable.
Never:      holds anything of its own.
"""

from __future__ import annotations

from nbray.api.actors import exit_actor
from nbray.runtime.checkpointable import Checkpoint, Checkpointable, CheckpointContext

__all__ = ["Checkpoint", "CheckpointContext", "Checkpointable", "exit_actor"]
