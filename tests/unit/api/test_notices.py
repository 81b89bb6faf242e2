"""The library's logger: set up once for each session, and not twice for one line."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from nbray.api import notices


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The library's logger in a program without handlers of its own."""
    alone = logging.Logger("nbray")  # noqa: LOG001  # not the one that everybody shares
    alone.parent = logging.Logger("root")  # noqa: LOG001
    monkeypatch.setattr(notices, "logger", alone)
    monkeypatch.setattr(notices, "_ours", None)
    return alone


def shown(monkeypatch: pytest.MonkeyPatch, level: int = logging.WARNING) -> str:
    target = io.StringIO()
    monkeypatch.setattr(sys, "stderr", target)
    notices.logger.log(level, "a line")
    return target.getvalue()


def test_lines_go_to_stderr_once_however_often_it_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        notices.configure(logging.INFO, None)

    assert shown(monkeypatch).count("a line") == 1
    assert shown(monkeypatch, logging.INFO).count("a line") == 1
    assert shown(monkeypatch, logging.DEBUG) == ""


def test_a_format_is_used_and_a_later_one_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    notices.configure(logging.INFO, "first %(message)s")
    notices.configure(logging.INFO, "second %(message)s")

    assert shown(monkeypatch) == "second a line\n"


def test_a_program_with_handlers_of_its_own_keeps_them(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.StringIO()
    assert logger.parent is not None
    logger.parent.addHandler(logging.StreamHandler(lines))

    notices.configure(logging.INFO, None)

    assert shown(monkeypatch) == ""
    assert lines.getvalue() == "a line\n"


@pytest.mark.parametrize(("said", "number"), [("debug", 10), ("WARNING", 30), (logging.ERROR, 40), (5, 5)])
def test_a_level_is_a_number_or_a_name(said: int | str, number: int) -> None:
    assert notices.level_number(said) == number


def test_what_is_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is no level"):
        notices.level_number("loud")
    for said in (None, True, 1.5):
        with pytest.raises(TypeError, match="a number or a name"):
            notices.level_number(said)  # type: ignore[arg-type]
