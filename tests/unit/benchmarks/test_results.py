"""Results of a benchmark run: medians, targets, what is missing, what failed; table, page and chart."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chart, report, table
from benchmarks.figures import BY_KEY
from benchmarks.results import Results
from benchmarks.runner import Outcome

DOCS = Path(__file__).parents[3] / "docs"
PAGE = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"


def measured(figure: str, value: float, **about: Any) -> dict[str, Any]:
    return {"figure": figure, "value": value, "about": about}


def a_run() -> Results:
    """Three rounds of nbray and the pool: a target met, one missed, a figure that the pool cannot have."""
    results = Results.begin(
        ["nbray", "futures"], {"ray": "not installed"}, rounds=3, quick=False, began="2025-01-01"
    )
    for number, rate in enumerate((30_000.0, 20_000.0, 90_000.0), 1):
        results.add(Outcome("nbray", ("sync",), [measured("sync_rate", rate, count=5_000)]), number)
        results.add(Outcome("futures", ("sync",), [measured("sync_rate", rate / 10, count=700)]), number)
        results.add(Outcome("nbray", ("graphs",), [measured("chain", 0.2)]), number)
        results.add(
            Outcome("futures", ("graphs",), [{"figure": "chain", "missing": "no references"}]), number
        )
    results.close()
    return results


def row(results: Results, title: str) -> list[str]:
    (found,) = (cells for cells in table.rows(results) if cells[0] == title)
    return found


def test_the_median_of_the_rounds_counts() -> None:
    results = a_run()

    assert results.median("nbray", BY_KEY["sync_rate"]) == 30_000
    assert results.advantage("futures", BY_KEY["sync_rate"]) == 10


def test_the_table_shows_target_verdict_and_ratio() -> None:
    results = a_run()

    assert row(results, "sync tasks") == ["sync tasks", "30 000 /s", "≥ 15 000 /s", "met", "3 000 /s (10x)"]
    assert row(results, "chain of 1 000 dependent tasks")[1:] == [
        "200 ms",
        "≤ 100 ms",
        "missed",
        table.MISSING,
    ]
    assert "Targets: 1 of 2 met; missed: chain." in table.summary(results)
    assert "Not here: ray: not installed." in table.summary(results)


def test_a_child_that_died_fails_the_figures_that_it_had_not_written() -> None:
    results = Results.begin(["nbray"], {}, rounds=1, quick=False, began="2025-01-01")

    results.add(Outcome("nbray", ("sync",), [measured("sync_rate", 1.0)], failure="ended with status 3"), 1)
    results.close()

    assert results.median("nbray", BY_KEY["sync_rate"]) == 1.0
    assert results.entry("nbray", BY_KEY["sync_p50"])["failed"] == "ended with status 3"
    assert "FAILED nbray sync (round 1): ended with status 3" in table.summary(results)


def test_results_survive_being_stored(tmp_path: Path) -> None:
    results = a_run()

    results.save(tmp_path / "new" / "results.json")

    assert Results.load(tmp_path / "new" / "results.json").document == results.document


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"schema": 0}')

    with pytest.raises(ValueError, match="schema 0"):
        Results.load(tmp_path / "results.json")


def test_the_page_keeps_its_words_and_gets_new_figures() -> None:
    page = report.filled(PAGE, a_run())

    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| sync tasks | 30 000 /s | ≥ 15 000 /s | met | 3 000 /s (10x) |" in page
    assert "no references (chain of 1 000 dependent tasks)" in page
    assert "counts cut to fit its time (sync tasks: 700)" in page
    assert report.filled(page, a_run()) == page


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        report.filled("no marks", a_run())


def test_the_chart_marks_each_ratio_and_is_the_same_each_time() -> None:
    drawing = chart.svg(a_run())

    texts = [element.text or "" for element in ET.fromstring(drawing).iter()]
    assert "concurrent.futures: 3 000 /s (10x)" in texts
    assert "chain of 1 000 dependent tasks" not in texts, "a row without a ratio"
    assert "prefers-color-scheme:dark" in drawing
    assert chart.svg(a_run()) == drawing


def test_page_and_chart_in_the_docs_are_what_the_stored_run_gives() -> None:
    results = Results.load(DOCS / "benchmarks.json")

    page = (DOCS / report.PAGE).read_text()
    assert report.filled(page, results) == page, "python -m benchmarks.report docs/benchmarks.json"
    assert (DOCS / report.CHART).read_text() == chart.svg(results)
