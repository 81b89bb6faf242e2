"""Text that hides nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.events.text import TEXT_MAX_CHARS, visible


@pytest.mark.parametrize("text", ["train", "größe", "日本語", "👩‍🔬", r"C:\data", "a b", "<b>"])
def test_ordinary_text_comes_back_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\x00b", r"a\x00b"),
        ("two\nlines\t", r"two\nlines\t"),
        ("\x7f\x9b2J", r"\x7f\x9b2J"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
        ("\u2028", r"\u2028"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_what_moves_the_cursor_or_turns_the_text_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_megabyte_is_cut_to_the_cap_and_says_so() -> None:
    shown = visible("x" * 1_000_000)

    assert len(shown) == TEXT_MAX_CHARS
    assert shown.endswith("x…")


def test_text_of_exactly_the_cap_is_whole() -> None:
    assert visible("x" * TEXT_MAX_CHARS) == "x" * TEXT_MAX_CHARS


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 50))
def test_any_text_becomes_one_line_that_can_be_sent(text: str, max_chars: int) -> None:
    shown = visible(text, max_chars)

    assert len(shown) <= max_chars
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
