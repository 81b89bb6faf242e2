"""Registering a serializer needs a session."""

from __future__ import annotations

import pytest

import nbray


def test_it_needs_a_session_first() -> None:
    with pytest.raises(nbray.RayConnectionError, match=r"nbray\.init"):
        nbray.register_custom_serializer(dict, use_pickle=True)
