"""Which form a notebook gets."""

from __future__ import annotations

import pytest

from nbray.observe import renderer


def test_a_page_is_offered_unless_text_is_asked_for() -> None:
    assert renderer.wants_html()
    assert renderer.wants_pids()

    renderer.choose("text")
    assert not renderer.wants_html()
    assert not renderer.wants_pids()

    renderer.choose("html")
    assert renderer.wants_html()


def test_the_environment_overrules_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer.choose("html")

    monkeypatch.setenv("NBRAY_RENDERER", "text")

    assert not renderer.wants_html()


def test_a_renderer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, html, text"):
        renderer.choose("hologram")
