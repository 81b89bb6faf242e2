"""The results as a table of text: nbray's figure, its target, the others with the ratio.

Called by:  benchmarks.__main__, benchmarks.report (as Markdown).
Imports:    benchmarks.figures, benchmarks.results.
Never:      computes a figure.
"""

from __future__ import annotations

from benchmarks.figures import FIGURES, SIGN, Figure, count_text, text_of
from benchmarks.results import OURS, Results
from benchmarks.workloads import MACHINE

MISSING = "\N{EN DASH}"


def rows(results: Results) -> list[list[str]]:
    """The header and a row for each figure that was asked for."""
    peers = [name for name in results.contenders if name != OURS]
    table = [["figure", "nbray", "target", "", *(results.title(name) for name in peers)]]
    asked = [
        f for f in FIGURES if f.group != MACHINE and any(results.entry(n, f) for n in results.contenders)
    ]
    return [*table, *(_row(results, figure, peers) for figure in asked)]


def _row(results: Results, figure: Figure, peers: list[str]) -> list[str]:
    ours = results.median(OURS, figure)
    target = "" if figure.target is None else f"{SIGN[figure.better]} {text_of(figure.target, figure.unit)}"
    verdict = ""
    if figure.target is not None and ours is not None:
        verdict = "met" if figure.meets(ours) else "missed"
    return [
        figure.title,
        cell(results, OURS, figure),
        target,
        verdict,
        *(_peer(results, p, figure) for p in peers),
    ]


def cell(results: Results, contender: str, figure: Figure) -> str:
    """A median in words, or why there is none."""
    value = results.median(contender, figure)
    if value is not None:
        return text_of(value, figure.unit)
    return "failed" if "failed" in results.entry(contender, figure) else MISSING


def _peer(results: Results, contender: str, figure: Figure) -> str:
    ratio = results.advantage(contender, figure)
    text = cell(results, contender, figure)
    return text if ratio is None else f"{text} ({ratio_text(ratio)})"


def ratio_text(ratio: float) -> str:
    """How many times better nbray is, in two digits or so."""
    if ratio >= 9.95:
        return f"{count_text(ratio)}x"
    return f"{ratio:.1f}x" if ratio >= 0.95 else f"{ratio:.2f}x"


def machine_rows(results: Results) -> list[list[str]]:
    """What the machine itself can do."""
    return [
        [figure.title, cell(results, MACHINE, figure)]
        for figure in FIGURES
        if figure.group == MACHINE and results.entry(MACHINE, figure)
    ]


def as_text(results: Results) -> str:
    """Everything, for a terminal."""
    parts = [_aligned(rows(results))]
    if machine := machine_rows(results):
        parts.append(_aligned([["the machine itself", ""], *machine]))
    parts.append(summary(results))
    return "\n\n".join(parts)


def summary(results: Results) -> str:
    """Targets, who is not here, what failed."""
    document = results.document
    met, missed = results.met_and_missed()
    lines = [f"In brackets: how many times better nbray is. {MISSING}: cannot do it; the JSON says why."]
    if met or missed:
        names = f"; missed: {', '.join(missed)}" if missed else ""
        lines.append(f"Targets: {len(met)} of {len(met) + len(missed)} met{names}.")
    lines += [f"Not here: {name}: {reason}." for name, reason in document["absent"].items()]
    lines += [
        f"FAILED {f['contender']} {'+'.join(f['groups'])} (round {f['round']}): {f['reason']}"
        for f in document["failures"]
    ]
    lines += [
        f"LEFT BEHIND by {one['contender']}, {'+'.join(one['groups'])}: {', '.join(one['processes'])}"
        for one in document["left_behind"]
    ]
    if document["quick"]:
        lines.append(
            "This was a quick run with small counts: it shows that everything works, and no figures."
        )
    return "\n".join(lines)


def _aligned(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
