"""``python -m benchmarks``: run the suite, print its table, write its JSON.

Called by:  `make bench`, people.
Imports:    the standard library, the rest of benchmarks.
Never:      is a test: the machine's other work moves every figure, so compare ratios of one run.

Each contender runs each group of workloads in a fresh process, the contenders in turn, for some rounds;
the table shows medians. Exit status 1: something that should have worked did not.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
import time
from pathlib import Path

from benchmarks import adapters, processes, report, runner, table
from benchmarks.adapters import is_installed
from benchmarks.figures import FIGURES, text_of
from benchmarks.results import Results
from benchmarks.workloads import GROUPS, MACHINE

_DEADLINE_S = 120.0
_QUICK_DEADLINE_S = 60.0
_QUIET = 0.5  # load average of a machine that is fit to measure on
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
    busy = results.document["machine"]["load_at_start"]
    if busy > _QUIET and not options.quick:
        _progress(
            f"The machine is busy already (load {busy:.1f}): figures will be worse than they should be."
        )
    interrupted = False
    try:
        _measure(results, names, groups, rounds, quick=options.quick, deadline_s=options.deadline)
    except KeyboardInterrupt:
        interrupted = True
        _progress("Interrupted; this is what was measured until then.")
    results.close()
    if options.json:
        results.save(options.json)
        _progress(f"wrote {options.json}")
    if options.docs and not interrupted:
        results.save(options.docs / "benchmarks.json")
        report.write(results, options.docs)
        _progress(f"wrote page, chart and results into {options.docs}")
    print(table.as_text(results))
    return 1 if interrupted or results.document["failures"] else 0


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
        (number, together, name)
        for number, together, name in itertools.product(
            range(1, rounds + 1), _processes(groups, quick), names
        )
        if (together == (MACHINE,)) == (name == MACHINE)
    ]
    for done, (number, together, name) in enumerate(plan):
        at = f"[{done + 1}/{len(plan)}, {time.monotonic() - began_s:.0f} s]"
        _progress(f"{at} round {number}: {', '.join(together)}: {name}")
        outcome = runner.run(name, together, quick=quick, deadline_s=deadline_s)
        results.add(outcome, number)
        if outcome.failure:
            # Not for the file: it holds paths of this machine.
            _progress(f"    FAILED: {outcome.failure}\n{outcome.output_tail}")


def _processes(groups: list[str], quick: bool) -> list[tuple[str, ...]]:
    """Which groups share a process: none, but for a quick run, where equal sessions are started once."""
    if not quick:
        return [(group,) for group in groups]
    alike = tuple(group for group in groups if GROUPS[group].workers == 2)
    return [*([alike] if alike else []), *((group,) for group in groups if group not in alike)]


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
            about = f"{figure.unit}, {figure.better} is better{target}"
            lines.append(f"      {figure.key:18}{figure.title.strip()} ({about})")
    lines.append("adapters (--adapters):")
    lines += [
        f"  {name:12}{adapters.load(name).title}{'' if is_installed(name) else ' (not installed)'}"
        for name in adapters.NAMES
    ]
    return "\n".join(lines)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=text.split("\n\n")[-1],
        epilog="The whole suite takes about twenty minutes. Let the machine do nothing else meanwhile.",
    )
    add = parser.add_argument
    add("--rounds", type=_positive, metavar="N", help="fresh processes per contender and group (default 3)")
    add("--only", metavar="GROUPS", help="these groups of workloads, with commas: sync,async")
    add("--adapters", metavar="NAMES", help="these contenders, with commas: nbray,ray")
    add("--json", type=Path, metavar="FILE", help="write all rounds, medians and versions there")
    add(
        "--docs",
        type=Path,
        metavar="FOLDER",
        help="write benchmarks.json there, and page and chart made of it",
    )
    add("--quick", action="store_true", help="does it all work? small counts, one round, nbray and the pool")
    add("--deadline", type=float, metavar="S", help="seconds that one process may take (default 120)")
    add("--list", action="store_true", help="print groups, figures, targets and adapters")
    return parser


if __name__ == "__main__":
    sys.exit(main())
