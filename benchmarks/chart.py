"""The results as a picture: a row for each figure, a mark for each contender, how many times better nbray is.

Called by:  benchmarks.report.
Imports:    benchmarks.figures, benchmarks.results.
Never:      depends on more than the results: the same file gives the same bytes.
"""

from __future__ import annotations

import math
from html import escape

from benchmarks.figures import FIGURES, Figure, count_text, text_of
from benchmarks.results import OURS, Results
from benchmarks.table import ratio_text

_WIDTH, _TITLE_X, _LEFT, _RIGHT = 900, 20, 390, 40
_TOP, _ROW, _BOTTOM = 112, 28, 46

# Colours that colour-blind people tell apart, and a shape for each besides; drawn around 0, 0.
_MARKS = (
    ("#0072b2", "#56b4e9", '<circle r="6"/>'),
    ("#d55e00", "#f0824f", '<rect x="-5.5" y="-5.5" width="11" height="11"/>'),
    ("#009e73", "#2fc79a", '<path d="M0-7 6.5 5h-13z"/>'),
    ("#aa4499", "#dd8fce", '<path d="M0-7.5 7.5 0 0 7.5-7.5 0z"/>'),
    ("#a07800", "#f0c040", '<path d="M0 7 6.5-5h-13z"/>'),
)


def svg(results: Results) -> str:
    """The chart as a file of its own, readable on light and dark pages."""
    peers = [name for name in results.contenders if name != OURS]
    rows = [
        (figure, {name: ratio for name in peers if (ratio := results.advantage(name, figure)) is not None})
        for figure in FIGURES
        if figure.in_chart
    ]
    rows = [(figure, ratios) for figure, ratios in rows if ratios]
    scale = _Scale([ratio for _, ratios in rows for ratio in ratios.values()])
    height = _TOP + _ROW * len(rows) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>How many times better nbray is than each of the others</title>",
        _style(len(peers)),
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        f'<text x="{_TITLE_X}" y="34" class="head">How many times better nbray is</text>',
        f'<text class="soft" x="{_TITLE_X}" y="56">{escape(_subtitle(results))}</text>',
        *_legend(results, peers),
        *_grid(scale, height),
    ]
    for number, (figure, ratios) in enumerate(rows):
        parts += _row(results, figure, ratios, scale, _TOP + _ROW * number + _ROW // 2, peers)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


class _Scale:
    """Ratios on a logarithmic axis that holds 1 and all of them."""

    def __init__(self, ratios: list[float]) -> None:
        self.low = math.floor(math.log10(min([0.5, *ratios])))
        self.high = math.ceil(math.log10(max([2.0, *ratios])))

    def x(self, ratio: float) -> float:
        share = (math.log10(ratio) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _style(peers: int) -> str:
    light = "".join(f".m{n}{{fill:{_MARKS[n % len(_MARKS)][0]}}}" for n in range(peers))
    dark = "".join(f".m{n}{{fill:{_MARKS[n % len(_MARKS)][1]}}}" for n in range(peers))
    return (
        "<style>text{font:14px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2328}"
        ".head{font-size:19px;font-weight:600}.end{text-anchor:end}.mid{text-anchor:middle}.soft{fill:#59636e}"
        f".page{{fill:#fff}}.mark{{stroke:#fff}}.grid{{stroke:#d1d9e0}}.one{{stroke:#1f2328}}{light}"
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}.page{fill:#0d1117}"
        f".mark{{stroke:#0d1117}}.grid{{stroke:#30363d}}.one{{stroke:#e6edf3}}{dark}}}</style>"
    )


def _subtitle(results: Results) -> str:
    machine, rounds = results.document["machine"], results.document["rounds"]
    times = "1 round" if rounds == 1 else f"{rounds} rounds"
    where = f"{machine['cpus']} CPUs, Python {machine['python']}, medians of {times}"
    return f"{where}; right of the line nbray is ahead"


def _legend(results: Results, peers: list[str]) -> list[str]:
    parts, x = [], _TITLE_X + 8.0
    for number, name in enumerate(peers):
        title = results.title(name)
        parts.append(_mark(number, x, 80, ""))
        parts.append(f'<text x="{x + 13:.0f}" y="85">{escape(title)}</text>')
        x += 46 + 7.6 * len(title)
    return parts


def _grid(scale: _Scale, height: int) -> list[str]:
    parts, bottom = [], height - _BOTTOM
    for tick in scale.ticks():
        x = scale.x(tick)
        style = "one" if tick == 1 else "grid"
        parts.append(f'<path class="{style}" d="M{x:.1f} {_TOP - 6}V{bottom + 6}"/>')
        label = f"{count_text(tick)}x" if tick >= 1 else f"{tick:g}x"
        parts.append(f'<text class="soft mid" x="{x:.1f}" y="{bottom + 26}">{label}</text>')
    return parts


def _row(
    results: Results, figure: Figure, ratios: dict[str, float], scale: _Scale, y: int, peers: list[str]
) -> list[str]:
    ours = results.median(OURS, figure)
    assert ours is not None, "a ratio without nbray's figure"
    parts = [
        f'<text x="{_TITLE_X}" y="{y + 5}">{escape(figure.title)}</text>',
        f'<text class="soft end" x="{_LEFT - 14}" y="{y + 5}">{text_of(ours, figure.unit)}</text>',
        f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>',
    ]
    for number, name in enumerate(peers):
        if name in ratios:
            theirs = results.median(name, figure)
            assert theirs is not None, "a ratio without the other's figure"
            told = f"{results.title(name)}: {text_of(theirs, figure.unit)} ({ratio_text(ratios[name])})"
            parts.append(_mark(number, scale.x(ratios[name]), y, told))
    return parts


def _mark(number: int, x: float, y: int, told: str) -> str:
    """The mark of a peer; browsers show what it tells when the pointer rests on it."""
    title = f"<title>{escape(told)}</title>" if told else ""
    shape = _MARKS[number % len(_MARKS)][2]
    return f'<g class="mark m{number}" transform="translate({x:.1f} {y})">{title}{shape}</g>'
