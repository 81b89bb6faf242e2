"""Escaping: no text that a user chose becomes markup, and none of it hides."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.events.text import visible
from nbray.observe.html import card, esc

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'><svg/onload=alert(1)>",
    "</td></table><iframe src=//x>",
    "<a href='javascript:alert(1)'>x</a>",
    "<!-- --><![CDATA[x]]>",
    "&lt;b&gt; &amp; &#60;",
    "${alert(1)} {{alert(1)}} {% x %}",
    r"$\href{javascript:alert(1)}{x}$ \(x\) $$x$$",
    "# markdown [x](javascript:alert(1)) `code`",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;Y2xpcA==\x07",
    "nul\x00nul",
    "\x9b31mC1",
    "\u202egnp.exe",
    "\u2066isolate\u2069",
    "half a pair \ud800",
    "line\nline\r\nline\u2028line",
    "<" * 1_000_000,
    "",
]


class Page(HTMLParser):
    """What a browser would see: which elements, with which attributes, and which text in the cells."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("train", "train"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ('"><script>', "&quot;&gt;&lt;script&gt;"),
        ("it's & that", "it&#x27;s &amp; that"),
        ("&lt;", "&amp;lt;"),
        ("\x1b[31m\x00\u202e", r"\x1b[31m\x00\u202e"),
        (4, "4"),
    ],
)
def test_text_is_escaped_as_in_this_table(text: object, escaped: str) -> None:
    assert esc(text) == escaped


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_is_only_text_wherever_a_card_shows_it(text: str) -> None:
    page = Page(card(text, [(text, text)]))

    assert page.tags == ["table", "thead", "tr", "th", "tbody", "tr", "th", "td"]
    assert page.attributes == {"class", "style", "colspan", "scope"}
    assert page.cells == [visible(text)] * 3


def test_a_megabyte_of_markup_leaves_a_small_page() -> None:
    assert len(card("x", [("name", "<" * 1_000_000)])) < 16_000


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_whatsoever_leaves_the_cell_it_is_put_in(text: str) -> None:
    page = Page(card("title", [("label", text)]))

    assert page.tags.count("td") == 1
    assert page.cells[-1] == visible(text)


def test_a_card_needs_no_style_element_and_no_script() -> None:
    page = card("nbray", [("tasks", "none")])

    assert "<style" not in page
    assert "<script" not in page
    assert "color:var(--jp-ui-font-color1,inherit)" in page


def test_a_card_is_left_alone_by_the_typesetter_of_formulas() -> None:
    assert 'class="tex2jax_ignore mathjax_ignore"' in card("$x$", [])
