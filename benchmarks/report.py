"""Stored results as a page and a chart: ``python -m benchmarks.report docs/benchmarks.json``.

Called by:  benchmarks.__main__ (--docs), people who changed the page or the chart.
Imports:    benchmarks.chart, benchmarks.table, benchmarks.results.
Never:      measures; touches the page outside its two marks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import chart, table
from benchmarks.figures import FIGURES, count_text
from benchmarks.results import OURS, Results
from benchmarks.workloads import MACHINE

BEGIN = "<!-- figures: written by `make bench-docs`, do not edit -->"
END = "<!-- end of the figures -->"
PAGE, CHART = "benchmarks.md", "benchmarks.svg"


def write(results: Results, folder: Path) -> None:
    """Put the figures into ``benchmarks.md`` and draw ``benchmarks.svg``, both in this folder.

    Raises:
        ValueError: the page lacks the marks between which the figures go.
    """
    page = folder / PAGE
    page.write_text(filled(page.read_text(), results))
    (folder / CHART).write_text(chart.svg(results))


def filled(page: str, results: Results) -> str:
    """The page with these results between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs the lines {BEGIN!r} and {END!r}: the figures go between them.")
    return f"{before}{BEGIN}\n\n{section(results)}\n\n{END}{after}"


def section(results: Results) -> str:
    """Everything that changes from run to run, as Markdown."""
    met, missed = results.met_and_missed()
    parts = [
        _where(results),
        f"![How many times better nbray is than each of the others]({CHART})",
        f"**Targets: {len(met)} of {len(met) + len(missed)} met.**",
        _markdown(table.rows(results)),
    ]
    if machine := table.machine_rows(results):
        parts.append(_markdown([["the machine itself", ""], *machine]))
    if notes := _notes(results):
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def _where(results: Results) -> str:
    document = results.document
    machine = document["machine"]
    versions = ", ".join(f"{one['title']} {one['version']}" for one in document["contenders"].values())
    return (
        f"Measured {document['began'][:10]} on {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, Python {machine['python']}: "
        f"{versions}. Medians of {document['rounds']} rounds."
    )


def _markdown(rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    aligned = ["---", *["--:"] * (len(rows[0]) - 1)]
    return "\n".join([line(rows[0]), line(aligned), *(line([c.strip() for c in row]) for row in rows[1:])])


def _notes(results: Results) -> list[str]:
    """Why cells are empty, where counts were cut, what went wrong."""
    document = results.document
    notes = [f"{name}: {reason}." for name, reason in document["absent"].items()]
    for name in results.contenders:
        reasons: dict[str, list[str]] = {}
        cut = []
        for figure in FIGURES:
            entry = results.entry(name, figure)
            if "median" in entry:
                if (fewer := _fewer(results, name, figure.key)) is not None:
                    cut.append(f"{figure.title.strip()}: {count_text(fewer)}")
            elif reason := entry.get("missing"):
                reasons.setdefault(reason, []).append(figure.title.strip())
        notes += [
            f"{results.title(name)}, {table.MISSING}: {reason} ({'; '.join(titles)})."
            for reason, titles in reasons.items()
        ]
        if cut:
            notes.append(f"{results.title(name)}, counts cut to fit its time ({'; '.join(cut)}).")
    notes += [
        f"FAILED: {f['contender']}, {'+'.join(f['groups'])}, round {f['round']}: {f['reason']}"
        for f in document["failures"]
    ]
    return notes


def _fewer(results: Results, name: str, key: str) -> int | None:
    """The smallest count of this contender, where it is below nbray's."""
    figures = results.document["figures"]

    def least(contender: str) -> int | None:
        counts = [
            one["count"]
            for one in figures.get(contender, {}).get(key, {}).get("rounds", [])
            if "count" in one
        ]
        return min(counts) if counts else None

    ours, theirs = least(OURS), least(name)
    return theirs if name not in {OURS, MACHINE} and ours and theirs and theirs < ours else None


def main() -> None:
    """Write page and chart anew from a stored file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=main.__doc__)
    parser.add_argument("json", type=Path, help="what `python -m benchmarks --json FILE` wrote")
    parser.add_argument("--into", type=Path, help="the folder of benchmarks.md (default: that of the file)")
    options = parser.parse_args()
    write(Results.load(options.json), options.into or options.json.parent)


if __name__ == "__main__":
    main()
