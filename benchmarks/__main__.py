"""``python -m benchmarks``: run the suite, print its table, write its JSON.

Called by:  `make bench`, people.
Imports:    the standard library, the rest of benchmarks.
Never:      is a test: the machine's other work moves every figure, so compare ratios of one run.

Each contender runs each group of workloads in a fresh process, the contenders in turn, for some rounds; the table
shows medians. Exit status 1: something that should have worked did not.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
import time
from pathlib import Path

from benchmarks import adapters, processes, runner, table
from benchmarks.adapters import is_installed
from benchmarks.figures import FIGURES, text_of
from benchmarks.results import Results
from benchmarks.workloads import GROUPS, MACHINE

_DEADLINE_S = 120.0
_QUICK_DEADLINE_S = 60.0
_QUICK_CONTENDERS = ["nbray", "futures"]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = _parser().parse_args(arguments)
    if options.list:
        print(_listing())
        return 0
    rounds = options.rounds or (1 if options.quick else 3)
    groups = _chosen(options.only, list(GROUPS), "group")
    wanted = _chosen(options.adapters, list(adapters.NAMES), "adapter")
    if options.quick and not options.adapters:
        wanted = _QUICK_CONTENDERS
    present = [name for name in wanted if is_installed(name)]
    absent = {name: "not installed" for name in wanted if name not in present}
    names = [*present, MACHINE] if MACHINE in groups else present

    began = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    results = Results.begin(names, absent, rounds=rounds, quick=options.quick, began=began)
    processes.become_subreaper()
    _measure(results, names, groups, rounds, quick=options.quick, deadline_s=options.deadline)
    results.close()
    if options.json:
        results.save(options.json)
        _progress(f"wrote {options.json}")
    print(table.as_text(results))
    return 1 if results.document["failures"] else 0


def _measure(
    results: Results,
    names: list[str],
    groups: list[str],
    rounds: int,
    *,
    quick: bool,
    deadline_s: float | None,
) -> None:
    if deadline_s is None:
        deadline_s = _QUICK_DEADLINE_S if quick else _DEADLINE_S
    began_s = time.monotonic()
    plan = [
        (number, group, name)
        for number, group, name in itertools.product(range(1, rounds + 1), groups, names)
        if (group == MACHINE) == (name == MACHINE)
    ]
    for done, (number, group, name) in enumerate(plan):
        at = f"[{done + 1}/{len(plan)}, {time.monotonic() - began_s:.0f} s]"
        _progress(f"{at} round {number}: {group}: {name}")
        outcome = runner.run(name, group, quick=quick, deadline_s=deadline_s)
        results.add(outcome, number)
        if outcome.failure:
            _progress(f"    FAILED: {outcome.failure}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _chosen(given: str | None, known: list[str], what: str) -> list[str]:
    if given is None:
        return known
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SystemExit(f"There is no {what} {name!r}; there are: {', '.join(known)}.")
    return [name for name in known if name in names]


def _listing() -> str:
    lines = ["groups (--only), with their figures and targets:"]
    for name, group in GROUPS.items():
        lines.append(f"  {name:12}{group.title}")
        for figure in (f for f in FIGURES if f.group == name):
            target = "" if figure.target is None else f", target {text_of(figure.target, figure.unit)}"
            lines.append(
                f"      {figure.key:18}{figure.title.strip()} ({figure.unit}, {figure.better} is better{target})"
            )
    lines.append("adapters (--adapters):")
    for name in adapters.NAMES:
        lines.append(
            f"  {name:12}{adapters.load(name).title}{'' if is_installed(name) else ' (not installed)'}"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=text.split("\n\n")[-1],
        epilog="The whole suite takes about a quarter of an hour. Let the machine do nothing else meanwhile.",
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="fresh processes per contender and group (default 3)"
    )
    parser.add_argument("--only", metavar="GROUPS", help="these groups of workloads, with commas: sync,async")
    parser.add_argument("--adapters", metavar="NAMES", help="these contenders, with commas: nbray,ray")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all rounds, medians and versions there"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small counts, one round, nbray and the pool: does it work?"
    )
    parser.add_argument(
        "--deadline", type=float, metavar="S", help="seconds that one process may take (default 120)"
    )
    parser.add_argument("--list", action="store_true", help="print groups, figures, targets and adapters")
    return parser


if __name__ == "__main__":
    sys.exit(main())
