"""The renderer is a setting of the process; every test here starts with the default one."""

from __future__ import annotations

import pytest

from nbray.observe import renderer


@pytest.fixture(autouse=True)
def default_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBRAY_RENDERER", raising=False)
    monkeypatch.setattr(renderer, "_chosen", renderer.AUTO)
