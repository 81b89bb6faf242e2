"""The library's logger: where its lines go, and how they look.

Called by:  api.session, with what ``init`` was asked for.
Imports:    logging.
Never:      adds a handler where the program has its own, unless a format was asked for.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("nbray")

DEFAULT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"


class _Stderr(logging.Handler):
    """Writes to what ``sys.stderr`` is at that moment: notebooks replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        if sys.stderr is None:
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001  # as the handlers of logging do: a log line fails nobody
            self.handleError(record)


_ours: logging.Handler | None = None
_propagates = True


def level_number(level: int | str) -> int:
    """``"debug"`` or ``10`` -> 10.

    Raises:
        ValueError: no level has that name.
        TypeError: neither a number nor a name.
    """
    if isinstance(level, str):
        number = logging.getLevelName(level.upper())
        if not isinstance(number, int):
            raise ValueError(f"logging_level {level!r} is no level; write 'info', or logging.INFO.")
        return number
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"logging_level must be a number or a name, not {type(level).__name__}.")
    return level


def configure(level: int, text_format: str | None) -> None:
    """Set the logger up; again, with other settings, at each ``init``."""
    global _ours, _propagates
    if _ours is not None:
        logger.removeHandler(_ours)
        logger.propagate = _propagates
        _ours = None
    logger.setLevel(level)
    if text_format is None and logger.hasHandlers():
        return  # the program shows log lines in its own way
    _ours = _Stderr()
    _ours.setFormatter(logging.Formatter(text_format or DEFAULT_FORMAT))
    logger.addHandler(_ours)
    _propagates, logger.propagate = logger.propagate, False
