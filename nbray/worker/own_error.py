"""How code of ours that runs among a user's ends a call with an error of ours.

Called by:  worker.{actor,executor,quota}.
Imports:    nbray.model.errors.
Never:      is raised by a user's code.
"""

from __future__ import annotations

from nbray.model.errors import NbrayError


class OwnError(Exception):
    """Stands for an error of ours, which stands for itself: it is no failure of the user's code."""

    def __init__(self, error: NbrayError) -> None:
        super().__init__(str(error))
        self.error = error
