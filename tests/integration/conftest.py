"""What several integration tests need."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for marker files, with a short name."""
    with tempfile.TemporaryDirectory(prefix="nb-") as name:
        yield Path(name)
