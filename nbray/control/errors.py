"""What can go wrong with Redis, below the root of all errors. Each class takes its whole text.

Called by:  control, and those who catch: node, cluster.
Imports:    nbray.model.errors.
Never:      shows a password: texts name addresses through ``source.without_password``.

``RedisNotFoundError`` is in ``nbray.model.errors``: users meet it at ``init``.
"""

from __future__ import annotations

from nbray.model.errors import NbrayError, SessionStartError


class RedisStartError(SessionStartError):
    """A server program was found but does not run; the text has the end of its log."""

    default_text = "The embedded Redis did not start. logs/redis.log in the session directory says more."


class RedisUnavailableError(NbrayError):
    """Redis gave no answer before the deadline; whether the command took effect is not known."""

    default_text = "Redis gave no answer in time. Work that runs goes on; try again."


class RedisRefusedError(NbrayError):
    """Redis answered with an error: no permission, wrong type, out of memory."""

    default_text = "Redis refused a command."


class TamperedRecordError(NbrayError):
    """A stored value carries no tag of this cluster, or the wrong one. It was not used."""

    default_text = "A value in Redis was not written by this cluster. Start a new session."
