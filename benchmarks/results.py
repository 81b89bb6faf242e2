"""The results of a run: figures of each round, medians, targets met and missed; the shape of the JSON file.

Called by:  benchmarks.__main__ fills it; benchmarks.table, benchmarks.report and benchmarks.chart read it.
Imports:    the standard library, benchmarks.figures.
Never:      measures; names the machine by more than its make.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import adapters
from benchmarks.figures import FIGURES, Figure
from benchmarks.runner import Outcome
from benchmarks.workloads import MACHINE

SCHEMA = 1
OURS = "nbray"


class Results:
    """All that a run found out. ``document`` is what goes into the file."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    @classmethod
    def begin(
        cls, names: list[str], absent: dict[str, str], *, rounds: int, quick: bool, began: str
    ) -> Results:
        """An empty sheet for these contenders; ``absent`` are the others and why they are not here."""
        return cls({
            "schema": SCHEMA,
            "began": began,
            "rounds": rounds,
            "quick": quick,
            "machine": _machine(),
            "contenders": {
                name: {"title": _title(name), "version": _version(name)} for name in names if name != MACHINE
            },
            "absent": absent,
            "figures": {name: {} for name in names},
            "failures": [],
            "left_behind": [],
        })  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that ``save`` wrote.

        Raises:
            ValueError: it is of another shape.
        """
        document = json.loads(path.read_text())
        if document.get("schema") != SCHEMA:
            raise ValueError(f"{path} has schema {document.get('schema')!r}; this program reads {SCHEMA}.")
        return cls(document)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.document, indent=1, ensure_ascii=False) + "\n")

    # --- filling --------------------------------------------------------------------------------------

    def add(self, outcome: Outcome, round_number: int) -> None:
        """Take in what one child wrote down."""
        sheet = self.document["figures"][outcome.contender]
        seen = set()
        for line in outcome.lines:
            key = line["figure"]
            seen.add(key)
            entry = sheet.setdefault(key, {"rounds": []})
            if "value" in line:
                entry["rounds"].append({"round": round_number, "value": line["value"], **line["about"]})
            elif "missing" in line:
                entry["missing"] = line["missing"]
            else:
                entry.setdefault("failed", line["failed"])
                self._fail(outcome, round_number, f"{key}: {line['failed']}")
        if outcome.failure:
            self._fail(outcome, round_number, outcome.failure)
            for figure in FIGURES:
                if figure.group in outcome.groups and figure.key not in seen:
                    sheet.setdefault(figure.key, {"rounds": []}).setdefault("failed", outcome.failure)
        if outcome.left_behind:
            self.document["left_behind"].append({
                "contender": outcome.contender, "groups": list(outcome.groups), "round": round_number,
                "processes": outcome.left_behind,
            })  # fmt: skip

    def _fail(self, outcome: Outcome, round_number: int, reason: str) -> None:
        self.document["failures"].append({
            "contender": outcome.contender, "groups": list(outcome.groups),
            "round": round_number, "reason": reason,
        })  # fmt: skip

    def close(self) -> None:
        """Compute the medians, and which targets are met."""
        for sheet in self.document["figures"].values():
            for entry in sheet.values():
                if entry["rounds"]:
                    entry["median"] = statistics.median(one["value"] for one in entry["rounds"])
        self.document["targets"] = {
            figure.key: {
                "target": figure.target, "better": figure.better, "value": value, "met": figure.meets(value),
            }
            for figure in FIGURES
            if figure.target is not None and (value := self.median(OURS, figure)) is not None
        }  # fmt: skip

    # --- reading --------------------------------------------------------------------------------------

    @property
    def contenders(self) -> list[str]:
        return list(self.document["contenders"])

    def title(self, contender: str) -> str:
        title: str = self.document["contenders"][contender]["title"]
        return title

    def median(self, contender: str, figure: Figure) -> float | None:
        value: float | None = self.entry(contender, figure).get("median")
        return value

    def entry(self, contender: str, figure: Figure) -> dict[str, Any]:
        """What is known: ``rounds``, ``median``, ``missing`` or ``failed`` with a reason."""
        entry: dict[str, Any] = self.document["figures"].get(contender, {}).get(figure.key, {})
        return entry

    def advantage(self, contender: str, figure: Figure) -> float | None:
        """How many times better nbray is than this contender."""
        ours, theirs = self.median(OURS, figure), self.median(contender, figure)
        return None if ours is None or theirs is None else figure.advantage(ours, theirs)

    def met_and_missed(self) -> tuple[list[str], list[str]]:
        """Keys of the figures whose targets were met, and missed."""
        targets = self.document["targets"]
        return [k for k, t in targets.items() if t["met"]], [k for k, t in targets.items() if not t["met"]]


def _title(name: str) -> str:
    return adapters.load(name).title


def _version(name: str) -> str:
    package = adapters.load(name).package
    return metadata.version(package) if package else platform.python_version()


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
